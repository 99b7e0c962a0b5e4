"""Where LNB wins and where it loses, in plain words that are computed from records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lnb.experiments import _numerals as numerals
from lnb.experiments._findings import Entry, Experiment, Reach
from lnb.experiments._training import Record

Kind = Literal["wins", "fewer steps", "loses", "not compared"]

_ROUNDING = 1e-9  # the mean of one number is that number; what is reached must not hang on its last bit


@dataclass(frozen=True)
class Sentence:
    """How an optimizer compares with the baseline on a task."""

    kind: Kind
    """Less time and fewer steps; fewer steps alone; neither; or there is nothing to compare."""
    task: str
    configuration: str
    """Of the experiment: scale, schedule and length."""
    text: str


def reach_of_baseline(experiment: Experiment, entry: Entry) -> Reach | None:
    """When an optimizer first has what the baseline has at its end, on average over the baseline's seeds."""
    end = experiment.baseline and experiment.baseline.metric_at_end(experiment.selection)
    if end is None:
        return None
    level = end.mean + _ROUNDING * abs(end.mean)

    def reached(record: Record) -> bool:
        return record.metrics[experiment.selection] <= level

    return entry.first_with(reached)


def reach_of_target(experiment: Experiment, entry: Entry) -> Reach | None:
    """When an optimizer first has the task's target."""
    return entry.first_with(lambda record: experiment.target.reached(record.metrics))


def sentences_of(experiments: Sequence[Experiment]) -> tuple[Sentence, ...]:
    """A sentence for each of LNB's entries in each experiment."""
    return tuple(sentence for experiment in experiments for sentence in _of(experiment))


def _of(experiment: Experiment) -> Iterator[Sentence]:
    baseline = experiment.baseline
    ours = [entry for entry in experiment.entries if entry.is_lnb]
    if baseline is None:
        yield _sentence("not compared", experiment, "There is no finite run of AdamW or Adam to compare with.")
    elif not ours:
        yield _sentence("not compared", experiment, "LNB was not run.")
    else:
        yield from (_compare(experiment, entry, baseline) for entry in ours)


def _compare(experiment: Experiment, entry: Entry, baseline: Entry) -> Sentence:
    reach, total = reach_of_baseline(experiment, entry), baseline.whole()
    end = baseline.metric_at_end(experiment.selection)
    assert end is not None  # a baseline has a finite run
    metric = experiment.selection.replace("_", " ")
    goal = f"tuned {baseline.label}'s final {metric} ({numerals.loss(end.mean)})"
    closing = _closing(experiment, entry, baseline)
    if reach is None:
        return _sentence("loses", experiment, f"{entry.label} does not reach {goal}{closing}")
    seeds = "" if reach.by_all else f" with only {reach.reached} of {reach.count} seeds"
    text = (
        f"{entry.label} reaches {goal}{seeds} in {numerals.share(reach.steps / total.steps)} of its steps "
        f"and {numerals.share(experiment.time_share(entry, reach, baseline, total))} of its time{closing}"
    )
    # The baseline may pass its own final value on the way: it is not to be counted as slower than it is.
    own = reach_of_baseline(experiment, baseline)
    first = own if own is not None and own.by_all else total
    if first.steps < 0.95 * total.steps:
        text += (
            f" {baseline.label} itself first passes that value after {numerals.share(first.steps / total.steps)} of "
            "its steps."
        )
    if not reach.by_all or reach.steps >= first.steps:
        return _sentence("loses", experiment, text)
    is_quicker = experiment.time_share(entry, reach, baseline, first) < 1
    return _sentence("wins" if is_quicker else "fewer steps", experiment, text)


def _sentence(kind: Kind, experiment: Experiment, text: str) -> Sentence:
    return Sentence(kind, experiment.task, experiment.configuration, text)


def _closing(experiment: Experiment, entry: Entry, baseline: Entry) -> str:
    """Where it ends, and what a step takes."""
    if entry.diverged == len(entry.runs):
        return ": every run diverged."
    end = numerals.with_spread(entry.metric_at_end(experiment.selection), numerals.loss)
    text = f"; it ends at {end}"
    ours, theirs = (one.metric_at_end("accuracy") for one in (entry, baseline))
    if ours is not None and theirs is not None:
        text += f", with accuracy {numerals.accuracy(ours.mean)} against {numerals.accuracy(theirs.mean)}"
    if entry.diverged:
        text += f"; {entry.diverged} of {len(entry.runs)} seeds diverged"
    ratio = experiment.step_ratio(entry, baseline)
    if ratio is not None:
        text += f"; a step takes {numerals.times(ratio.value)} times as long"
    return f"{text}."
