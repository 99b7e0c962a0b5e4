"""The report's tables: cells as text, which both the page and the Markdown show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lnb.experiments import Entry, Experiment, Reach, reach_of_baseline, reach_of_target
from lnb.experiments import _numerals as numerals

_NOTHING = "-"


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading each."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    texts: int = 1
    """How many columns, from the first, are words rather than numbers."""


def glance_table(experiments: Sequence[Experiment]) -> Table:
    """Every solver of LNB in every experiment beside the baseline."""
    rows = []
    often = Counter(experiment.task for experiment in experiments)
    for experiment in experiments:
        baseline = experiment.baseline
        name = experiment.title if often[experiment.task] > 1 else experiment.task
        ours = [entry for entry in experiment.entries if entry.is_lnb]
        rows += [(name, *_glance(experiment, entry, baseline)) for entry in ours if baseline is not None]
    columns = ("task", "solver", "steps", "time", "final loss", "accuracy", "time of a step", "memory of a step")
    note = (
        "Beside tuned AdamW, or Adam: the share of its steps and time until its final held-out loss is reached; the "
        "final loss as a multiple of its own; the difference in accuracy; a step's time and memory as multiples of its "
        "own."
    )
    return Table("At a glance", columns, tuple(rows), (note,), texts=2)


def _glance(experiment: Experiment, entry: Entry, baseline: Entry) -> tuple[str, ...]:
    reach, total = reach_of_baseline(experiment, entry), baseline.whole()
    steps, seconds = _times(experiment, entry, reach, total, shares_only=True)
    ratio, memory, reference = experiment.step_ratio(entry, baseline), entry.step_bytes(), baseline.step_bytes()
    losses, accuracies = (
        [one.metric_at_end(metric) for one in (entry, baseline)] for metric in (experiment.selection, "accuracy")
    )
    return (
        entry.label,
        steps,
        seconds,
        numerals.ratio(losses[0].mean / losses[1].mean) if losses[0] and losses[1] and losses[1].mean else _NOTHING,
        f"{100 * (accuracies[0].mean - accuracies[1].mean):+.2f}" if accuracies[0] and accuracies[1] else _NOTHING,
        _NOTHING if ratio is None else numerals.ratio(ratio.value),
        numerals.ratio(memory / reference) if memory and reference else _NOTHING,
    )


def results_table(experiment: Experiment) -> Table:
    """What each optimizer ends at."""
    metrics = experiment.entries[0].runs[0].records[0].metrics
    shares = [name for name in ("accuracy", "mean_iou") if name in metrics]
    names = (experiment.selection, *shares, "training_loss")
    rows = []
    for entry in experiment.entries:
        row = [entry.label, _rate(entry), _end(experiment, entry)]
        row += [numerals.with_spread(entry.metric_at_end(name), numerals.accuracy) for name in shares]
        row.append(numerals.with_spread(entry.at_end(lambda record: record.loss), numerals.loss))
        rows.append(tuple(row))
    columns = ("optimizer", "rate", *(f"final {name.replace('_', ' ')}" for name in names))
    return Table("Results", columns, tuple(rows), _result_notes(experiment))


def times_table(experiment: Experiment) -> Table:
    """When each optimizer first has the baseline's end, and the target."""
    baseline = experiment.baseline
    columns = ["optimizer"]
    if baseline is not None:
        goal = f"{baseline.label}'s final {experiment.selection.replace('_', ' ')}"
        columns += [f"steps to {goal}", "seconds to it"]
    columns += [f"steps to {experiment.target}", "seconds to it"]
    rows = []
    for entry in experiment.entries:
        row = [entry.label]
        if baseline is not None:
            row += _times(experiment, entry, reach_of_baseline(experiment, entry), baseline.whole())
        reference = baseline and reach_of_target(experiment, baseline)
        row += _times(experiment, entry, reach_of_target(experiment, entry), reference)
        rows.append(tuple(row))
    notes = () if baseline is None else (f"In brackets: the share of {baseline.label}'s.",)
    return Table("Time to a value", tuple(columns), tuple(rows), notes)


def cost_table(experiment: Experiment) -> Table:
    """What a step of each optimizer costs."""
    baseline = experiment.baseline
    to = f" / {baseline.label}'s" if baseline is not None else ""
    columns = ["optimizer", "ms per step"]
    columns += [f"time{to}"] if baseline is not None else []
    columns += ["memory of a step"]
    columns += [f"memory{to}"] if baseline is not None else []
    columns += ["compilation"]
    rows, apart = [], False
    for entry in experiment.entries:
        milliseconds, memory, compilation = entry.milliseconds(), entry.step_bytes(), entry.compile_seconds()
        row = [entry.label, _NOTHING if milliseconds is None else f"{milliseconds:.3g}"]
        if baseline is not None:
            ratio = experiment.step_ratio(entry, baseline)
            apart |= ratio is not None and not ratio.together
            mark = "" if ratio is None or ratio.together else " *"
            row.append(_NOTHING if ratio is None else f"{numerals.ratio(ratio.value)}{mark}")
        row.append(_NOTHING if memory is None else f"{memory / 1e6:,.3g} MB")
        if baseline is not None:
            reference = baseline.step_bytes()
            row.append(numerals.ratio(memory / reference) if memory and reference else _NOTHING)
        row.append(_NOTHING if compilation is None else numerals.seconds(compilation))
        rows.append(tuple(row))
    notes = ("* from runs that did not take turns: the machine may have been busier for one than for the other.",)
    return Table("Cost", tuple(columns), tuple(rows), notes if apart else ())


def grid_table(experiment: Experiment) -> Table:
    """Every learning rate that was tried, and what it ended at."""
    rows = []
    for entry in experiment.entries:
        for point in entry.grid:
            end = numerals.loss(point.end) if math.isfinite(point.end) else "diverged"
            accuracy = _NOTHING if point.accuracy is None else numerals.accuracy(point.accuracy)
            picked = "picked" if point.rate == entry.choice.rate else ""
            rows.append((entry.label, f"{point.rate:g}", end, accuracy, picked))
    metric = experiment.selection.replace("_", " ")
    columns = ("optimizer", "rate", f"final {metric}", "final accuracy", "")
    return Table("Learning rates that were tried", columns, tuple(rows))


def _result_notes(experiment: Experiment) -> tuple[str, ...]:
    notes = []
    for entry in experiment.entries:
        count = len(entry.runs)
        if entry.choice.rate is None:
            notes.append(f"{entry.label}: diverged with every rate; the lowest is shown.")
        elif entry.diverged:
            notes.append(f"{entry.label}: {entry.diverged} of {count} seeds diverged; means are over the others.")
        if entry.choice.rate is not None and entry.choice.edge is not None:
            notes.append(
                f"{entry.label}: the picked rate is the {entry.choice.edge} of its grid; a better may lie beyond it."
            )
    counts = {len(entry.runs) for entry in experiment.entries}
    seeds = " or ".join(map(str, sorted(counts)))
    notes.append(f"Means over {seeds} seed{'' if counts == {1} else 's'}; ± is the standard deviation.")
    return tuple(notes)


def _end(experiment: Experiment, entry: Entry) -> str:
    if entry.diverged == len(entry.runs):
        return f"diverged by step {max(run.records[-1].step for run in entry.runs):,}"
    value = numerals.with_spread(entry.metric_at_end(experiment.selection), numerals.loss)
    return f"{value} ({entry.diverged} of {len(entry.runs)} diverged)" if entry.diverged else value


def _rate(entry: Entry) -> str:
    if entry.choice.rate is None:
        return _NOTHING
    return f"{entry.choice.rate:g}{'' if entry.choice.edge is None else ' (edge)'}"


def _times(
    experiment: Experiment, entry: Entry, reach: Reach | None, reference: Reach | None, *, shares_only: bool = False
) -> tuple[str, str]:
    """Steps and seconds, each with its share of the baseline's."""
    if reach is None:
        return ("never" if shares_only else f"not in {numerals.steps(entry.whole().steps)}"), _NOTHING
    steps, seconds, baseline = numerals.steps(reach.steps), numerals.seconds(reach.seconds), experiment.baseline
    if baseline is not None and reference is not None and reference.steps and reference.seconds:
        in_steps = numerals.share(reach.steps / reference.steps)
        in_time = numerals.share(experiment.time_share(entry, reach, baseline, reference))
        steps, seconds = (in_steps, in_time) if shares_only else (f"{steps} ({in_steps})", f"{seconds} ({in_time})")
    return (steps if reach.by_all else f"{steps}, {reach.reached}/{reach.count} seeds"), seconds
