"""Tasks: a network with its data, at one or two scales, and the criteria by which its runs are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lnb_experiments._errors import ExperimentError
from lnb_experiments.optimizers._optimizers import OptimizerSettings
from lnb_experiments.runs._training import Problem, Schedule

SCALES = ("cpu", "paper")
"""The names of scales: what two cores do in a minute, and what the paper has."""

_SEEDS = 2**32


@dataclass(frozen=True)
class Target:
    """A value of a metric that a run is timed to."""

    metric: str
    """Name of the metric, a key of a record's `metrics`."""
    value: float
    """The value to reach."""
    at_least: bool
    """Whether larger values are better."""

    def reached(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metrics have it.

        >>> Target("accuracy", 0.97, at_least=True).reached({"accuracy": 0.98})
        True
        """
        value = metrics[self.metric]
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        value = f"{self.value:.0%}" if self.metric == "accuracy" else f"{self.value:g}"
        return f"{self.metric.replace('_', ' ')} {sign} {value}"


@dataclass(frozen=True)
class Scale:
    """One size of a task: other numbers for the same code."""

    settings: Any
    """The task's hyper-parameters, a frozen dataclass."""
    epochs: int
    """Passes over the training data."""
    evaluate_every: int
    """Steps between evaluations."""
    optimizers: Mapping[str, OptimizerSettings] = field(default_factory=lambda: MappingProxyType({}))
    """The optimizers' starting settings at this scale, where they differ from the task's."""


@dataclass(frozen=True)
class Task:
    """A network to train on some data, and how that is judged."""

    name: str
    """Its name on the command line."""
    summary: str
    """One line."""
    make: Callable[[Any, int], Problem]
    """The function behind `build`."""
    scales: Mapping[str, Scale]
    """The sizes that it has, by a name of `SCALES`; always one called "cpu"."""
    target: Target
    """The value that its runs are timed to."""
    selection: str
    """The metric whose value at the end of a run picks a learning rate; lower is better."""
    schedule: Schedule
    """The default schedule of the learning rate: constant, or falling linearly to 0."""
    stop_at_target: bool
    """Whether a run ends once it has reached the target."""
    optimizers: Mapping[str, OptimizerSettings]
    """The starting settings of each optimizer."""

    def build(self, settings: Any, seed: int) -> Problem:
        """The network and its data.

        Args:
            settings: of the task, as those of a scale.
            seed: of the initial weights and of the order of the examples.

        Raises:
            ExperimentError: the seed or a setting is out of its range, or the data is not to be had.
        """
        check_seed(seed)
        return self.make(settings, seed)

    def name_at(self, scale: str) -> str:
        """The name that the command line has for the task at a scale."""
        return self.name if scale == "cpu" else f"{self.name}-{scale}"

    def at(self, scale: str) -> Scale:
        """The scale of that name.

        Raises:
            ExperimentError: the task has none; the message lists those that it has.
        """
        if scale not in self.scales:
            raise ExperimentError(f"`scale` must be one that {self.name} has: {', '.join(self.scales)}; got {scale!r}.")
        return self.scales[scale]

    def starting_settings(self, scale: str) -> Mapping[str, OptimizerSettings]:
        """The starting settings of each optimizer at a scale.

        Raises:
            ExperimentError: the task has no such scale.
        """
        return MappingProxyType({**self.optimizers, **self.at(scale).optimizers})


def check_seed(seed: int) -> None:
    """Check that the generators of JAX and NumPy take a seed.

    Raises:
        ExperimentError: they do not.
    """
    if not 0 <= seed < _SEEDS:
        raise ExperimentError(f"`seed` must be from 0 to {_SEEDS - 1}, got {seed}.")
