"""What the runs of a folder say: for each task the optimizers side by side, each at its tuned learning rate.

An experiment is a task at a scale with given settings, epochs and schedule. In it, an optimizer's rate is picked as a
sweep picks it, and its numbers are means over the seeds that the picked rate was run with.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lnb.experiments._records import Run
from lnb.experiments._summary import summarize
from lnb.experiments._sweep import Choice, choose_rate, end_value
from lnb.experiments._task import Target
from lnb.experiments._tasks import TASKS, find_task
from lnb.experiments._training import Record

LABELS: Mapping[str, str] = {
    "adamw": "AdamW",
    "adam": "Adam",
    "sgd": "SGD",
    "muon": "Muon",
    "kfac": "K-FAC",
    "gauss-newton": "Gauss-Newton",
    "lnb-auto": "LNB (auto)",
    "lnb": "LNB (CG)",
    "lnb-cholesky": "LNB (Cholesky)",
    "lnb-low-rank": "LNB (low rank)",
    "lnb-diagonal": "LNB (diagonal)",
}
"""What prose calls the optimizers, in the order of tables."""

_BASELINES = ("adamw", "adam")  # the first of them that was run is what the others are measured by


@dataclass(frozen=True)
class Spread:
    """A number over seeds."""

    mean: float
    deviation: float | None
    """Standard deviation; None for a single seed."""
    count: int
    """Seeds."""


@dataclass(frozen=True)
class Reach:
    """When runs first have a value of a metric, on average over those that do."""

    steps: float
    epochs: float
    seconds: float
    reached: int
    """Runs that have it at some time."""
    count: int
    """All of the runs."""

    @property
    def by_all(self) -> bool:
        """Whether every run has it."""
        return self.reached == self.count


@dataclass(frozen=True)
class GridPoint:
    """A learning rate that was tried with the seed that picks."""

    rate: float
    end: float
    """What picks, at the end; infinite if the run diverged."""
    accuracy: float | None
    """At the end; None where the task has none or the run diverged."""


@dataclass(frozen=True)
class Entry:
    """An optimizer in an experiment, at its tuned rate."""

    optimizer: str
    label: str
    """Its name in prose, with the settings that tell it from another of the same name."""
    settings: Mapping[str, Any]
    """Without the learning rate."""
    grid: tuple[GridPoint, ...]
    choice: Choice
    runs: tuple[Run, ...]
    """At the picked rate, by seed; at the lowest rate if every run diverged."""

    @property
    def is_lnb(self) -> bool:
        """Whether it is one of linear neuron boosting's."""
        return self.optimizer.startswith("lnb")

    @property
    def diverged(self) -> int:
        """How many of `runs` did."""
        return sum(not run.records[-1].finite for run in self.runs)

    def at_end(self, value: Callable[[Record], float | None]) -> Spread | None:
        """What `value` is at the end of the runs that stayed finite; None if nothing is."""
        values = [value(run.records[-1]) for run in self.runs if run.records[-1].finite]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        return spread(finite) if finite else None

    def metric_at_end(self, metric: str) -> Spread | None:
        """The metric at the end of the runs that stayed finite."""
        return self.at_end(lambda record: record.metrics.get(metric))

    def first_with(self, condition: Callable[[Record], bool]) -> Reach | None:
        """When the runs first meet a condition; None if none does."""
        firsts = [next((r for r in run.records if r.finite and condition(r)), None) for run in self.runs]
        met = [record for record in firsts if record is not None]
        if not met:
            return None
        steps, epochs, seconds = (
            statistics.fmean(times) for times in zip(*((r.step, r.epoch, r.seconds) for r in met), strict=True)
        )
        return Reach(steps, epochs, seconds, len(met), len(self.runs))

    def whole(self) -> Reach:
        """How long the runs are."""
        ends = [run.records[-1] for run in self.runs]
        steps, epochs, seconds = (
            statistics.fmean(times) for times in zip(*((r.step, r.epoch, r.seconds) for r in ends), strict=True)
        )
        return Reach(steps, epochs, seconds, len(ends), len(ends))

    def milliseconds(self) -> float | None:
        """Median time of a step."""
        return _median(summarize(run).milliseconds for run in self.runs)

    def step_bytes(self) -> float | None:
        """XLA's estimate of the memory of a step."""
        return _median(run.cost.step_bytes for run in self.runs if run.cost is not None)

    def compile_seconds(self) -> float | None:
        """Time to find the neurons and compile the step."""
        return _median(run.cost.compile_seconds for run in self.runs if run.cost is not None)


@dataclass(frozen=True)
class Ratio:
    """Time of an optimizer's step in units of the baseline's."""

    value: float
    together: bool
    """Whether both took turns on one machine."""


@dataclass(frozen=True)
class Experiment:
    """A task under one configuration, and the optimizers that were run on it."""

    task: str
    scale: str
    schedule: str
    epochs: int
    settings: Mapping[str, Any]
    """Of the task."""
    selection: str
    """The metric that picks learning rates."""
    target: Target
    entries: tuple[Entry, ...]
    timings: tuple[Run, ...]
    """Runs of the task at these settings, whatever their schedule and length."""

    @property
    def title(self) -> str:
        """Task, scale, schedule and length."""
        return f"{self.task}, {self.configuration}"

    @property
    def configuration(self) -> str:
        """Scale, schedule and length."""
        epochs = f"{self.epochs:,} epoch{'' if self.epochs == 1 else 's'}"
        return f"{self.scale} scale, {self.schedule} schedule, {epochs}"

    @property
    def baseline(self) -> Entry | None:
        """Tuned AdamW, else Adam: what the others are measured by; the better one if there are several."""
        return self.find(_BASELINES)

    def find(self, optimizers: Sequence[str]) -> Entry | None:
        """The first of some optimizers that was run and did not diverge, with the settings that end best."""
        for name in optimizers:
            ends = [(e.metric_at_end(self.selection), e) for e in self.entries if e.optimizer == name]
            finite = [(end.mean, entry) for end, entry in ends if end is not None]
            if finite:
                return min(finite, key=lambda pair: pair[0])[1]
        return None

    def step_ratio(self, entry: Entry, baseline: Entry) -> Ratio | None:
        """Time of a step in units of the baseline's, from runs that took turns if there are any."""
        ratios = []
        for name in {run.header.comparison for run in self.timings}:
            ours, theirs = (
                _median(
                    summarize(run).milliseconds for run in self.timings if name == run.header.comparison and of(run)
                )
                for of in (_is_of(entry), _is_of(baseline))
            )
            if ours and theirs and entry is not baseline:
                ratios.append(ours / theirs)
        if ratios:
            return Ratio(statistics.median(ratios), together=True)
        ours, theirs = entry.milliseconds(), baseline.milliseconds()
        return Ratio(ours / theirs, together=entry is baseline) if ours and theirs else None

    def time_share(self, entry: Entry, ours: Reach, baseline: Entry, theirs: Reach) -> float:
        """The optimizer's time as a share of the baseline's.

        Seconds of runs that did not take turns tell how busy the machine was, too. So where the ratio of the times of
        a step is known from runs that did, the share is that ratio times the share of steps.
        """
        ratio = self.step_ratio(entry, baseline)
        if ratio is not None and ratio.together:
            return ratio.value * ours.steps / theirs.steps
        return ours.seconds / theirs.seconds


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least one number.

    >>> spread([1.0, 3.0])
    Spread(mean=2.0, deviation=1.4142135623730951, count=2)
    """
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def experiments_of(
    runs: Sequence[Run], timings: Sequence[Run]
) -> tuple[tuple[Experiment, ...], tuple[Experiment, ...]]:
    """The experiments that runs belong to, in the order of the tasks, and those that only tell how long a step takes.

    The latter have a rate and a seed for each optimizer, where the task at these settings has an experiment of more.

    Args:
        runs: that have ended, each combination of settings and seed once.
        timings: whose times count, repetitions included.

    Raises:
        ExperimentError: a task or a metric is not known.
    """
    groups = _grouped(runs, lambda run: _key(_place(run), run.header.epochs, run.header.schedule))
    experiments = [_experiment(group, timings) for group in groups]
    experiments.sort(key=lambda experiment: list(TASKS).index(experiment.task))
    swept = {_key(_place(e.entries[0].runs[0])) for e in experiments if _is_swept(e)}
    shown = tuple(e for e in experiments if _is_swept(e) or _key(_place(e.entries[0].runs[0])) not in swept)
    return shown, tuple(e for e in experiments if e not in shown)


def _experiment(group: Sequence[Run], timings: Sequence[Run]) -> Experiment:
    header = group[0].header
    selection = find_task(header.task).selection
    order = list(LABELS)
    families = _grouped(group, lambda run: _key(run.header.optimizer, _without_rate(run)))
    entries = [_entry(family, families, selection) for family in families]
    entries.sort(key=lambda entry: order.index(entry.optimizer) if entry.optimizer in order else len(order))
    alike = [run for run in timings if _place(run) == _place(group[0])]
    entries = _on_one_clock(entries, alike)
    return Experiment(
        task=header.task,
        scale=header.scale,
        schedule=header.schedule,
        epochs=header.epochs,
        settings=header.task_settings,
        selection=selection,
        target=header.target,
        entries=tuple(entries),
        timings=tuple(alike),
    )


def _on_one_clock(entries: Sequence[Entry], timings: Sequence[Run]) -> list[Entry]:
    """The entries with the seconds that their steps take in the runs that took turns, of the most of them.

    Seconds of runs that did not take turns tell how busy the machine was, too. Other turns are brought to the clock of
    these by the optimizers that both have. An entry that took no turns with any of them keeps its own seconds.
    """

    def clock(name: str) -> dict[int, float]:
        together = [run for run in timings if run.header.comparison == name]
        found = [_median(summarize(run).milliseconds for run in together if _is_of(e)(run)) for e in entries]
        return {place: value for place, value in enumerate(found) if value is not None}

    clocks = [clock(name) for name in sorted({run.header.comparison for run in timings})]
    clocks.sort(key=len, reverse=True)
    best = dict(clocks[0]) if clocks else {}
    if len(best) < 2:
        return list(entries)
    for other in clocks[1:]:
        speeds = [best[place] / other[place] for place in best.keys() & other.keys()]
        if speeds:
            best = {place: value * statistics.median(speeds) for place, value in other.items()} | best
    return [_timed(entry, best[k]) if k in best else entry for k, entry in enumerate(entries)]


def _timed(entry: Entry, milliseconds: float) -> Entry:
    def retimed(record: Record) -> Record:
        known = None if record.milliseconds is None else milliseconds
        return replace(record, seconds=record.step * milliseconds / 1000, milliseconds=known)

    return replace(entry, runs=tuple(replace(run, records=tuple(map(retimed, run.records))) for run in entry.runs))


def _entry(family: Sequence[Run], families: Sequence[Sequence[Run]], selection: str) -> Entry:
    """An optimizer's runs of one experiment; they differ in rate and seed alone."""
    seeds = sorted({run.header.seed for run in family})
    picking = max(seeds, key=lambda seed: len({_rate(run) for run in family if run.header.seed == seed}))
    grid = sorted((run for run in family if run.header.seed == picking), key=_rate)
    ends = {_rate(run): end_value(run, selection) for run in grid}
    choice = choose_rate(ends)
    shown = min(ends) if choice.rate is None else choice.rate
    name = family[0].header.optimizer
    return Entry(
        optimizer=name,
        label=_label(family[0], families),
        settings=_without_rate(family[0]),
        grid=tuple(GridPoint(_rate(run), ends[_rate(run)], _final_accuracy(run)) for run in grid),
        choice=choice,
        runs=tuple(sorted((run for run in family if _rate(run) == shown), key=lambda run: run.header.seed)),
    )


def _label(run: Run, families: Sequence[Sequence[Run]]) -> str:
    name, own = run.header.optimizer, _without_rate(run)
    others = [_without_rate(family[0]) for family in families if family[0].header.optimizer == name]
    differing = [key for key, value in own.items() if any(other.get(key) != value for other in others)]
    return ", ".join([LABELS.get(name, name), *(f"{key.replace('_', ' ')} {own[key]}" for key in differing)])


def _is_swept(experiment: Experiment) -> bool:
    return any(len(entry.grid) > 1 or len(entry.runs) > 1 for entry in experiment.entries)


def _is_of(entry: Entry) -> Callable[[Run], bool]:
    return lambda run: run.header.optimizer == entry.optimizer and _without_rate(run) == entry.settings


def _place(run: Run) -> tuple[Any, ...]:
    return (run.header.task, run.header.scale, _key(run.header.task_settings))


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True)


def _grouped(runs: Iterable[Run], key: Callable[[Run], str]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _rate(run: Run) -> float:
    return run.header.optimizer_settings["learning_rate"]


def _without_rate(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.header.optimizer_settings.items() if key != "learning_rate"}


def _final_accuracy(run: Run) -> float | None:
    last = run.records[-1]
    return last.metrics.get("accuracy") if last.finite else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
