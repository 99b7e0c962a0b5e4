"""Experiments: optimizers side by side, each at its tuned learning rate.

An experiment is a task at a scale with given settings, epochs and schedule. An optimizer's rate is picked as a sweep
picks it, and its numbers are means over the seeds that the picked rate was run with.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lnb_experiments.runs._records import Run, summarize
from lnb_experiments.runs._sweep import Choice, choose_rate, end_value
from lnb_experiments.runs._training import Record
from lnb_experiments.tasks._task import Target
from lnb_experiments.tasks._tasks import TASKS, find_task

LABELS: Mapping[str, str] = {
    "adamw": "AdamW",
    "adam": "Adam",
    "sgd": "SGD",
    "muon": "Muon",
    "kfac": "K-FAC",
    "gauss-newton": "Gauss-Newton",
    "lnb": "LNB",
    "lnb-paper": "LNB (paper)",
    "lnb-cholesky": "LNB (Cholesky)",
    "lnb-low-rank": "LNB (low rank)",
    "lnb-diagonal": "LNB (diagonal)",
}
"""The optimizers' names on the page, in the order of tables."""

TRAINING_LOSS = "training_loss"
"""The name of a record's loss where metrics are named."""

_BASELINES = ("adamw", "adam")  # the first of them that was run is the one that the others are compared with
_ROUNDING = 1e-9  # the mean of one number is that number, whatever its last bit


@dataclass(frozen=True)
class TimeToTarget:
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
class Entry:
    """An optimizer in an experiment, at its tuned rate."""

    optimizer: str
    label: str
    """Its name on the page, with the settings that tell it from another of the same name."""
    settings: Mapping[str, Any]
    """Without the learning rate."""
    grid: tuple[Run, ...]
    """The runs of the seed that picks, by rate."""
    choice: Choice
    runs: tuple[Run, ...]
    """At the picked rate, by seed; at the lowest rate if every run diverged."""

    @property
    def is_lnb(self) -> bool:
        """Whether it is a form of linear neuron boosting."""
        return self.optimizer.startswith("lnb")

    @property
    def diverged(self) -> int:
        """The number of `runs` that diverged."""
        return sum(not run.records[-1].finite for run in self.runs)

    def at_end(self, metric: str) -> tuple[float, ...]:
        """The metric at the end of each run that stayed finite."""
        values = [_metrics(run.records[-1]).get(metric) for run in self.runs if run.records[-1].finite]
        return tuple(value for value in values if value is not None and math.isfinite(value))

    def mean_at_end(self, metric: str) -> float | None:
        """The mean of `at_end`; None if there is nothing."""
        ends = self.at_end(metric)
        return statistics.fmean(ends) if ends else None

    def time_to(self, target: Target) -> TimeToTarget | None:
        """When the runs first reach a target; None if none does."""
        firsts = (next((r for r in run.records if r.finite and target.reached(_metrics(r))), None) for run in self.runs)
        reached = [record for record in firsts if record is not None]
        return _mean_time(reached, len(self.runs)) if reached else None

    def time_to_end_of(self, other: Entry, metric: str, *, at_least: bool = False) -> TimeToTarget | None:
        """When the runs first have another entry's final value of a metric, on average over the other's seeds."""
        end = other.mean_at_end(metric)
        if end is None:
            return None
        return self.time_to(Target(metric, end + (-1 if at_least else 1) * _ROUNDING * abs(end), at_least))

    def full_length(self) -> TimeToTarget:
        """How long the runs are."""
        return _mean_time([run.records[-1] for run in self.runs], len(self.runs))

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
    interleaved: bool
    """Whether both took turns on one machine."""


@dataclass(frozen=True)
class Experiment:
    """A task under one configuration, and the optimizers that were run on it."""

    task: str
    scale: str
    schedule: str
    epochs: int
    settings: Mapping[str, Any]
    """The settings of the task."""
    selection: str
    """The metric that picks learning rates."""
    target: Target
    entries: tuple[Entry, ...]
    step_times: pd.DataFrame
    """Milliseconds of a step, a row for each comparison and a column for each optimizer that took part."""

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
        """Tuned AdamW, else Adam; the better one if there are several."""
        return self.find(_BASELINES)

    def find(self, optimizers: Sequence[str]) -> Entry | None:
        """The first of some optimizers that was run and did not diverge, with the settings that end best."""
        for name in optimizers:
            ends = [(e.mean_at_end(self.selection), e) for e in self.entries if e.optimizer == name]
            finite = [(end, entry) for end, entry in ends if end is not None]
            if finite:
                return min(finite, key=lambda pair: pair[0])[1]
        return None

    def step_ratio(self, entry: Entry, baseline: Entry) -> Ratio | None:
        """Time of a step in units of the baseline's, from runs that took turns if there are any."""
        if entry is baseline:
            return Ratio(1.0, interleaved=True) if entry.milliseconds() else None
        columns = [_key(one.optimizer, one.settings) for one in (entry, baseline)]
        if set(columns) <= set(self.step_times.columns):
            ratios = (self.step_times[columns[0]] / self.step_times[columns[1]]).dropna()
            if len(ratios):
                return Ratio(statistics.median(ratios), interleaved=True)
        ours, theirs = entry.milliseconds(), baseline.milliseconds()
        return Ratio(ours / theirs, interleaved=False) if ours and theirs else None

    def time_share(self, entry: Entry, ours: TimeToTarget, baseline: Entry, theirs: TimeToTarget) -> float:
        """The optimizer's time as a share of the baseline's.

        Seconds of runs that did not take turns also tell how busy the machine was. Where the ratio of the times of a
        step is known from runs that did, the share is that ratio times the share of steps.
        """
        ratio = self.step_ratio(entry, baseline)
        if ratio is not None and ratio.interleaved:
            return ratio.value * ours.steps / theirs.steps
        return ours.seconds / theirs.seconds


def experiments_of(
    runs: Sequence[Run], timings: Sequence[Run]
) -> tuple[tuple[Experiment, ...], tuple[Experiment, ...]]:
    """The experiments that runs belong to, in the order of the tasks, and those that only tell how long a step takes.

    The latter have a rate and a seed for each optimizer, where the task at these settings has an experiment of more.

    Args:
        runs: runs that have ended, each combination of settings and seed once.
        timings: runs whose times count, repetitions included.

    Raises:
        ExperimentError: a task or a metric is not known.
    """
    groups = _grouped(runs, lambda run: _key(_configuration(run), run.header.epochs, run.header.schedule))
    experiments = [_experiment(group, timings) for group in groups]
    experiments.sort(key=lambda experiment: list(TASKS).index(experiment.task))
    swept = {_configuration(e.entries[0].runs[0]) for e in experiments if _is_swept(e)}
    shown = [e for e in experiments if _is_swept(e) or _configuration(e.entries[0].runs[0]) not in swept]
    return tuple(shown), tuple(e for e in experiments if not any(e is one for one in shown))


def _experiment(group: Sequence[Run], timings: Sequence[Run]) -> Experiment:
    header = group[0].header
    selection = find_task(header.task).selection
    families = _grouped(group, _family)
    entries = [_entry(family, families, selection) for family in families]
    order = [*LABELS, *(entry.optimizer for entry in entries)]
    entries.sort(key=lambda entry: order.index(entry.optimizer))
    step_times = _step_times(run for run in timings if _configuration(run) == _configuration(group[0]))
    return Experiment(
        task=header.task,
        scale=header.scale,
        schedule=header.schedule,
        epochs=header.epochs,
        settings=header.task_settings,
        selection=selection,
        target=header.target,
        entries=_calibrate_timings(entries, step_times),
        step_times=step_times,
    )


def _step_times(runs: Iterable[Run]) -> pd.DataFrame:
    rows = [(run.header.comparison, _family(run), summarize(run).milliseconds) for run in runs]
    table = pd.DataFrame(rows, columns=["comparison", "optimizer", "milliseconds"]).astype({"milliseconds": float})
    return table.pivot_table(index="comparison", columns="optimizer", values="milliseconds", aggfunc="median")


def _calibrate_timings(entries: Sequence[Entry], step_times: pd.DataFrame) -> tuple[Entry, ...]:
    """The entries with the seconds that their steps take in the largest comparison.

    Seconds of runs that did not take turns also tell how busy the machine was. The times of other comparisons are
    scaled to the largest one's by the optimizers that both have. An entry that is in none of these keeps its seconds.
    """
    names = [_key(entry.optimizer, entry.settings) for entry in entries]
    known = step_times[[name for name in names if name in step_times.columns]]
    order = known.notna().sum(axis=1).sort_values(ascending=False, kind="stable").index
    if known.empty or known.loc[order[0]].count() < 2:
        return tuple(entries)
    best = known.loc[order[0]]
    for comparison in order[1:]:
        other = known.loc[comparison]
        best = best.fillna(other * (best / other).median())
    times = best.dropna()
    return tuple(_timed(e, float(times[n])) if n in times else e for e, n in zip(entries, names, strict=True))


def _timed(entry: Entry, milliseconds: float) -> Entry:
    def retimed(record: Record) -> Record:
        known = None if record.milliseconds is None else milliseconds
        return replace(record, seconds=record.step * milliseconds / 1000, milliseconds=known)

    return replace(entry, runs=tuple(replace(run, records=tuple(map(retimed, run.records))) for run in entry.runs))


def _entry(family: Sequence[Run], families: Sequence[Sequence[Run]], selection: str) -> Entry:
    """An optimizer's runs of one experiment, which differ in rate and seed alone."""
    seeds = sorted({run.header.seed for run in family})
    picking = max(seeds, key=lambda seed: len({run.rate for run in family if run.header.seed == seed}))
    grid = sorted((run for run in family if run.header.seed == picking), key=lambda run: run.rate)
    choice = choose_rate({run.rate: end_value(run, selection) for run in grid})
    shown = grid[0].rate if choice.rate is None else choice.rate
    return Entry(
        optimizer=family[0].header.optimizer,
        label=_label(family[0], families),
        settings=_without_rate(family[0]),
        grid=tuple(grid),
        choice=choice,
        runs=tuple(sorted((run for run in family if run.rate == shown), key=lambda run: run.header.seed)),
    )


def _label(run: Run, families: Sequence[Sequence[Run]]) -> str:
    name, own = run.header.optimizer, pd.json_normalize(_without_rate(run), sep=" ").to_dict("records")[0]
    others = [_without_rate(family[0]) for family in families if family[0].header.optimizer == name]
    others = [pd.json_normalize(other, sep=" ").to_dict("records")[0] for other in others]
    differing = [key for key, value in own.items() if any(other.get(key) != value for other in others)]
    return ", ".join([LABELS.get(name, name), *(f"{str(key).replace('_', ' ')} {own[key]}" for key in differing)])


def _is_swept(experiment: Experiment) -> bool:
    return any(len(entry.grid) > 1 or len(entry.runs) > 1 for entry in experiment.entries)


def _family(run: Run) -> str:
    return _key(run.header.optimizer, _without_rate(run))


def _configuration(run: Run) -> str:
    return _key(run.header.task, run.header.scale, run.header.task_settings)


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True)


def _grouped(runs: Iterable[Run], key: Callable[[Run], str]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _without_rate(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.header.optimizer_settings.items() if key != "learning_rate"}


def _metrics(record: Record) -> dict[str, float]:
    return {**record.metrics, TRAINING_LOSS: record.loss}


def _mean_time(records: Sequence[Record], count: int) -> TimeToTarget:
    return TimeToTarget(
        steps=statistics.fmean(record.step for record in records),
        epochs=statistics.fmean(record.epoch for record in records),
        seconds=statistics.fmean(record.seconds for record in records),
        reached=len(records),
        count=count,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
