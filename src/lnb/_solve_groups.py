"""Neurons that read the same features and are solved with one set of statistics, as attention's q, k and v are.

Each neuron is solved on arrays of its own, so that layers of one shape run the same kernels (docs/notes.md). Statistics
that are not updated at every step are updated in turn, group by group, so that steps cost alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._batch import Features
from lnb._metric import Metric, metric_of
from lnb._neuron import Neuron
from lnb.solvers._assignment import AnySolverChoice, solver_of
from lnb.solvers._solver import Solution, Solver


class RefreshSchedule(NamedTuple):
    """The steps at which statistics are updated: the first `update_period`, and then every `update_period`-th.

    A network changes fastest at first, when old statistics would make steps too long.
    """

    steps: Array  # taken before this one []
    offset: Array  # how many steps an update comes before the multiples of `update_period` []

    def is_due(self, update_period: int) -> Array:
        """Whether statistics are updated at this step."""
        is_turn = jax.lax.rem(self.steps + self.offset, jnp.int32(update_period)) == 0
        return (self.steps < update_period) | is_turn

    def batches(self, update_period: int) -> Array:
        """The number of batches that the statistics hold once this step is taken."""
        if update_period == 1:
            return self.steps + 1
        divisor = jnp.int32(update_period)
        turns = jax.lax.div(self.steps + self.offset, divisor) - jax.lax.div(self.offset + (update_period - 1), divisor)
        return jnp.where(self.steps < update_period, self.steps + 1, update_period + turns)


@dataclass(frozen=True, eq=False)
class SolveGroup:
    """Neurons that read the same features, and are solved with the same statistics of them.

    Fields:
        solver: of all.
        neurons: at least one.
        offset: of its `RefreshSchedule`.
    """

    solver: Solver
    neurons: tuple[Neuron, ...]
    offset: int = 0

    def init(self) -> tuple[Any, tuple[Any, ...]]:
        """The statistics before the first batch, and each neuron's warm start."""
        dtype = self.neurons[0].dtype
        warm_starts = tuple(self.solver.init_warm_start(neuron.shape, dtype) for neuron in self.neurons)
        return self.solver.init(self.sizes, dtype), warm_starts

    @property
    def sizes(self) -> Metric:
        """The neurons' metric without arrays."""
        features = self.neurons[0].features
        assert features is not None
        return metric_of(features)

    def leaves_of(self, tree: Mapping[int, Any]) -> list[Any]:
        """The leaves that are the neurons'."""
        return [tree[leaf] for neuron in self.neurons for leaf in neuron.leaves]

    def arrays(self, features: Features) -> list[Array]:
        """What the forward pass recorded of the features that the neurons read."""
        feature_set = self.neurons[0].read(features)
        assert feature_set is not None
        return [features.arrays[place] for read in feature_set.reads for place in read.places]

    def metric(self, features: Features, distance: Any = 0.0, shared: tuple[Any, ...] = ()) -> Metric:
        """The neurons' metric in this batch, of all replicas along these axes, where a step moves outputs this far."""
        feature_set = self.neurons[0].read(features)
        assert feature_set is not None
        return metric_of(feature_set, features.arrays, distance, shared)

    def update(self, metric: Metric, statistics: Any, batches: Array, finite: Array | bool) -> Any:
        """Take a batch into the statistics, if it is finite.

        Args:
            metric: of the batch.
            statistics: those before.
            batches: how many they hold then.
            finite: whether the batch's gradients are finite.
        """
        updated = self._call("update", metric, statistics, batches)
        # Finite features may have squares that are not.
        return jax.tree.map(lambda new, old: jnp.where(finite & jnp.isfinite(new), new, old), updated, statistics)

    def solve(
        self, metric: Metric, statistics: Any, gradients: Sequence[Array], warm_starts: Sequence[Any]
    ) -> list[Solution]:
        """Solve for each neuron's direction."""
        return [
            self._call("solve", metric, statistics, gradient, warm_start)
            for gradient, warm_start in zip(gradients, warm_starts, strict=True)
        ]

    def _call(self, method: str, metric: Metric, *args: Any) -> Any:
        if not metric.is_comparable:
            return getattr(self.solver, method)(metric, *args)
        key, settings = self._settings
        return _traced_once(key, method, settings, metric, *args)

    @cached_property
    def _settings(self) -> tuple[Any, dict[str, Any]]:
        return _split_settings(self.solver)


def update_statistics(
    groups: Sequence[SolveGroup],
    metrics: Sequence[Metric],
    statistics: Sequence[Any],
    steps: Array,
    offsets: Sequence[Array],
    finite: Array,
) -> list[Any]:
    """Take a batch into each group's statistics, if it is finite and it is their turn.

    Groups that have their turn at the same steps share a branch (docs/notes.md).

    Args:
        groups, metrics, statistics: the groups, with their metrics in the batch and the statistics before it.
        steps, offsets: of each group's `RefreshSchedule`.
        finite: whether the batch's gradients are finite.
    """
    together: dict[tuple[int, int], list[int]] = {}
    for k, group in enumerate(groups):
        together.setdefault((group.solver.update_period, group.offset), []).append(k)
    updated: list[Any] = [None] * len(groups)
    for (period, _), places in together.items():
        schedule, old = RefreshSchedule(steps, offsets[places[0]]), [statistics[k] for k in places]

        def update(schedule: RefreshSchedule = schedule, period: int = period, places: list[int] = places) -> list[Any]:
            batches = schedule.batches(period)
            return [groups[k].update(metrics[k], statistics[k], batches, finite) for k in places]

        new = update() if period == 1 else jax.lax.cond(schedule.is_due(period), update, lambda old=old: old)
        for k, each in zip(places, new, strict=True):
            updated[k] = each
    return updated


@partial(jax.jit, static_argnums=(0, 1))
def _traced_once(key: Any, method: str, settings: dict[str, Any], metric: Metric, *args: Any) -> Any:
    """Call a method of the solver with these settings, traced once for all layers that are alike."""
    return getattr(_join_settings(key, settings), method)(metric, *args)


def spread_refreshes(costs: Sequence[tuple[int, float]]) -> list[int]:
    """Choose offsets so that the updates at each step cost alike.

    Args:
        costs: `update_period` and the cost of an update, for each of the statistics.

    Returns:
        The offset of each, below its `update_period`.

    >>> spread_refreshes([(2, 1.0), (2, 3.0), (2, 2.0), (1, 5.0)])
    [1, 0, 1, 0]
    """
    load: dict[int, list[float]] = {}  # for each period, the cost at each offset
    offsets = [0] * len(costs)
    for k, (period, cost) in sorted(enumerate(costs), key=lambda item: -item[1][1]):
        steps = load.setdefault(period, [0.0] * period)
        offsets[k] = steps.index(min(steps))
        steps[offsets[k]] += cost
    return offsets


def plan_groups(neurons: Sequence[Neuron], sharing: Sequence[int], choice: AnySolverChoice) -> list[SolveGroup]:
    """Group the neurons that have a metric, and spread the updates of their statistics over the steps.

    Args:
        neurons: all that are trained.
        sharing: for every neuron that was found, the first that reads the same features.
        choice: of their solvers.
    """
    rows: dict[Any, tuple[Solver, list[Neuron]]] = {}
    for neuron in neurons:
        if neuron.features is None:
            continue
        solver = solver_of(neuron, choice)
        key, arrays = _split_settings(solver)
        same_arrays = tuple((name, id(array)) for name, array in arrays.items())
        alike = (key, same_arrays, sharing[neuron.index], neuron.has_bias)
        rows.setdefault(alike, (solver, []))[1].append(neuron)
    groups = [SolveGroup(solver, tuple(row)) for solver, row in rows.values()]
    costs = [(group.solver.update_period, group.solver.flops(group.sizes, 1)[0]) for group in groups]
    return [replace(group, offset=offset) for group, offset in zip(groups, spread_refreshes(costs), strict=True)]


def _split_settings(solver: Solver) -> tuple[Any, dict[str, Any]]:
    """Part a solver's settings into a hashable key, which is compiled in, and the arrays, which may be traced.

    Solvers whose keys are equal and whose arrays are the same do the same. A solver with attributes that are not
    hashable, or with slots, is known by its identity.
    """
    if any(getattr(kind, "__slots__", ()) for kind in type(solver).__mro__):
        return _ByIdentity(solver), {}
    values = vars(solver)
    arrays = {name: value for name, value in values.items() if isinstance(value, (Array, np.ndarray))}
    key = (type(solver), tuple((name, value) for name, value in values.items() if name not in arrays))
    try:
        hash(key)
    except TypeError:
        return _ByIdentity(solver), {}
    return key, arrays


def _join_settings(key: Any, arrays: dict[str, Any]) -> Solver:
    """Make the solver of these settings."""
    if isinstance(key, _ByIdentity):
        return key.solver
    kind, values = key
    solver = object.__new__(kind)
    vars(solver).update(dict(values), **arrays)
    return solver


class _ByIdentity:
    """A solver that is equal to itself alone."""

    def __init__(self, solver: Solver) -> None:
        self.solver = solver

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.solver is other.solver

    def __hash__(self) -> int:
        return id(self.solver)
