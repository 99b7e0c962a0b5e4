"""Figures of runs, drawn from their records and nothing else.

`draw_runs` compares single runs, a line each, with the time to their target. `draw_experiment` shows the optimizers of
an experiment at their tuned rates, mean and range over seeds.
"""

from __future__ import annotations

import io
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from lnb_experiments._errors import ExperimentError
from lnb_experiments.analysis._findings import TRAINING_LOSS, Experiment
from lnb_experiments.runs._records import Run, summarize
from lnb_experiments.runs._training import Record

Time = Literal["epochs", "steps", "seconds"]

# Every optimizer has its own colour and its own dashes, which tell the lines apart in grey and where colours are alike.
# The first eight are Okabe and Ito's palette, which stays apart under every common colour blindness.
_STYLES: dict[str, tuple[str, Any]] = {
    "lnb": ("#0072B2", "-"),
    "lnb-paper": ("#009E73", (0, (7, 1.5))),
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
_PROMINENT = ("lnb", 2.4)  # the default of the library is drawn on top, this wide
_WIDTH = 1.7
_UNITS: dict[Time, str] = {"epochs": "epochs", "steps": "steps", "seconds": "seconds of training"}
_LOG_RANGE = 10  # a loss that falls by more than this is drawn on a logarithmic scale
_RESOLUTION = 95
_COLOURS = 80  # of a picture's palette


@dataclass(frozen=True)
class _Curve:
    """A metric of one or more runs over the records that all of them have: mean, lowest and highest."""

    times: list[float]
    means: list[float]
    lowest: list[float]
    highest: list[float]
    diverged: bool
    """Whether a run diverged after that."""


def plot_runs(runs: Sequence[Run], path: Path) -> None:
    """Draw loss and accuracy against steps and against seconds of training, one line for each run.

    Args:
        runs: runs of one task, at least one.
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
    # Where there is no accuracy, the loss that the target is about says more than that of the last batches.
    has_accuracy = all("accuracy" in run.records[0].metrics for run in runs)
    metrics = [TRAINING_LOSS, "accuracy"] if has_accuracy else [target.metric]
    figure = Figure(figsize=(11, 3.6 * len(metrics) + 0.9), layout="constrained")
    grid = figure.subplots(len(metrics), 2, sharey="row", squeeze=False)
    labels, styles = run_labels(runs), styles_of([run.header.optimizer for run in runs])
    for column, time in enumerate(("steps", "seconds")):
        for row, metric in enumerate(metrics):
            axes = grid[row, column]
            curves = [_curve([run], time, metric) for run in runs]
            _draw_panel(axes, curves, labels, styles, metric, least_top=target.value, margin=0.05)
            axes.set_ylabel("" if column else f"test {metric}" if metric == "accuracy" else metric.replace("_", " "))
        _draw_level(grid[-1, column], target.value, f"target: {target}", side=1)
        for run, style in zip(runs, styles, strict=True):
            reached = getattr(summarize(run), f"{time}_to_target")
            if reached is not None:
                dot = {"color": style["color"], "markersize": 6, "markeredgecolor": "white"}
                grid[-1, column].plot(reached, target.value, "o", **dot, zorder=5, clip_on=False)
        grid[-1, column].set_xlabel(_UNITS[time])
    figure.suptitle(_headline(runs), fontsize=12, fontweight="bold", wrap=True)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_experiment(experiment: Experiment, time: Time) -> Figure:
    """Losses and accuracy against epochs or seconds, a panel each.

    Args:
        experiment: with at least one entry.
        time: the horizontal axis.
    """
    known = experiment.entries[0].runs[0].records[0].metrics
    metrics = [name for name in (experiment.selection, "accuracy") if name in known]
    if experiment.selection != "relative_loss":  # which is the training loss in other units
        metrics.insert(0, TRAINING_LOSS)
    figure = Figure(figsize=(6.0, 2.5 * len(metrics) + 0.9), layout="constrained")
    column = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    labels = [entry.label for entry in experiment.entries]
    styles = styles_of([entry.optimizer for entry in experiment.entries])
    baseline = experiment.baseline
    for axes, metric in zip(column, metrics, strict=True):
        curves = [_curve(entry.runs, time, metric) for entry in experiment.entries]
        _draw_panel(axes, curves, labels, styles, metric)
        axes.set_ylabel(metric.replace("_", " "))
        if metric == experiment.selection and baseline is not None:
            _draw_level(axes, baseline.mean_at_end(metric), f"{baseline.label}'s final", side=1)
        if metric == experiment.target.metric:
            side = 0 if metric == experiment.selection and baseline is not None else 1
            _draw_level(axes, experiment.target.value, "target", side)
    column[-1].set_xlabel(_UNITS[time])
    figure.legend(*column[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG of as many colours as a palette holds, a third of the size."""
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=_RESOLUTION, format="png")
    # An octree keeps the colour of each line; the median cut gives like ones a common colour.
    palette = Image.Quantize.FASTOCTREE
    image = Image.open(drawn).convert("RGB").quantize(_COLOURS, method=palette, dither=Image.Dither.NONE)
    image.save(file, format="png", optimize=True)
    return file.getvalue()


def styles_of(optimizers: Sequence[str]) -> list[dict[str, Any]]:
    """The styles of lines, as keywords of Matplotlib's `plot`: each optimizer has its own.

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
    twice = Counter(names)
    labels = [f"{name} {run.rate:g}" if twice[name] > 1 else name for name, run in zip(names, runs, strict=True)]
    again = Counter(labels)
    return [f"{label} ({i + 1})" if again[label] > 1 else label for i, label in enumerate(labels)]


def _curve(runs: Sequence[Run], time: Time, metric: str) -> _Curve:
    def value(record: Record) -> float:
        return record.loss if metric == TRAINING_LOSS else record.metrics[metric]

    finite = [[r for r in run.records if r.finite and math.isfinite(value(r))] for run in runs]
    together = list(zip(*finite, strict=False))  # as long as all runs are there
    values = [[value(record) for record in records] for records in together]
    field = {"epochs": "epoch", "steps": "step", "seconds": "seconds"}[time]
    return _Curve(
        times=[statistics.fmean(getattr(record, field) for record in records) for records in together],
        means=list(map(statistics.fmean, values)),
        lowest=list(map(min, values)),
        highest=list(map(max, values)),
        diverged=any(len(kept) < len(run.records) for kept, run in zip(finite, runs, strict=True)),
    )


def _draw_panel(
    axes: Axes,
    curves: Sequence[_Curve],
    labels: Sequence[str],
    styles: Sequence[dict[str, Any]],
    metric: str,
    least_top: float = 0.0,
    margin: float = 0.02,
) -> None:
    """Draw a metric. An accuracy is shown from this margin, or more, below the lowest end up to `least_top` or more."""
    for curve, label, style in zip(curves, labels, styles, strict=True):
        axes.plot(curve.times, curve.means, **style, label=f"{label} (diverged)" if curve.diverged else label)
        if curve.lowest != curve.highest:
            axes.fill_between(curve.times, curve.lowest, curve.highest, color=style["color"], alpha=0.15, linewidth=0)
        if curve.diverged and curve.times:
            axes.plot(curve.times[-1], curve.means[-1], "x", color=style["color"], markersize=9, markeredgewidth=2)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    if metric == "accuracy":
        _scale_accuracy(axes, curves, least_top, margin)
        return
    positive = [value for curve in curves for value in curve.lowest if value > 0]
    if positive and max(positive) > _LOG_RANGE * min(positive):
        axes.set_yscale("log")


def _scale_accuracy(axes: Axes, curves: Sequence[_Curve], least_top: float, margin: float) -> None:
    """Show where the curves end, not how they left the first guess behind."""
    ends = [curve.means[-1] for curve in curves if curve.means]
    lowest, highest = min(ends, default=0.0), max(*ends, least_top, 0.0) or 1.0
    bottom = max(0.0, lowest - max(margin, 2 * (highest - lowest)))
    axes.set_ylim(bottom, min(1.0, highest + 0.25 * (highest - bottom)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_level(axes: Axes, level: float | None, name: str, side: int) -> None:
    """A line at a value, named at its left end (0) or its right end (1); nothing where the panel does not have it."""
    low, high = axes.get_ylim()
    if level is None or not low <= level <= high:
        return
    axes.axhline(level, color="0.4", linewidth=0.9, linestyle=":")
    label = axes.annotate(
        name,
        (side, level),
        xycoords=("axes fraction", "data"),
        xytext=(2 - 4 * side, 3),
        textcoords="offset points",
        ha="right" if side else "left",
        color="0.35",
        fontsize=8,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5},
        zorder=4,
    )
    label.set_in_layout(False)  # it stays inside the axes


def _headline(runs: Sequence[Run]) -> str:
    """The steps that each run needs to the target, the quickest first."""
    summaries = list(zip(run_labels(runs), map(summarize, runs), strict=True))
    summaries.sort(key=lambda pair: pair[1].steps_to_target or math.inf)
    steps = [
        f"{label} {summary.steps_to_target:,}" if summary.steps_to_target is not None else f"{label} not reached"
        for label, summary in summaries
    ]
    return f"{runs[0].header.task}: steps to {runs[0].header.target}\n" + " · ".join(steps)
