"""Neurons that read the same features and are solved with one set of statistics, as attention's q, k and v are.

Each neuron is solved on arrays of its own, so that layers of one shape run the same kernels (docs/notes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from lnb._metric import Metric, metric_of
from lnb._neuron import Features, Neuron
from lnb._refresh import RefreshSchedule, spread_refreshes
from lnb.solvers._assignment import AnySolverChoice, group_neurons
from lnb.solvers._solver import Solution, Solver, join_settings, split_settings


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
        neuron = self.neurons[0]
        assert neuron.features is not None
        dtype = neuron.dtype
        warm_starts = tuple(self.solver.init_warm_start(neuron.shape, dtype) for neuron in self.neurons)
        return self.solver.init(metric_of(neuron.features), dtype), warm_starts

    def metric(self, features: Features) -> Metric:
        """The neurons' metric in this batch."""
        feature_set = self.neurons[0].read(features)
        assert feature_set is not None
        return metric_of(feature_set, features.arrays)

    def update(self, metric: Metric, statistics: Any, schedule: RefreshSchedule, finite: Array | bool) -> Any:
        """Take a batch into the statistics, if it is finite and it is their turn."""
        period = self.solver.update_period

        def update() -> Any:
            updated = self._call("update", metric, statistics, schedule.batches(period))
            # Finite features may have squares that are not.
            return jax.tree.map(lambda new, old: jnp.where(finite & jnp.isfinite(new), new, old), updated, statistics)

        return update() if period == 1 else jax.lax.cond(schedule.is_due(period), update, lambda: statistics)

    def solve(
        self, metric: Metric, statistics: Any, gradients: Sequence[Array], warm_starts: Sequence[Any]
    ) -> list[Solution]:
        """Solve for each neuron's direction."""
        return [
            self._call("solve", metric, statistics, gradient, warm_start)
            for gradient, warm_start in zip(gradients, warm_starts, strict=True)
        ]

    def _call(self, method: str, metric: Metric, *args: Any) -> Any:
        if not metric.has_equals:
            return getattr(self.solver, method)(metric, *args)
        key, settings = split_settings(self.solver)
        return _traced_once(key, method, settings, metric, *args)


@partial(jax.jit, static_argnums=(0, 1))
def _traced_once(key: Any, method: str, settings: dict[str, Any], metric: Metric, *args: Any) -> Any:
    """Call a method of the solver with these settings, traced once for all layers that are alike."""
    return getattr(join_settings(key, settings), method)(metric, *args)


def plan_groups(neurons: Sequence[Neuron], sharing: Sequence[int], choice: AnySolverChoice) -> list[SolveGroup]:
    """Group the neurons that have a metric, and spread the updates of their statistics over the steps.

    Args:
        neurons: all that are trained.
        sharing: for every neuron that was found, the first that reads the same features.
        choice: of their solvers.
    """
    groups = group_neurons(neurons, sharing, choice)
    costs = []
    for solver, members in groups:
        assert members[0].features is not None
        costs.append((solver.update_period, solver.flops(metric_of(members[0].features), 1)[0]))
    offsets = spread_refreshes(costs)
    return [
        SolveGroup(solver, tuple(members), offset) for (solver, members), offset in zip(groups, offsets, strict=True)
    ]
