"""A run whose records and checkpoints are in files, so that it can go on after its process has ended.

A record is written before a checkpoint that counts on it is saved, and what was written after the newest checkpoint
is cut off before a run goes on from there: whenever a process is killed, the records come out as if it never was.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lnb.experiments._checkpoints import Checkpoints
from lnb.experiments._errors import ExperimentError
from lnb.experiments._records import RecordWriter, Run, RunHeader
from lnb.experiments._training import Record, Training


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
        self.checkpoints = Checkpoints.beside(path)
        self._every = checkpoint_every
        self._writer: RecordWriter | None = None

    def start(self, header: RunHeader) -> None:
        """Start from the beginning; what an earlier run left is replaced."""
        self.checkpoints.create()
        self._writer = RecordWriter(self.path, header)

    def resume(self, begun: Run) -> bool:
        """Go on from the newest checkpoint.

        Args:
            begun: what is at `path`.

        Returns:
            Whether there is a checkpoint.

        Raises:
            ExperimentError: the checkpoint cannot be read, or is of another run than the records.
        """
        if self.checkpoints.latest() is None:
            return False
        progress = self.checkpoints.restore(self.training.progress)
        seconds = [record.seconds for record in begun.records if record.step <= progress.step]
        if seconds[-1:] != [progress.recorded_seconds]:
            raise ExperimentError(
                f"`resume` finds records and a checkpoint that do not belong together: {self.path}, "
                f"{self.checkpoints.folder}. Start again without `--resume`."
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
                self._files.write(record)
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
        if self.training.has_begun and not self.training.is_over:
            self._files.sync()
            self.checkpoints.save(self.training.progress)

    def end(self) -> None:
        """Write what the run cost, by which it is known to be whole, and delete its checkpoint."""
        self._files.write_cost(self.training.cost())
        self._files.sync()
        self.checkpoints.remove()
        self.close()

    def close(self) -> None:
        """Leave the files as they are."""
        if self._writer is not None:
            self._writer.close()
        self.checkpoints.close()

    @property
    def _files(self) -> RecordWriter:
        assert self._writer is not None, "`start` or `resume` comes first"
        return self._writer
