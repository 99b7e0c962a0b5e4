"""Runs that take turns: whatever else keeps the machine busy slows them all alike."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

from lnb import experiments as ex
from lnb._display import Display


class Turns:
    """The turns of runs that train one task, a record each; one that fails or diverges leaves the others alone.

    Args:
        task: what they train.
        going: the runs by name, out of which each is taken when it ends.
        display: where it is shown how they go.
    """

    def __init__(self, task: ex.Task, going: dict[str, ex.StoredRun], display: Display) -> None:
        self.failures: dict[str, str] = {}
        """What went wrong, by the name of the run."""
        self._task = task
        self._going = going
        self._display = display

    def compile(self) -> None:
        """Compile every run, before any trains."""
        for name in list(self._going):
            with self._failing_alone(name):
                self._going[name].training.compile()

    def profile(self, steps: int) -> list[Path]:
        """Profile so many steps of every run; where the profiles are."""
        folders: list[Path] = []
        for name in list(self._going):
            with self._failing_alone(name):
                folders.append(self._going[name].profile(steps))
        return folders

    def take(self) -> bool:
        """Train until every run has ended, or Ctrl-C, upon which a checkpoint of each that is still going is saved.

        Returns:
            Whether the runs have ended.
        """
        with _Interruption() as interruption:
            while self._going:
                for name in list(self._going):
                    with self._failing_alone(name):
                        self._take_one(name, interruption)
                    if interruption.came:
                        for run in self._going.values():
                            run.save()
                        return not self._going
        return True

    def _take_one(self, name: str, interruption: _Interruption) -> None:
        run = self._going[name]
        record = run.advance(lambda: interruption.came)
        if record is None:
            return
        self._display.show(name, record)
        at_target = self._task.stop_at_target and self._task.target.reached(record.metrics)
        if at_target or run.training.is_over:
            run.end()
            del self._going[name]
            self._display.finish(name)

    @contextlib.contextmanager
    def _failing_alone(self, name: str) -> Iterator[None]:
        """Keep what goes wrong in a run from the others; what it has is kept. A disk is every run's."""
        try:
            yield
        except ex.ExperimentError:
            raise
        except Exception as error:
            self.failures[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
            self._display.fail(name)
            self._going.pop(name).close()


class _Interruption:
    """Heeds Ctrl-C between two steps; a second one at once."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> Self:
        self._before: Any = signal.signal(signal.SIGINT, self._heed)
        return self

    def __exit__(self, *raised: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
