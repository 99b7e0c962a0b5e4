"""The report's figures: an experiment's optimizers at their tuned rates, mean and range over seeds."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from lnb._plots import styles_of
from lnb.experiments import Entry, Experiment, Record

Time = Literal["epochs", "seconds"]

_UNITS: dict[Time, str] = {"epochs": "epochs", "seconds": "seconds of training"}
_SIZE = (6.0, 2.5)  # inches of a panel
_RESOLUTION = 95
_COLOURS = 80  # of a picture's palette
_LOG_RANGE = 10  # a loss that falls by more than this is drawn on a logarithmic scale


@dataclass(frozen=True)
class _Curve:
    """Over the steps that all runs of an entry have: mean, lowest and highest."""

    times: list[float]
    means: list[float]
    lowest: list[float]
    highest: list[float]
    broken: bool
    """Whether a run diverged after that."""


def draw_experiment(experiment: Experiment, time: Time) -> Figure:
    """Losses and accuracy against epochs or seconds, a panel each.

    Args:
        experiment: with at least one entry.
        time: what the horizontal axis is.
    """
    panels = _panels(experiment)
    width, height = _SIZE
    figure = Figure(figsize=(width, height * len(panels) + 0.9), layout="constrained")
    column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    styles = styles_of([entry.optimizer for entry in experiment.entries])
    for axes, (title, value) in zip(column, panels, strict=True):
        curves = [_curve(entry, time, value) for entry in experiment.entries]
        for entry, curve, style in zip(experiment.entries, curves, styles, strict=True):
            _draw(axes, curve, style, entry.label)
        axes.set_ylabel(title)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        (_scale_accuracy if "accuracy" in title else _scale_loss)(axes, curves)
        _draw_levels(axes, experiment, title)
    column[-1].set_xlim(left=0)
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


def _panels(experiment: Experiment) -> list[tuple[str, Callable[[Record], float]]]:
    metrics = experiment.entries[0].runs[0].records[0].metrics
    held_out = [name for name in (experiment.selection, "accuracy") if name in metrics]
    panels = [(name.replace("_", " "), _metric(name)) for name in held_out]
    if experiment.selection == "relative_loss":  # the training loss in other units
        return panels
    return [("training loss", lambda record: record.loss), *panels]


def _metric(name: str) -> Callable[[Record], float]:
    return lambda record: record.metrics[name]


def _curve(entry: Entry, time: Time, value: Callable[[Record], float]) -> _Curve:
    finite = [[r for r in run.records if r.finite and math.isfinite(value(r))] for run in entry.runs]
    together = list(zip(*finite, strict=False))  # as long as all runs are there
    values = [[value(record) for record in records] for records in together]
    at = [[record.epoch if time == "epochs" else record.seconds for record in records] for records in together]
    return _Curve(
        times=list(map(statistics.fmean, at)),
        means=list(map(statistics.fmean, values)),
        lowest=list(map(min, values)),
        highest=list(map(max, values)),
        broken=entry.diverged > 0,
    )


def _draw(axes: Axes, curve: _Curve, style: dict[str, Any], label: str) -> None:
    label = f"{label} (diverged)" if curve.broken else label
    axes.plot(curve.times, curve.means, **style, label=label)
    axes.fill_between(curve.times, curve.lowest, curve.highest, color=style["color"], alpha=0.15, linewidth=0)
    if curve.broken and curve.times:
        axes.plot(curve.times[-1], curve.means[-1], "x", color=style["color"], markersize=9, markeredgewidth=2)


def _scale_loss(axes: Axes, curves: Sequence[_Curve]) -> None:
    positive = [value for curve in curves for value in curve.lowest if value > 0]
    if positive and max(positive) > _LOG_RANGE * min(positive):
        axes.set_yscale("log")


def _scale_accuracy(axes: Axes, curves: Sequence[_Curve]) -> None:
    """Show where the curves end, not how they left the first guess behind."""
    ends = [curve.means[-1] for curve in curves if curve.means]
    lowest, highest = min(ends, default=0.0), max(ends, default=1.0)
    bottom = max(0.0, lowest - max(0.02, 2 * (highest - lowest)))
    axes.set_ylim(bottom, min(1.0, highest + 0.25 * (highest - bottom)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_levels(axes: Axes, experiment: Experiment, title: str) -> None:
    """Lines at what the table times: the baseline's final value, and the task's target."""
    end = experiment.baseline and experiment.baseline.metric_at_end(experiment.selection)
    levels = []
    if title == experiment.selection.replace("_", " ") and end and experiment.baseline:
        levels.append((end.mean, f"{experiment.baseline.label}'s final"))
    if title == experiment.target.metric.replace("_", " "):
        levels.append((experiment.target.value, "target"))
    low, high = axes.get_ylim()
    for (level, name), side in zip(levels, (1, 0), strict=False):  # at one end each, as they may lie close together
        if low <= level <= high:
            axes.axhline(level, color="0.4", linewidth=0.9, linestyle=":")
            axes.annotate(
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
