"""Whether the paper's figures are reproduced, by criteria that are stated and computed from records.

A figure is judged once for each of linear neuron boosting's solvers and each experiment; the figure's own verdict is
that of the paper's solver, conjugate gradients, where it was run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lnb.experiments import _numerals as numerals
from lnb.experiments._findings import Entry, Experiment, Ratio, Reach
from lnb.experiments._training import Record

Outcome = Literal["reproduced", "partly", "not reproduced", "not run"]

_FACTORIZED = 1e-6  # the relative loss of Figure 1
_ALIKE = 0.005  # Figure 2: accuracies that are as good as the same
_INVARIANT = 0.003  # what LNB may lose by inverting pixels
_DEGRADED = 0.01  # what Adam has to lose
_INVERTED = "-inverted"  # what the name of a task ends in whose pixels are
_ROUNDING = 1e-9  # a difference of two accuracies is no exact decimal


@dataclass(frozen=True)
class Fact:
    """A criterion, with the numbers that meet it or do not."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Case:
    """A figure, judged for one solver in one experiment."""

    label: str
    """The solver's name in prose."""
    optimizer: str
    scale: str
    where: str
    """The experiment."""
    facts: tuple[Fact, ...]
    remarks: tuple[str, ...] = ()
    """Numbers that decide nothing."""

    @property
    def outcome(self) -> Outcome:
        """Reproduced if all facts hold, partly if one does."""
        held = [fact.holds for fact in self.facts]
        return "reproduced" if all(held) else "partly" if any(held) else "not reproduced"


@dataclass(frozen=True)
class PaperFigure:
    """One of the paper's figures, what it shows, and how that turned out."""

    number: int
    title: str
    claim: str
    """What the paper shows."""
    criteria: str
    """When it counts as reproduced."""
    tasks: str
    """What to run for it."""
    cases: tuple[Case, ...]

    @property
    def main(self) -> Case | None:
        """The case that gives the figure its verdict: of the paper's solver if any, at the paper's scale if any."""
        ranked = sorted(self.cases, key=lambda case: (case.optimizer != "lnb", case.scale != "paper"))
        return ranked[0] if ranked else None

    @property
    def outcome(self) -> Outcome:
        """The verdict."""
        return "not run" if self.main is None else self.main.outcome


def papers_figures(experiments: Sequence[Experiment]) -> tuple[PaperFigure, ...]:
    """The paper's four figures, judged."""
    return (
        PaperFigure(
            1,
            "Matrix factorization",
            "A two-layer linear network fits a badly conditioned matrix: LNB converges fast, Adam slowly.",
            "LNB comes to a relative loss of 1e-6 in fewer steps than tuned Adam, which may never come there. "
            "Partly if that holds for some seeds.",
            "matrix-factorization",
            tuple(_cases(experiments, "matrix-factorization", ("adam", "adamw"), _factorizes_faster)),
        ),
        PaperFigure(
            2,
            "MNIST and inverted MNIST",
            "LNB and Adam are alike on MNIST; with inverted pixels LNB stays as it is and Adam degrades.",
            "(a) On MNIST the final accuracies of LNB and Adam are within 0.5 points. (b) With inverted pixels LNB "
            "is no more than 0.3 points below its own accuracy on MNIST, while Adam loses over 1 point. Rates are "
            "tuned for each of the two. Reproduced if both hold at every depth that was run, partly if something "
            "holds.",
            "mnist, mnist-inverted, and the same of mnist-deep",
            _mnist_cases(experiments),
        ),
        PaperFigure(
            3,
            "Vision transformer on CIFAR-10",
            "LNB converges faster and generalizes better; an epoch takes 1.26 min, 1.48 times Adam's 0.85 min.",
            "(a) LNB comes to AdamW's final validation loss with every seed, in fewer epochs than AdamW itself first "
            "needs. (b) Its final accuracy is at least AdamW's. Partly if one holds.",
            "vit-cifar10",
            tuple(_cases(experiments, "vit-cifar10", ("adamw", "adam"), _transforms_faster)),
        ),
        PaperFigure(
            4,
            "U-Net on VOC segmentation",
            "LNB converges in far fewer epochs to a comparable validation result; an epoch takes 2.92 min, 2.30 times "
            "Adam's 1.27 min.",
            "LNB comes to AdamW's final training loss (a), and to its final validation accuracy (b), with every seed "
            "and in fewer epochs than AdamW itself first needs. (c) Its final validation loss is no higher than "
            "AdamW's. Partly if one holds.",
            "unet-voc",
            tuple(_cases(experiments, "unet-voc", ("adamw", "adam"), _segments_faster)),
        ),
    )


def _cases(
    experiments: Sequence[Experiment],
    task: str,
    baselines: Sequence[str],
    judge: Callable[[Experiment, Entry, Entry], tuple[tuple[Fact, ...], tuple[str, ...]]],
) -> Iterator[Case]:
    for experiment in experiments:
        baseline = experiment.find(baselines)
        if experiment.task == task and baseline is not None:
            for entry in experiment.entries:
                if entry.is_lnb:
                    facts, remarks = judge(experiment, entry, baseline)
                    yield Case(entry.label, entry.optimizer, experiment.scale, experiment.title, facts, remarks)


def _factorizes_faster(
    experiment: Experiment, entry: Entry, baseline: Entry
) -> tuple[tuple[Fact, ...], tuple[str, ...]]:
    def factorized(record: Record) -> bool:
        return record.metrics["relative_loss"] <= _FACTORIZED

    ours, theirs = entry.first_with(factorized), baseline.first_with(factorized)
    if ours is None:
        return (Fact(f"{entry.label} never comes to 1e-6", False),), ()
    text = f"{entry.label} comes to 1e-6 in {numerals.steps(ours.steps)} steps"
    if theirs is None:
        total = baseline.whole().steps
        factor = f"more than {numerals.times(total / ours.steps)} times as many"
        facts = [Fact(f"{text}, {baseline.label} never in its {numerals.steps(total)}: {factor}", True)]
    else:
        factor = f"{numerals.times(theirs.steps / ours.steps)} times as many"
        seeds = f" ({_seeds(theirs, baseline)})"
        fewer = ours.steps < theirs.steps
        facts = [Fact(f"{text}, {baseline.label} in {numerals.steps(theirs.steps)}{seeds}: {factor}", fewer)]
    if facts[0].holds:  # whether all seeds come there is of no account where none is faster
        facts.append(Fact(f"it comes there with {_seeds(ours, entry)}", ours.by_all))
    return tuple(facts), ()


def _mnist_cases(experiments: Sequence[Experiment]) -> tuple[Case, ...]:
    """The cases of Figure 2, in each of which depths are judged together."""
    cases: dict[tuple[str, str], Case] = {}
    for plain in experiments:
        adam = plain.find(("adam", "adamw"))
        if not plain.task.startswith("mnist") or plain.task.endswith(_INVERTED) or adam is None:
            continue
        where = f"MNIST, {plain.configuration}"
        for entry in plain.entries:
            if entry.is_lnb:
                before = cases.get((where, entry.label))
                facts = _invariant_facts(plain, _inverted(plain, experiments), entry, adam)
                facts = (*(before.facts if before else ()), *facts)
                cases[where, entry.label] = Case(entry.label, entry.optimizer, plain.scale, where, facts)
    return tuple(cases.values())


def _inverted(plain: Experiment, experiments: Sequence[Experiment]) -> Experiment | None:
    def configuration(experiment: Experiment) -> tuple[object, ...]:
        return (experiment.scale, experiment.schedule, experiment.epochs, experiment.settings)

    name = f"{plain.task}{_INVERTED}"
    same = (e for e in experiments if e.task == name and configuration(e) == configuration(plain))
    return next(same, None)


def _invariant_facts(plain: Experiment, inverted: Experiment | None, lnb: Entry, adam: Entry) -> tuple[Fact, ...]:
    depth = f"{plain.task}, hidden layers {'-'.join(map(str, plain.settings['hidden']))}: "
    ours, theirs = (entry.metric_at_end("accuracy") for entry in (lnb, adam))
    if ours is None or theirs is None:
        return (Fact(f"{depth}(a) {lnb.label if ours is None else adam.label} diverged with every seed", False),)
    first = Fact(
        f"{depth}(a) {lnb.label} ends at {numerals.accuracy(ours.mean)}, {adam.label} at "
        f"{numerals.accuracy(theirs.mean)}: {_points(ours.mean - theirs.mean)}",
        not lnb.diverged and abs(ours.mean - theirs.mean) <= _ALIKE + _ROUNDING,
    )
    if inverted is None:
        return first, Fact(f"{depth}(b) {plain.task}{_INVERTED} was not run like this", False)
    changes: list[float] = []
    for entry, before in ((lnb, ours), (adam, theirs)):
        same = (e for e in inverted.entries if (e.optimizer, e.settings) == (entry.optimizer, entry.settings))
        after = next((end for e in same if (end := e.metric_at_end("accuracy"))), None)
        if after is None:
            return first, Fact(f"{depth}(b) {entry.label} has no finite run with inverted pixels", False)
        changes.append(after.mean - before.mean)
    second = Fact(
        f"{depth}(b) inverting changes {lnb.label} by {_points(changes[0])}, {adam.label} by {_points(changes[1])}",
        changes[0] >= -_INVARIANT - _ROUNDING and changes[1] < -_DEGRADED - _ROUNDING,
    )
    return first, second


def _transforms_faster(
    experiment: Experiment, entry: Entry, baseline: Entry
) -> tuple[tuple[Fact, ...], tuple[str, ...]]:
    loss = baseline.metric_at_end("validation_loss")
    faster = _fewer_epochs(
        entry, baseline, "(a)", "validation loss", loss and loss.mean, lambda record: record.metrics["validation_loss"]
    )
    ours, theirs = (one.metric_at_end("accuracy") for one in (entry, baseline))
    better = Fact(
        f"(b) its final accuracy is {numerals.with_spread(ours, numerals.accuracy)}, {baseline.label}'s "
        f"{numerals.with_spread(theirs, numerals.accuracy)}",
        not entry.diverged and ours is not None and theirs is not None and ours.mean >= theirs.mean,
    )
    return (faster, better), (_time_remark(experiment.step_ratio(entry, baseline), "1.48"),)


def _segments_faster(experiment: Experiment, entry: Entry, baseline: Entry) -> tuple[tuple[Fact, ...], tuple[str, ...]]:
    training, accuracy = baseline.at_end(lambda record: record.loss), baseline.metric_at_end("accuracy")
    fits = _fewer_epochs(
        entry, baseline, "(a)", "training loss", training and training.mean, lambda record: record.loss
    )
    generalizes = _fewer_epochs(
        entry,
        baseline,
        "(b)",
        "validation accuracy",
        accuracy and -accuracy.mean,
        lambda record: -record.metrics["accuracy"],
        form=lambda value: numerals.accuracy(-value),
    )
    ours, theirs = (one.metric_at_end("validation_loss") for one in (entry, baseline))
    no_worse = Fact(
        f"(c) its final validation loss is {numerals.with_spread(ours, numerals.loss)}, {baseline.label}'s "
        f"{numerals.with_spread(theirs, numerals.loss)}",
        not entry.diverged and ours is not None and theirs is not None and ours.mean <= theirs.mean,
    )
    return (fits, generalizes, no_worse), (_time_remark(experiment.step_ratio(entry, baseline), "2.30"),)


def _fewer_epochs(
    entry: Entry,
    baseline: Entry,
    mark: str,
    name: str,
    level: float | None,
    value: Callable[[Record], float],
    form: Callable[[float], str] = numerals.loss,
) -> Fact:
    """Whether `value` comes down to a level, the baseline's at its end, sooner than the baseline's own does."""
    if level is None:
        return Fact(f"{mark} {baseline.label} has no final {name}", False)
    reference = level + _ROUNDING * abs(level)  # of a single run, the end itself is the level
    ours, theirs = (one.first_with(lambda record: value(record) <= reference) for one in (entry, baseline))
    goal = f"{baseline.label}'s final {name}, {form(level)}"
    if ours is None:
        return Fact(f"{mark} {entry.label} never comes to {goal}", False)
    total = baseline.whole().epochs
    needed = theirs.epochs if theirs is not None and theirs.by_all else total
    text = (
        f"{mark} {entry.label} comes to {goal}, in {ours.epochs:.3g} epochs ({_seeds(ours, entry)}), "
        f"{baseline.label} itself in {needed:.3g} of its {total:.3g}"
    )
    return Fact(text, ours.by_all and ours.epochs < needed)


def _time_remark(ratio: Ratio | None, papers: str) -> str:
    if ratio is None:
        return f"time of a step: not recorded (the paper: {papers} times Adam's)"
    apart = "" if ratio.together else ", from runs that did not take turns"
    return f"time of a step: {numerals.times(ratio.value)} times the baseline's{apart} (the paper: {papers} times)"


def _seeds(reach: Reach, entry: Entry) -> str:
    count = len(entry.runs)
    return f"{reach.reached} of {count} seed{'s' if count > 1 else ''}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.3g} points"
