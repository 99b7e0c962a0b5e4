"""A run whose records and checkpoints are in files, so that it can go on after its process has ended.

A record is written before a checkpoint that counts on it is saved. Records later than the newest checkpoint are cut off
before a run goes on from there. So a run whose process is killed at any moment comes out with the records that it would
have had otherwise.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

from lnb_experiments._errors import ExperimentError
from lnb_experiments.runs._records import RecordWriter, Run, RunHeader
from lnb_experiments.runs._training import Progress, Record, Training

PyTree = Any

_LEAVING = "leaving"  # the subfolder in which Orbax deletes old checkpoints


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing records to a folder meanwhile; the lock ends with the process at the latest.

    Raises:
        ExperimentError: another process has the lock, or the folder cannot be written.
    """
    lock = filelock.FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ExperimentError(f"`output` is in use: another process writes its runs to {folder}.") from None
    except OSError as error:
        raise ExperimentError(f"`output` cannot be written: {folder}: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()


class StoredRun:
    """A run with its files: `NAME.jsonl` of records, and beside it the folder `NAME.checkpoint`.

    Either `start` or `resume` comes first. Whatever writes raises an `ExperimentError` where it cannot.

    Args:
        training: the run.
        path: of the records.
        checkpoint_every: steps from one checkpoint to the next; None where `save` alone saves one.
    """

    def __init__(self, training: Training, path: Path, checkpoint_every: int | None = None) -> None:
        if checkpoint_every is not None and checkpoint_every < 1:
            raise ExperimentError(f"`checkpoint_every` must be at least 1, got {checkpoint_every}.")
        self.training = training
        self.path = path
        self.folder = checkpoint_folder(path)
        self._every = checkpoint_every
        self._writer: RecordWriter | None = None
        self._manager: Any = None
        self._saved: int | None = None

    def start(self, header: RunHeader) -> None:
        """Start from the beginning; what an earlier run left is replaced."""
        remove_checkpoint(self.path)
        self._open()
        self._writer = RecordWriter(self.path, header)

    def resume(self, previous: Run) -> bool:
        """Go on from the newest checkpoint.

        Args:
            previous: the run at `path`.

        Returns:
            Whether there is a checkpoint.

        Raises:
            ExperimentError: the checkpoint cannot be read, or is of another run than the records.
        """
        if not self.folder.is_dir():
            return False
        self._open()
        with self._as_experiment_error("read"):
            step = self._manager.latest_step()
        if step is None:
            return False
        progress = self._restore(step)
        seconds = [record.seconds for record in previous.records if record.step <= progress.step]
        if seconds[-1:] != [progress.recorded_seconds]:
            raise ExperimentError(
                f"`resume` finds records and a checkpoint that do not belong together: {self.path}, "
                f"{self.folder}. Start again without `--resume`."
            )
        self.training.resume(progress)
        self._writer = RecordWriter(self.path, step=progress.step)
        return True

    def advance(self, stop: Callable[[], bool] = lambda: False) -> Record | None:
        """Train to the next record and write it, saving checkpoints on the way.

        Args:
            stop: asked before every step; the run stands still once it is true.

        Returns:
            The record; None if `stop` came before it.
        """
        record = None
        while record is None and not stop():
            step = self.training.progress.step
            until = None if self._every is None else (step // self._every + 1) * self._every
            record = self.training.advance(until, stop)
            if record is not None:
                self._records.write(record)
            if self._every is not None and self.training.progress.step % self._every == 0:
                self.save()
        return record

    def profile(self, steps: int) -> Path:
        """Write a trace of so many further steps, taken on copies, to the folder `NAME.profile`; that folder."""
        folder = self.path.with_suffix(".profile")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExperimentError(f"`output` cannot be written: {folder}: {error.strerror}.") from error
        self.training.profile(folder, steps)
        return folder

    def save(self) -> None:
        """Save a checkpoint of where the run stands, if it has begun and is not over."""
        progress = self.training.progress
        if not self.training.has_begun or self.training.is_over or self._manager.latest_step() == progress.step:
            return
        import orbax.checkpoint as ocp

        self._records.sync()
        losses = np.asarray(jax.device_get(progress.losses))
        rest = {
            "seconds": progress.seconds,
            "recorded_seconds": progress.recorded_seconds,
            "losses": losses.astype(float).tolist(),  # exact: JSON keeps every digit of 64 bits
            "losses_dtype": losses.dtype.name,
        }
        arrays = ocp.args.StandardSave(_named((progress.params, progress.state)))
        args = ocp.args.Composite(arrays=arrays, rest=ocp.args.JsonSave(rest))
        with self._as_experiment_error("written"):
            self._manager.save(progress.step, args=args)
            self._saved = progress.step
            if (self.folder / _LEAVING).is_dir():
                shutil.rmtree(self.folder / _LEAVING)

    def end(self) -> None:
        """Write the run's cost, which marks it as whole, and delete its checkpoint."""
        self._records.write_cost(self.training.cost())
        self._records.sync()
        self.close()
        remove_checkpoint(self.path)

    def close(self) -> None:
        """Leave the files as they are."""
        if self._writer is not None:
            self._writer.close()
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _open(self) -> None:
        import orbax.checkpoint as ocp  # half a second, which commands without checkpoints do without

        # A save returns when it is done: a run saves between two steps, with the clock stopped.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True, todelete_subdir=_LEAVING
        )
        with self._as_experiment_error("written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.folder.absolute(), options=options)

    def _restore(self, step: int) -> Progress:
        import orbax.checkpoint as ocp

        tree = (self.training.progress.params, self.training.progress.state)
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(_named(tree)), rest=ocp.args.JsonRestore())
        with self._as_experiment_error("read"):
            restored = self._manager.restore(step, args=args)
        leaves, structure = jax.tree.flatten(tree)
        filled = [restored["arrays"].get(str(place), leaf) for place, leaf in enumerate(leaves)]
        params, state = jax.tree.unflatten(structure, filled)
        rest = restored["rest"]
        losses = np.asarray(rest["losses"]).astype(rest["losses_dtype"])
        return Progress(params, state, step, rest["seconds"], rest["recorded_seconds"], tuple(losses))

    @property
    def _records(self) -> RecordWriter:
        assert self._writer is not None, "`start` or `resume` comes first"
        return self._writer

    @contextlib.contextmanager
    def _as_experiment_error(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, TypeError, KeyError) as error:  # TensorStore's errors are ValueErrors
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            kept = "" if self._saved is None else f" Kept is the checkpoint of step {self._saved}."
            raise ExperimentError(f"`output` cannot be {what}: {self.folder}: {reason}.{kept}") from error


def checkpoint_folder(path: Path) -> Path:
    """The folder of the checkpoints of the run whose records are at `path`."""
    return path.with_suffix(".checkpoint")


def remove_checkpoint(path: Path) -> None:
    """Delete the checkpoints of the run whose records are at `path`; at no moment is half of one left in its place."""
    folder = checkpoint_folder(path)
    leaving = folder.with_name(f"{folder.name}.removed")
    try:
        shutil.rmtree(leaving, ignore_errors=True)
        if folder.is_dir():
            folder.rename(leaving)
            shutil.rmtree(leaving)
    except OSError as error:
        raise ExperimentError(f"`output` cannot be written: {folder}: {error.strerror}.") from error


def _named(tree: PyTree) -> dict[str, Any]:
    """The arrays by their place in the tree, without those of no elements, which Orbax refuses."""
    return {str(place): leaf for place, leaf in enumerate(jax.tree.leaves(tree)) if np.size(leaf)}
