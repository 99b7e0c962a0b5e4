"""Runs that are interleaved, a record each: whatever else keeps the machine busy slows them all alike."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

from lnb_experiments._errors import ExperimentError
from lnb_experiments.cli._show import Display
from lnb_experiments.runs._stored import StoredRun
from lnb_experiments.tasks._task import Task


class InterleavedRuns:
    """Runs that train one task in turns; one that fails or diverges leaves the others alone.

    Args:
        task: the task.
        running: the runs by name, out of which each is taken when it ends.
        display: shows how they go.
    """

    def __init__(self, task: Task, running: dict[str, StoredRun], display: Display) -> None:
        self.failures: dict[str, str] = {}
        """The reason of each failure, by the name of the run."""
        self._task = task
        self._running = running
        self._display = display

    def compile(self) -> None:
        """Compile every run, before any trains."""
        for name in list(self._running):
            with self._failing_alone(name):
                self._running[name].training.compile()

    def profile(self, steps: int) -> list[Path]:
        """Profile so many steps of every run; the folders of the profiles."""
        folders: list[Path] = []
        for name in list(self._running):
            with self._failing_alone(name):
                folders.append(self._running[name].profile(steps))
        return folders

    def train(self) -> bool:
        """Train until every run has ended, or until Ctrl-C, which saves a checkpoint of each that is still running.

        Returns:
            Whether the runs have ended.
        """
        with _Interruption() as interruption:
            while self._running:
                for name in list(self._running):
                    with self._failing_alone(name):
                        self._advance(name, interruption)
                    if interruption.came:
                        for run in self._running.values():
                            run.save()
                        return not self._running
        return True

    def _advance(self, name: str, interruption: _Interruption) -> None:
        run = self._running[name]
        record = run.advance(lambda: interruption.came)
        if record is None:
            return
        self._display.show(name, record)
        at_target = self._task.stop_at_target and self._task.target.reached(record.metrics)
        if at_target or run.training.is_over:
            run.end()
            del self._running[name]
            self._display.finish(name)

    @contextlib.contextmanager
    def _failing_alone(self, name: str) -> Iterator[None]:
        """Keep a failure of one run from the others, and its records. A disk that fails is every run's failure."""
        try:
            yield
        except ExperimentError:
            raise
        except Exception as error:
            self.failures[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
            self._display.fail(name)
            self._running.pop(name).close()


class _Interruption:
    """Ctrl-C, which counts between two steps; a second one acts at once."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> Self:
        self._before: Any = signal.signal(signal.SIGINT, self._on_sigint)
        return self

    def __exit__(self, *raised: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _on_sigint(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
