"""Checkpoints: where a run stands, saved with Orbax so that it can go on after its process has ended.

Orbax writes a checkpoint beside its place and renames it when it is whole; one that is left behind is moved away before
it is deleted. So whatever moment a process is killed at, every checkpoint that bears its name is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lnb.experiments._errors import ExperimentError
from lnb.experiments._training import Progress

PyTree = Any

_LEAVING = "leaving"  # the subfolder to which old checkpoints are moved and in which they are deleted


class Checkpoints:
    """The checkpoints of one run in a folder of their own. The newest is kept.

    Every method raises an `ExperimentError` where the folder cannot be written or read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: Any = None
        self._saved: int | None = None

    @classmethod
    def beside(cls, path: Path) -> Checkpoints:
        """Those of the run whose records are at `path`: `NAME.checkpoint` for `NAME.jsonl`."""
        return cls(path.with_suffix(".checkpoint"))

    def create(self) -> None:
        """Make the folder, empty."""
        self.remove()
        with self._told("written"):
            self.folder.mkdir(parents=True)

    def latest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        if not self.folder.is_dir():
            return None
        with self._told("read"):
            return self._manager.latest_step()

    def save(self, progress: Progress) -> None:
        """Save where a run stands, and delete what was saved before."""
        if self.latest() == progress.step:
            return
        import orbax.checkpoint as ocp

        losses = np.asarray(jax.device_get(progress.losses))
        rest = {
            "seconds": progress.seconds,
            "recorded_seconds": progress.recorded_seconds,
            "losses": losses.astype(float).tolist(),  # exact: JSON keeps every digit of 64 bits
            "losses_dtype": losses.dtype.name,
        }
        arrays = ocp.args.StandardSave(_named((progress.params, progress.state)))
        args = ocp.args.Composite(arrays=arrays, rest=ocp.args.JsonSave(rest))
        with self._told("written"):
            self._manager.save(progress.step, args=args)
            self._saved = progress.step
            if (self.folder / _LEAVING).is_dir():
                shutil.rmtree(self.folder / _LEAVING)

    def restore(self, like: Progress) -> Progress:
        """The newest checkpoint.

        Args:
            like: of an equal run at any step, whose arrays have the shapes and the devices.
        """
        import orbax.checkpoint as ocp

        step = self.latest()
        assert step is not None, "`latest` says whether there is one"
        tree = (like.params, like.state)
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(_named(tree)), rest=ocp.args.JsonRestore())
        with self._told("read"):
            restored = self._manager.restore(step, args=args)
        params, state = _filled(tree, restored["arrays"])
        rest = restored["rest"]
        losses = np.asarray(rest["losses"]).astype(rest["losses_dtype"])
        return Progress(params, state, step, rest["seconds"], rest["recorded_seconds"], tuple(losses))

    def remove(self) -> None:
        """Delete the folder if there is one; at no moment does half a checkpoint bear its name."""
        self.close()
        leaving = self.folder.with_name(self.folder.name + ".removed")
        with self._told("written"):
            if leaving.is_dir():
                shutil.rmtree(leaving)
            if self.folder.is_dir():
                self.folder.rename(leaving)
                shutil.rmtree(leaving)

    def close(self) -> None:
        """Leave the folder as it is."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _manager(self) -> Any:
        if self._opened is None:
            import orbax.checkpoint as ocp  # half a second, which commands without checkpoints do without

            # A save returns when it is done: a run saves between two steps, with the clock stopped.
            options = ocp.CheckpointManagerOptions(
                max_to_keep=1,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
                todelete_subdir=_LEAVING,
            )
            self._opened = ocp.CheckpointManager(self.folder.absolute(), options=options)
        return self._opened

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Tell of what goes wrong in the words of an experiment."""
        try:
            yield
        except (OSError, ValueError, TypeError, KeyError) as error:  # TensorStore's errors are ValueErrors
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            kept = "" if self._saved is None else f" Kept is the checkpoint of step {self._saved}."
            raise ExperimentError(f"`output` cannot be {what}: {self.folder}: {reason}.{kept}") from error


def _named(tree: PyTree) -> dict[str, Any]:
    """The arrays by their place in the tree, without those of no elements, which Orbax refuses."""
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree)) if np.size(leaf)}


def _filled(tree: PyTree, named: dict[str, Any]) -> PyTree:
    """The tree with the arrays that `_named` gave."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [named.get(str(i), leaf) for i, leaf in enumerate(leaves)])
