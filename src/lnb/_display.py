"""How runs that take turns are shown while they go."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lnb import experiments as ex

_REPORTS = 4  # lines that a run prints on the way where there is no terminal for a progress bar


class Display:
    """Tells how runs go: by progress bars on a terminal, else by a few lines for each run."""

    def __init__(self, console: Console, names: Sequence[str], total: int) -> None:
        self._console = console
        self._total = total
        self._last: dict[str, ex.Record] = {}
        self._width = max(map(len, names))
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=9),
            TextColumn("{task.completed:,}/{task.total:,}"),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {
            name: self._progress.add_task(name.ljust(self._width), total=total, state="compiling") for name in names
        }

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._progress.stop()

    def show(self, name: str, record: ex.Record) -> None:
        """Take a record in."""
        before = self._last.get(name)
        self._last[name] = record
        self._progress.update(self._bars[name], completed=record.step, state=_describe(record))
        quarter = record.step * _REPORTS // self._total
        if before is None or quarter > before.step * _REPORTS // self._total:
            self._print_line(name, record, "" if record.step else " (before training)")

    def fail(self, name: str) -> None:
        """The run has failed, with the exception that is being handled."""
        Console(stderr=True).print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
        self._progress.update(self._bars[name], state="failed")
        self._progress.stop_task(self._bars[name])

    def finish(self, name: str) -> None:
        """The run has ended."""
        record = self._last[name]
        note = "" if record.finite else "diverged"
        if record.finite and record.step < self._total:
            note = "target reached"
        self._progress.update(self._bars[name], state=f"{_describe(record)} {note}")
        self._progress.stop_task(self._bars[name])
        if note:
            self._print_line(name, record, f" ({note})")

    def _print_line(self, name: str, record: ex.Record, note: str) -> None:
        if not self._console.is_terminal:
            self._console.print(
                f"{name.ljust(self._width)}  step {record.step:>6,}  {_describe(record)}{note}",
                highlight=False,
                soft_wrap=True,
            )


def _describe(record: ex.Record) -> str:
    parts = [f"loss {record.loss:<9.4g}"]
    if "accuracy" in record.metrics:
        parts.append(f"accuracy {record.metrics['accuracy']:6.2%}")
    if record.milliseconds is not None:
        parts.append(f"{record.milliseconds:.3g} ms/step")
    return "  ".join(parts)
