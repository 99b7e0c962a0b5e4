"""The paper's figures: what it claims, what the records measure, and whether the claim holds.

A figure is judged for each form of linear neuron boosting and each experiment. Its verdict is that of the paper's
settings, at the paper's scale, where they were run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lnb_experiments.analysis import _numerals as numerals
from lnb_experiments.analysis._findings import TRAINING_LOSS, Entry, Experiment, TimeToTarget
from lnb_experiments.tasks._task import Target

Outcome = Literal["reproduced", "partly", "not reproduced", "not run"]

_FACTORIZED = Target("relative_loss", 1e-6, at_least=False)
_ALIKE = 0.005  # accuracies that count as the same
_INVARIANT = 0.003  # the accuracy that LNB may lose by inverted pixels
_DEGRADED = 0.01  # the accuracy that Adam has to lose
_INVERTED = "-inverted"  # the end of the name of a task with inverted pixels
_ROUNDING = 1e-9  # a difference of two accuracies is no exact decimal


@dataclass(frozen=True)
class Criterion:
    """A claim of the paper's beside its measurement."""

    claimed: str
    measured: str
    holds: bool | None
    """None for a number that decides nothing."""


@dataclass(frozen=True)
class Judgement:
    """A figure of the paper's, judged for one optimizer in one experiment."""

    label: str
    optimizer: str
    scale: str
    where: str
    """The experiment."""
    criteria: tuple[Criterion, ...]

    @property
    def outcome(self) -> Outcome:
        """Reproduced if every criterion holds, partly if one does."""
        held = [criterion.holds for criterion in self.criteria if criterion.holds is not None]
        return "reproduced" if all(held) else "partly" if any(held) else "not reproduced"


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper's and its judgements."""

    number: int
    title: str
    tasks: str
    """The tasks that measure it."""
    judgements: tuple[Judgement, ...]

    @property
    def outcome(self) -> Outcome:
        """The verdict."""
        ranked = sorted(self.judgements, key=lambda one: (one.optimizer != "lnb-paper", one.scale != "paper"))
        return ranked[0].outcome if ranked else "not run"


def paper_figures(experiments: Sequence[Experiment]) -> tuple[PaperFigure, ...]:
    """The paper's four figures, judged."""
    adam, adamw = ("adam", "adamw"), ("adamw", "adam")

    def figure(number: int, title: str, task: str, baselines: Sequence[str], judge: _Judge) -> PaperFigure:
        return PaperFigure(number, title, task, tuple(_judge(experiments, task, baselines, judge)))

    return (
        figure(1, "Matrix factorization", "matrix-factorization", adam, _factorization),
        PaperFigure(
            2, "MNIST and inverted MNIST", "mnist, mnist-inverted, and the same of mnist-deep", _mnist(experiments)
        ),
        figure(3, "Vision transformer on CIFAR-10", "vit-cifar10", adamw, _vision_transformer),
        figure(4, "U-Net on VOC segmentation", "unet-voc", adamw, _segmentation),
    )


_Judge = Callable[[Experiment, Entry, Entry], tuple[Criterion, ...]]


def _judge(
    experiments: Sequence[Experiment], task: str, baselines: Sequence[str], judge: _Judge
) -> Iterator[Judgement]:
    for experiment in experiments:
        baseline = experiment.find(baselines)
        if experiment.task == task and baseline is not None:
            for entry in experiment.entries:
                if entry.is_lnb:
                    criteria = judge(experiment, entry, baseline)
                    yield Judgement(entry.label, entry.optimizer, experiment.scale, experiment.title, criteria)


def _factorization(experiment: Experiment, entry: Entry, baseline: Entry) -> tuple[Criterion, ...]:
    claimed = f"relative loss 1e-6 in fewer steps than {baseline.label}"
    ours, theirs = entry.time_to(_FACTORIZED), baseline.time_to(_FACTORIZED)
    if ours is None:
        return (Criterion(claimed, "never", holds=False),)
    if theirs is None:
        beside = f"never in {numerals.steps(baseline.full_length().steps)}"
    else:
        beside = f"{numerals.steps(theirs.steps)} ({_seeds(theirs)})"
    measured = f"{numerals.steps(ours.steps)} ({_seeds(ours)}), {baseline.label} {beside}"
    fewer = Criterion(claimed, measured, holds=theirs is None or ours.steps < theirs.steps)
    return (fewer, Criterion("with every seed", _seeds(ours), holds=ours.by_all)) if fewer.holds else (fewer,)


def _mnist(experiments: Sequence[Experiment]) -> tuple[Judgement, ...]:
    """The judgements of Figure 2, in each of which the depths are judged together."""
    found: dict[tuple[str, str], Judgement] = {}
    for plain in experiments:
        adam = plain.find(("adam", "adamw"))
        if not plain.task.startswith("mnist") or plain.task.endswith(_INVERTED) or adam is None:
            continue
        where = f"MNIST, {plain.configuration}"
        for entry in plain.entries:
            if entry.is_lnb:
                criteria = _invariance(plain, _inverted(plain, experiments), entry, adam)
                if (where, entry.label) in found:
                    criteria = (*found[where, entry.label].criteria, *criteria)
                found[where, entry.label] = Judgement(entry.label, entry.optimizer, plain.scale, where, criteria)
    return tuple(found.values())


def _inverted(plain: Experiment, experiments: Sequence[Experiment]) -> Experiment | None:
    def configuration(experiment: Experiment) -> tuple[object, ...]:
        return (experiment.scale, experiment.schedule, experiment.epochs, experiment.settings)

    name = f"{plain.task}{_INVERTED}"
    same = (e for e in experiments if e.task == name and configuration(e) == configuration(plain))
    return next(same, None)


def _invariance(plain: Experiment, inverted: Experiment | None, entry: Entry, adam: Entry) -> tuple[Criterion, ...]:
    depth = f"hidden layers {'-'.join(map(str, plain.settings['hidden']))}"
    alike = f"{depth}: accuracy within 0.5 points of {adam.label}'s"
    invariant = f"{depth}: inverted pixels cost at most 0.3 points, {adam.label} over 1"
    ours, theirs = (one.mean_at_end("accuracy") for one in (entry, adam))
    if ours is None or theirs is None:
        return (Criterion(alike, "diverged with every seed", holds=False),)
    first = Criterion(
        alike,
        f"{numerals.accuracy(ours)}, {adam.label} {numerals.accuracy(theirs)}",
        holds=not entry.diverged and abs(ours - theirs) <= _ALIKE + _ROUNDING,
    )
    if inverted is None:
        return first, Criterion(invariant, "not run", holds=False)
    changes: list[float] = []
    for one, before in ((entry, ours), (adam, theirs)):
        same = (e for e in inverted.entries if (e.optimizer, e.settings) == (one.optimizer, one.settings))
        after = next((end for e in same if (end := e.mean_at_end("accuracy")) is not None), None)
        if after is None:
            return first, Criterion(invariant, f"{one.label} has no finite run", holds=False)
        changes.append(after - before)
    measured = f"{100 * changes[0]:+.3g} points, {adam.label} {100 * changes[1]:+.3g}"
    holds = changes[0] >= -_INVARIANT - _ROUNDING and changes[1] < -_DEGRADED - _ROUNDING
    return first, Criterion(invariant, measured, holds)


def _vision_transformer(experiment: Experiment, entry: Entry, baseline: Entry) -> tuple[Criterion, ...]:
    return (
        _fewer_epochs(entry, baseline, "validation_loss"),
        _no_worse(entry, baseline, "accuracy", at_least=True),
        _step_time(experiment, entry, baseline, "1.48"),
    )


def _segmentation(experiment: Experiment, entry: Entry, baseline: Entry) -> tuple[Criterion, ...]:
    return (
        _fewer_epochs(entry, baseline, TRAINING_LOSS),
        _fewer_epochs(entry, baseline, "accuracy", at_least=True),
        _no_worse(entry, baseline, "validation_loss"),
        _step_time(experiment, entry, baseline, "2.30"),
    )


def _fewer_epochs(entry: Entry, baseline: Entry, metric: str, *, at_least: bool = False) -> Criterion:
    """Whether a metric comes to its value at the baseline's end sooner than the baseline's own first does."""
    claimed = f"{baseline.label}'s final {metric.replace('_', ' ')} in fewer epochs, with every seed"
    ours, theirs = (one.time_to_end_of(baseline, metric, at_least=at_least) for one in (entry, baseline))
    if ours is None:
        return Criterion(claimed, "never", holds=False)
    needed = theirs.epochs if theirs is not None and theirs.by_all else baseline.full_length().epochs
    measured = f"{ours.epochs:.3g} ({_seeds(ours)}), {baseline.label} {needed:.3g}"
    return Criterion(claimed, measured, holds=ours.by_all and ours.epochs < needed)


def _no_worse(entry: Entry, baseline: Entry, metric: str, *, at_least: bool = False) -> Criterion:
    form = numerals.accuracy if metric == "accuracy" else numerals.loss
    ends = [one.at_end(metric) for one in (entry, baseline)]
    ours, theirs = (one.mean_at_end(metric) for one in (entry, baseline))
    if ours is None or theirs is None or entry.diverged:
        holds = False
    else:
        holds = ours >= theirs if at_least else ours <= theirs
    return Criterion(
        f"final {metric.replace('_', ' ')} {'at least' if at_least else 'at most'} {baseline.label}'s",
        f"{numerals.with_spread(ends[0], form)}, {baseline.label} {numerals.with_spread(ends[1], form)}",
        holds,
    )


def _step_time(experiment: Experiment, entry: Entry, baseline: Entry, paper: str) -> Criterion:
    ratio = experiment.step_ratio(entry, baseline)
    apart = "" if ratio is None or ratio.interleaved else ", from runs that did not take turns"
    measured = "not recorded" if ratio is None else f"{numerals.times(ratio.value)} times{apart}"
    return Criterion(f"a step takes {paper} times Adam's", measured, holds=None)


def _seeds(time: TimeToTarget) -> str:
    return f"{time.reached} of {time.count} seed{'s' if time.count > 1 else ''}"
