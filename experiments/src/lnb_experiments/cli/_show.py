"""The commands' output on the terminal: the progress of runs, and a table of those that have ended."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from lnb_experiments.runs._records import Run, read_run, summarize
from lnb_experiments.runs._training import Record

PLOT_NAME = "comparison.png"

_FILE_WIDTH = 160
_REPORTS = 4  # lines that a run prints on the way where there is no terminal for a progress bar


def standard_output() -> Console:
    """Standard output; where it is no terminal, wide enough that no table is broken."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=_FILE_WIDTH)


def standard_error() -> Console:
    """Standard error, for text that is printed as it is."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


class Display:
    """Shows how runs go: by progress bars on a terminal, else by a few lines for each run."""

    def __init__(self, console: Console, names: Sequence[str], total: int) -> None:
        self._console = console
        self._total = total
        self._last: dict[str, Record] = {}
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

    def show(self, name: str, record: Record) -> None:
        """Show a new record of a run."""
        before = self._last.get(name)
        self._last[name] = record
        self._progress.update(self._bars[name], completed=record.step, state=_describe(record))
        quarter = record.step * _REPORTS // self._total
        if before is None or quarter > before.step * _REPORTS // self._total:
            self._print_line(name, record, "" if record.step else " (before training)")

    def fail(self, name: str) -> None:
        """Show that a run has failed, with the exception that is being handled."""
        standard_error().print(traceback.format_exc())
        self._progress.update(self._bars[name], state="failed")
        self._progress.stop_task(self._bars[name])

    def finish(self, name: str) -> None:
        """Show that a run has ended."""
        record = self._last[name]
        note = "" if record.finite else "diverged"
        if record.finite and record.step < self._total:
            note = "target reached"
        self._progress.update(self._bars[name], state=f"{_describe(record)} {note}")
        self._progress.stop_task(self._bars[name])
        if note:
            self._print_line(name, record, f" ({note})")

    def _print_line(self, name: str, record: Record, note: str) -> None:
        if not self._console.is_terminal:
            self._console.print(f"{name.ljust(self._width)}  step {record.step:>6,}  {_describe(record)}{note}")


def show_runs(console: Console, paths: Sequence[Path], plot: Path) -> None:
    """Print the closing table of the runs at `paths`, draw them, and name the files."""
    # Drawing needs matplotlib, whose import takes longer than the other commands do.
    from lnb_experiments.report._figures import plot_runs, run_labels

    runs = [read_run(path) for path in paths]
    plot_runs(runs, plot)
    console.print()
    console.print(_closing_table(runs, run_labels(runs)))
    resident = max((run.cost.resident_bytes or 0 for run in runs if run.cost is not None), default=0)
    if resident:
        console.print(f"Peak resident memory of the process, all runs together: {resident / 1e6:,.0f} MB.")
    if len({run.header.comparison for run in runs}) > 1:
        console.print("Timings come from separate comparisons: their ratio holds only if the machine was alike.")
    for path in paths:
        console.print(f"records  {path}")
    console.print(f"plot     {plot}")


def _closing_table(runs: Sequence[Run], labels: Sequence[str]) -> Table:
    metric, summaries = runs[0].header.target.metric, list(map(summarize, runs))
    adam = next((s.milliseconds for s in summaries if s.optimizer == "adam" and s.milliseconds), None)
    table = Table(title=f"{runs[0].header.task}, target: {runs[0].header.target}", title_justify="left", pad_edge=False)
    table.add_column("optimizer", no_wrap=True)
    target = "test accuracy" if metric == "accuracy" else f"final {metric.replace('_', ' ')}"
    titles = ("final loss", target, "steps to target", "seconds to target", "ms/step", "ratio to adam")
    for title in (*titles, "compile s", "step MB"):
        table.add_column(title, justify="right")
    for run, label, summary in zip(runs, labels, summaries, strict=True):
        diverged = summary.diverged_at
        table.add_row(
            label if run.cost is not None else f"{label} (cut short)",
            f"{summary.loss:.4g}" if diverged is None else f"diverged by step {diverged:,}",
            format(summary.target_metric, ".2%" if metric == "accuracy" else ".3g"),
            _cell(summary.steps_to_target, ",", f"not in {summary.steps:,}"),
            _cell(summary.seconds_to_target, ".3g"),
            _cell(summary.milliseconds, ".3g"),
            _cell(summary.milliseconds and adam and summary.milliseconds / adam, ".2f"),
            _cell(run.cost and run.cost.compile_seconds, ".1f"),
            _cell(run.cost and run.cost.step_bytes and run.cost.step_bytes / 1e6, ",.2f"),
        )
    return table


def _cell(value: float | None, form: str, missing: str = "-") -> str:
    return missing if value is None else format(value, form)


def _describe(record: Record) -> str:
    parts = [f"loss {record.loss:<9.4g}"]
    if "accuracy" in record.metrics:
        parts.append(f"accuracy {record.metrics['accuracy']:6.2%}")
    if record.milliseconds is not None:
        parts.append(f"{record.milliseconds:.3g} ms/step")
    return "  ".join(parts)
