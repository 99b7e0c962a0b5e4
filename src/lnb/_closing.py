"""What is shown of runs that have ended: a table, a figure, and where the files are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lnb import experiments as ex

PLOT_NAME = "comparison.png"


def close(console: Console, paths: Sequence[Path], plot: Path) -> None:
    """Print the closing table of the runs at `paths`, draw them, and name the files."""
    # Drawing needs matplotlib, whose import takes longer than the other commands do.
    from lnb._plots import plot_runs, run_labels

    runs = [ex.read_run(path) for path in paths]
    summaries = [ex.summarize(run) for run in runs]
    plot_runs(runs, plot)
    console.print()
    console.print(_closing_table(runs, summaries, run_labels(runs)))
    resident = max((run.cost.resident_bytes or 0 for run in runs if run.cost is not None), default=0)
    if resident:
        console.print(f"Peak resident memory of the process, all runs together: {resident / 1e6:,.0f} MB.")
    if not ex.timed_together(runs):
        console.print("Timings come from separate comparisons: their ratio holds only if the machine was alike.")
    for path in paths:
        console.print(f"records  {path}", highlight=False, soft_wrap=True)
    console.print(f"plot     {plot}", highlight=False, soft_wrap=True)


def _closing_table(runs: Sequence[ex.Run], summaries: Sequence[ex.Summary], labels: Sequence[str]) -> Table:
    metric = runs[0].header.target.metric
    judged = "test accuracy" if metric == "accuracy" else f"final {metric.replace('_', ' ')}"
    adam = next((s.milliseconds for s in summaries if s.optimizer == "adam" and s.milliseconds), None)
    table = Table(title=f"{runs[0].header.task}, target: {runs[0].header.target}", title_justify="left", pad_edge=False)
    table.add_column("optimizer", no_wrap=True)
    for title in (
        "final loss",
        judged,
        "steps to target",
        "seconds to target",
        "ms/step",
        "ratio to adam",
        "compile s",
        "step MB",
    ):
        table.add_column(title, justify="right")
    for run, label, summary in zip(runs, labels, summaries, strict=True):
        row = [label if run.cost is not None else f"{label} (cut short)", f"{summary.loss:.4g}"]
        if summary.diverged_at is not None:
            row[1] = f"diverged by step {summary.diverged_at:,}"
        row.append(format(summary.target_metric, ".2%" if metric == "accuracy" else ".3g"))
        row.append(_cell(summary.steps_to_target, ",", f"not in {summary.steps:,}"))
        row += [_cell(summary.seconds_to_target, ".3g"), _cell(summary.milliseconds, ".3g")]
        row.append(_cell(summary.milliseconds and adam and summary.milliseconds / adam, ".2f"))
        row += [_cell(run.cost and run.cost.compile_seconds, ".1f")]
        row += [_cell(run.cost and run.cost.step_bytes and run.cost.step_bytes / 1e6, ",.2f")]
        table.add_row(*row)
    return table


def _cell(value: float | None, form: str, missing: str = "-") -> str:
    return missing if value is None else format(value, form)
