"""Figures of runs, drawn from their records and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lnb.experiments import ExperimentError, Record, Run, summarize

# Every optimizer has its own colour and its own dashes, which tell the lines apart in grey and where colours are alike.
# The first eight are Okabe and Ito's palette, which stays apart under every common colour blindness.
_STYLES: dict[str, tuple[str, Any]] = {
    "lnb-auto": ("#0072B2", "-"),
    "lnb": ("#009E73", (0, (7, 1.5))),
    "adam": ("#D55E00", (0, (5, 1.5))),
    "adamw": ("#E69F00", (0, (4, 1))),
    "lnb-cholesky": ("#56B4E9", (0, (8, 1.5, 1.5, 1.5))),
    "muon": ("#CC79A7", (0, (3, 1, 1, 1, 1, 1))),
    "sgd": ("#000000", (0, (1, 2))),
    "lnb-diagonal": ("#B5A800", (0, (3, 1))),
    "lnb-low-rank": ("#332288", (0, (1, 1))),
    "gauss-newton": ("#8C510A", (0, (2, 1))),
    "kfac": ("#7F7F7F", (0, (6, 1, 1, 1))),
}
_PROMINENT = ("lnb-auto", 2.4)  # the default of the library is drawn on top, this wide
_WIDTH = 1.7
_LOG_RANGE = 10  # a loss that falls by more than this is drawn on a logarithmic scale


def plot_runs(runs: Sequence[Run], path: Path) -> None:
    """Draw loss and accuracy against steps and against seconds of training, one line for each run.

    Args:
        runs: of one task, at least one.
        path: of the PNG; what is there is replaced.

    Raises:
        ExperimentError: the runs are none, or of different tasks, or `path` cannot be written.
    """
    tasks = {run.header.task for run in runs}
    if len(tasks) != 1:
        raise ExperimentError(f"`records` must be of one task, got {', '.join(sorted(tasks)) or 'none'}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_runs(runs).savefig(path, dpi=130)
    except OSError as error:
        raise ExperimentError(f"`output` cannot be written: {path}: {error.strerror}.") from error


def draw_runs(runs: Sequence[Run]) -> Figure:
    """The figure: two rows where there is an accuracy, one where there is none."""
    target = runs[0].header.target
    has_accuracy = all("accuracy" in run.records[0].metrics for run in runs)
    # A loss that the task measures itself, against its target, says more than that of the last batches.
    loss_metric = None if has_accuracy else target.metric
    rows = 2 if has_accuracy else 1
    figure = Figure(figsize=(11, 3.6 * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, 2, sharey="row", squeeze=False)
    for axes, (time, unit) in zip(grid.T, ((_steps, "steps"), (_seconds, "seconds of training")), strict=True):
        _draw_lines(axes[0], runs, time, lambda record: _loss(record, loss_metric))
        if has_accuracy:
            _draw_lines(axes[1], runs, time, lambda record: record.metrics["accuracy"])
        axes[-1].set_xlabel(unit)
    _scale_losses(grid[0], runs, loss_metric)
    grid[0, 0].set_ylabel("training loss" if loss_metric is None else loss_metric.replace("_", " "))
    if has_accuracy:
        _scale_accuracies(grid[1], runs)
        grid[1, 0].set_ylabel("test accuracy")
    targeted = grid[-1] if has_accuracy else grid[0]
    _draw_target(targeted, runs)
    figure.suptitle(_headline(runs), fontsize=12, fontweight="bold", wrap=True)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def styles_of(optimizers: Sequence[str]) -> list[dict[str, Any]]:
    """How lines are drawn, as keywords of Matplotlib's `plot`: each optimizer in its own style.

    Args:
        optimizers: names; where one is given again, it has the next style that is free.
    """
    taken: list[tuple[str, Any]] = []
    for name in optimizers:
        free = [style for style in _STYLES.values() if style not in taken] or list(_STYLES.values())
        own = _STYLES.get(name)
        taken.append(own if own in free and own is not None else free[len(taken) % len(free)])
    name, wide = _PROMINENT
    return [
        {
            "color": color,
            "linestyle": dashes,
            "linewidth": wide if optimizer == name else _WIDTH,
            "zorder": 3 if optimizer == name else 2,
        }
        for optimizer, (color, dashes) in zip(optimizers, taken, strict=True)
    ]


def run_labels(runs: Sequence[Run]) -> list[str]:
    """The optimizers' names; with their learning rate where two are the same, and a number where that is too."""
    names = [run.header.optimizer for run in runs]
    rates = [run.header.optimizer_settings.get("learning_rate") for run in runs]
    twice = Counter(names)
    labels = [f"{n} {rate:g}" if twice[n] > 1 and rate else n for n, rate in zip(names, rates, strict=True)]
    again = Counter(labels)
    return [f"{label} ({i + 1})" if again[label] > 1 else label for i, label in enumerate(labels)]


def _draw_lines(
    axes: Axes, runs: Sequence[Run], time: Callable[[Record], float], value: Callable[[Record], float]
) -> None:
    for run, label, style in zip(runs, run_labels(runs), _styles(runs), strict=True):
        shown = [record for record in run.records if math.isfinite(value(record)) and record.finite]
        diverged = len(shown) < len(run.records)
        points = [time(record) for record in shown], [value(record) for record in shown]
        label = f"{label} (diverged)" if diverged else label
        axes.plot(*points, **style, label=label)
        if diverged and shown:
            axes.plot(points[0][-1], points[1][-1], "x", color=style["color"], markersize=9, markeredgewidth=2)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)


def _scale_losses(row: Any, runs: Sequence[Run], metric: str | None) -> None:
    values = [_loss(record, metric) for run in runs for record in run.records if record.finite]
    positive = [value for value in values if 0 < value < math.inf]
    if positive and max(positive) > _LOG_RANGE * min(positive):
        for axes in row:
            axes.set_yscale("log")


def _scale_accuracies(row: Any, runs: Sequence[Run]) -> None:
    """Show where the runs end, not how they left the first guess behind."""
    ends = [run.records[-1].metrics["accuracy"] for run in runs if run.records[-1].finite]
    lowest, highest = min(ends, default=0.0), max(*ends, runs[0].header.target.value, 0.0)
    bottom = max(0.0, lowest - max(0.05, 2 * (highest - lowest)))
    for axes in row:
        axes.set_ylim(bottom, min(1.0, highest + 0.25 * (highest - bottom)))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_target(row: Any, runs: Sequence[Run]) -> None:
    """A line at the target, and a dot where each run first has it."""
    target = runs[0].header.target
    times = ("steps_to_target", "seconds_to_target")
    for axes, name in zip(row, times, strict=True):
        axes.axhline(target.value, color="0.4", linewidth=0.9, linestyle=":")
        label = axes.annotate(
            f"target: {target}",
            (1, target.value),
            xycoords=("axes fraction", "data"),
            xytext=(-2, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color="0.3",
            fontsize=9,
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5},
            zorder=4,
        )
        label.set_in_layout(False)  # it stays inside the axes
        for run, style in zip(runs, _styles(runs), strict=True):
            reached = getattr(summarize(run), name)
            if reached is not None:
                axes.plot(
                    reached,
                    target.value,
                    "o",
                    color=style["color"],
                    markersize=6,
                    markeredgecolor="white",
                    zorder=5,
                    clip_on=False,
                )


def _headline(runs: Sequence[Run]) -> str:
    """Who needs how many steps to the target, the quickest first."""
    header = runs[0].header
    summaries = list(zip(run_labels(runs), map(summarize, runs), strict=True))
    summaries.sort(key=lambda pair: pair[1].steps_to_target or math.inf)
    steps = [
        f"{label} {summary.steps_to_target:,}" if summary.steps_to_target is not None else f"{label} not reached"
        for label, summary in summaries
    ]
    return f"{header.task}: steps to {header.target}\n" + " · ".join(steps)


def _styles(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return styles_of([run.header.optimizer for run in runs])


def _steps(record: Record) -> float:
    return record.step


def _seconds(record: Record) -> float:
    return record.seconds


def _loss(record: Record, metric: str | None) -> float:
    return record.loss if metric is None else record.metrics[metric]
