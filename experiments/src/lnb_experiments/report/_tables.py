"""The report's tables: pandas frames of text, which both the page and the Markdown show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lnb_experiments.analysis import _numerals as numerals
from lnb_experiments.analysis._findings import TRAINING_LOSS, Entry, Experiment, TimeToTarget
from lnb_experiments.analysis._verdicts import PaperFigure
from lnb_experiments.runs._sweep import end_value

_NOTHING = "-"


@dataclass(frozen=True)
class Table:
    """A frame of text with its title."""

    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    texts: int = 1
    """How many columns, from the first, are words rather than numbers."""


def glance_table(experiments: Sequence[Experiment]) -> Table:
    """Every form of LNB in every experiment beside the baseline."""
    rows = []
    often = Counter(experiment.task for experiment in experiments)
    for experiment in experiments:
        name = experiment.title if often[experiment.task] > 1 else experiment.task
        ours, baseline = [entry for entry in experiment.entries if entry.is_lnb], experiment.baseline
        rows += [{"task": name, **_glance(experiment, e, baseline)} for e in ours if baseline is not None]
    note = (
        "Beside tuned AdamW, or Adam: the share of its steps and time until its final held-out loss is reached; the "
        "final loss as a multiple of its own; the difference in accuracy; a step's time and memory as multiples of its "
        "own. LNB wins where every seed is there in fewer steps and less time than the baseline itself first is."
    )
    return Table("At a glance", pd.DataFrame(rows), (note,), texts=3)


def _glance(experiment: Experiment, entry: Entry, baseline: Entry) -> dict[str, str]:
    time, total = entry.time_to_end_of(baseline, experiment.selection), baseline.full_length()
    steps, seconds = _times(experiment, entry, time, total, shares_only=True)
    ratio, memory, reference = experiment.step_ratio(entry, baseline), entry.step_bytes(), baseline.step_bytes()
    (loss, accuracy), (base_loss, base_accuracy) = (
        [one.mean_at_end(metric) for metric in (experiment.selection, "accuracy")] for one in (entry, baseline)
    )
    return {
        "solver": entry.label,
        "outcome": _outcome(experiment, entry, baseline),
        "steps": steps,
        "time": seconds,
        "final loss": numerals.ratio(loss / base_loss) if loss is not None and base_loss else _NOTHING,
        "accuracy": _NOTHING if None in (accuracy, base_accuracy) else f"{100 * (accuracy - base_accuracy):+.2f}",  # pyright: ignore
        "time of a step": _NOTHING if ratio is None else numerals.ratio(ratio.value),
        "memory of a step": numerals.ratio(memory / reference) if memory and reference else _NOTHING,
    }


def _outcome(experiment: Experiment, entry: Entry, baseline: Entry) -> str:
    """Whether an optimizer has the baseline's final value in fewer steps and in less time than the baseline itself."""
    ours, own = (one.time_to_end_of(baseline, experiment.selection) for one in (entry, baseline))
    first = own if own is not None and own.by_all else baseline.full_length()
    if ours is None or not ours.by_all or ours.steps >= first.steps:
        return "loses"
    return "wins" if experiment.time_share(entry, ours, baseline, first) < 1 else "fewer steps"


def claims_table(figures: Sequence[PaperFigure]) -> Table:
    """The paper's claims beside the measurements."""
    rows = []
    for figure in figures:
        name = f"{figure.number}: {figure.title}"
        if not figure.judgements:
            rows.append((name, "not run", _NOTHING, figure.tasks, _NOTHING, _NOTHING, _NOTHING))
        for one in figure.judgements:
            rows += [
                (name, one.outcome, one.label, one.where, c.claimed, c.measured, _holds(c.holds)) for c in one.criteria
            ]
    columns = ("figure", "verdict", "solver", "experiment", "claimed", "measured", "holds")
    note = (
        "A figure is reproduced if all of its criteria hold, and partly if one does. Its own verdict is that of the "
        "paper's settings."
    )
    return Table("The paper's figures", pd.DataFrame(rows, columns=list(columns)), (note,), texts=len(columns))


def _holds(holds: bool | None) -> str:
    return _NOTHING if holds is None else "yes" if holds else "no"


def results_table(experiment: Experiment) -> Table:
    """The end of each optimizer's runs."""
    metrics = experiment.entries[0].runs[0].records[0].metrics
    shares = [name for name in ("accuracy", "mean_iou") if name in metrics]
    rows = [
        {
            "optimizer": entry.label,
            "rate": _rate(entry),
            _final(experiment.selection): _end(experiment, entry),
            **{_final(name): numerals.with_spread(entry.at_end(name), numerals.accuracy) for name in shares},
            _final(TRAINING_LOSS): numerals.with_spread(entry.at_end(TRAINING_LOSS), numerals.loss),
        }
        for entry in experiment.entries
    ]
    return Table("Results", pd.DataFrame(rows), _result_notes(experiment))


def times_table(experiment: Experiment) -> Table:
    """When each optimizer first has the baseline's end, and the target."""
    baseline = experiment.baseline
    columns, rows = ["optimizer"], []
    if baseline is not None:
        goal = f"{baseline.label}'s final {experiment.selection.replace('_', ' ')}"
        columns += [f"steps to {goal}", "seconds to it"]
    columns += [f"steps to {experiment.target}", "seconds to it"]
    for entry in experiment.entries:
        row = [entry.label]
        if baseline is not None:
            time = entry.time_to_end_of(baseline, experiment.selection)
            row += _times(experiment, entry, time, baseline.full_length())
        reference = baseline and baseline.time_to(experiment.target)
        row += _times(experiment, entry, entry.time_to(experiment.target), reference)
        rows.append(row)
    notes = () if baseline is None else (f"In brackets: the share of {baseline.label}'s.",)
    return Table("Time to a value", pd.DataFrame(rows, columns=columns), notes)


def cost_table(experiment: Experiment) -> Table:
    """The cost of a step of each optimizer."""
    baseline = experiment.baseline
    rows, apart = [], False
    for entry in experiment.entries:
        milliseconds, memory, compilation = entry.milliseconds(), entry.step_bytes(), entry.compile_seconds()
        row = {
            "optimizer": entry.label,
            "ms per step": _NOTHING if milliseconds is None else f"{milliseconds:.3g}",
            "memory of a step": _NOTHING if memory is None else f"{memory / 1e6:,.3g} MB",
            "compilation": _NOTHING if compilation is None else numerals.seconds(compilation),
        }
        if baseline is not None:
            ratio, reference = experiment.step_ratio(entry, baseline), baseline.step_bytes()
            apart |= ratio is not None and not ratio.interleaved
            mark = "" if ratio is None or ratio.interleaved else " *"
            row["time ratio"] = _NOTHING if ratio is None else f"{numerals.ratio(ratio.value)}{mark}"
            row["memory ratio"] = numerals.ratio(memory / reference) if memory and reference else _NOTHING
        rows.append(row)
    frame = pd.DataFrame(rows)
    if baseline is not None:
        order = ["optimizer", "ms per step", "time ratio", "memory of a step", "memory ratio", "compilation"]
        frame = frame.reindex(columns=order)
        frame.columns = [name.replace(" ratio", f" / {baseline.label}'s") for name in frame.columns]
    notes = ("* from runs that did not take turns: the machine may have been busier for one than for the other.",)
    return Table("Cost", frame, notes if apart else ())


def grid_table(experiment: Experiment) -> Table:
    """Every learning rate that was tried, and its end."""
    rows = []
    for entry in experiment.entries:
        for run in entry.grid:
            end, last = end_value(run, experiment.selection), run.records[-1]
            accuracy = last.metrics.get("accuracy") if last.finite else None
            rows.append(
                {
                    "optimizer": entry.label,
                    "rate": f"{run.rate:g}",
                    _final(experiment.selection): numerals.loss(end) if math.isfinite(end) else "diverged",
                    _final("accuracy"): _NOTHING if accuracy is None else numerals.accuracy(accuracy),
                    "": "picked" if run.rate == entry.choice.rate else "",
                }
            )
    return Table("Learning rates that were tried", pd.DataFrame(rows))


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
                f"{entry.label}: the picked rate is the {entry.choice.edge} of its grid; a better one may lie beyond."
            )
    counts = {len(entry.runs) for entry in experiment.entries}
    seeds = " or ".join(map(str, sorted(counts)))
    notes.append(f"Means over {seeds} seed{'' if counts == {1} else 's'}; ± is the standard deviation.")
    return tuple(notes)


def _final(metric: str) -> str:
    return f"final {metric.replace('_', ' ')}"


def _end(experiment: Experiment, entry: Entry) -> str:
    if entry.diverged == len(entry.runs):
        return f"diverged by step {max(run.records[-1].step for run in entry.runs):,}"
    value = numerals.with_spread(entry.at_end(experiment.selection), numerals.loss)
    return f"{value} ({entry.diverged} of {len(entry.runs)} diverged)" if entry.diverged else value


def _rate(entry: Entry) -> str:
    if entry.choice.rate is None:
        return _NOTHING
    return f"{entry.choice.rate:g}{'' if entry.choice.edge is None else ' (edge)'}"


def _times(
    experiment: Experiment,
    entry: Entry,
    time: TimeToTarget | None,
    reference: TimeToTarget | None,
    *,
    shares_only: bool = False,
) -> tuple[str, str]:
    """Steps and seconds, each with its share of the baseline's."""
    if time is None:
        return ("never" if shares_only else f"not in {numerals.steps(entry.full_length().steps)}"), _NOTHING
    steps, seconds, baseline = numerals.steps(time.steps), numerals.seconds(time.seconds), experiment.baseline
    if baseline is not None and reference is not None and reference.steps and reference.seconds:
        in_steps = numerals.share(time.steps / reference.steps)
        in_time = numerals.share(experiment.time_share(entry, time, baseline, reference))
        steps, seconds = (in_steps, in_time) if shares_only else (f"{steps} ({in_steps})", f"{seconds} ({in_time})")
    return (steps if time.by_all else f"{steps}, {time.reached}/{time.count} seeds"), seconds
