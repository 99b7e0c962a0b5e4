"""A solver for each neuron by its sizes: the cheapest that keeps the exact solution's quality."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

from jax import Array

from lnb._checks import check_count, check_fraction, check_range
from lnb._metric import GramMetric, metric_of
from lnb._neuron import Neuron
from lnb.solvers._cholesky import Cholesky
from lnb.solvers._low_rank import LowRank
from lnb.solvers._solver import Solver, SolverChoice

_MIN_DATA_RIDGE = 1e-3  # in variances
# Samples of a batch that the choice is made for: where a sample is an example, and where it is a position or a pixel.
_NOMINAL_SAMPLES = (256, 4096)


@dataclass(frozen=True)
class Auto(SolverChoice):
    """The default: `Cholesky` for neurons whose Gram matrix is cheap, `LowRank` for the others.

    `print(neurons)` shows the choice and its cost. It is made for a batch of 256 samples, or of 4,096 for a neuron that
    reads several positions or pixels of an example. The optimizer's state is thus the same for any batch, and a
    checkpoint can be restored with another batch size.

    The fewer samples the averages are worth for each of i directions, the noisier their variances. The ridge keeps the
    step from following the noise, and does not depend on the data's scale:

    - Features that come with the data may have units of their own, and each has its own ridge: `ridge * i / n`
      times E[(x - mu)^4] / v, v being its variance, and at least v / 1000.
    - The ridge of features that the network computes is `max(min_ridge, ridge * i / n)` times their mean variance.
      These features move as the network is trained: `drift` adds what they may have moved by in so many steps. Without
      it, features that are small or hardly vary get steps so long that they are wrong as soon as the features have
      moved.

    Tied weights are solved by `lnb.solvers.TiedExact`, and neurons that are kept as their equations by `lnb.CG`.

    Args:
        ridge: a multiple of i / n.
        min_ridge: for features that the network computes, of neurons with many samples.
        update_period: steps from one renewal of a Gram matrix to the next; neurons take turns. Leading directions are
            cheap, and are updated at every step. So are Gram matrices within the budget where a sample is an example,
            of which a batch has few.
        decay: of the moving averages, for one step.
        sample_fraction: the fraction of a batch that statistics are taken of; more where that leaves fewer than 4
            samples for each direction, which are i for a Gram matrix and `rank` otherwise. Tied weights take all.
        drift: for features that the network computes, the ridge is raised by (drift * d)^2, where a step moves outputs
            by d along each direction, the learning rate with `lnb.Spectral()`: the averages are some steps old.
        rank: number of leading directions where the Gram matrix is too expensive.
        budget: for the exact solution, as a fraction of the operations of the neuron's own forward and backward pass.
            A more expensive one is chosen only if leading directions cost no less.

    Raises:
        TypeError: a setting is not a number.
        ValueError: a setting is out of its range.

    >>> import jax.numpy as jnp, lnb
    >>> def loss_fn(weight, x):
    ...     return jnp.tanh(x @ weight).sum()
    >>> (wide,) = lnb.find_neurons(loss_fn, jnp.ones((784, 800)), jnp.ones((1000, 784)))
    >>> (tokens,) = lnb.find_neurons(loss_fn, jnp.ones((128, 256)), jnp.ones((64, 65, 128)))
    >>> type(Auto().choose(wide)).__name__, type(Auto().choose(tokens)).__name__
    ('LowRank', 'Cholesky')
    """

    ridge: float | Array = 10.0
    min_ridge: float | Array = 0.1
    update_period: int = 10
    decay: float | Array = 0.95
    sample_fraction: float = 0.25
    drift: float | Array = 10.0
    rank: int = 16
    budget: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, 0, inf, "ridge", "min_ridge", "drift", "budget")
        check_range(self, 0, 1, "decay")
        check_count(self, "update_period", "rank")
        check_fraction(self, "sample_fraction")

    def choose(self, neuron: Neuron) -> Solver:
        """`Cholesky` where it is cheap, else `LowRank`; what `Cholesky` hands over to for tied and general metrics."""
        assert neuron.features is not None
        metric: Any = metric_of(neuron.features)
        shared: Any = {
            "decay": self.decay,
            "ridge": self.min_ridge,
            "ridge_unit": "mean variance",
            "drift": self.drift,
        }
        exact = Cholesky(self.update_period, **shared)
        if metric.structure != "gram":
            return exact.choose(neuron)
        shared["sampling_ridge"] = 0.0 if metric.is_lookup else self.ridge
        if not (metric.is_lookup or any(metric.features.hidden)):
            shared.update(ridge=_MIN_DATA_RIDGE, ridge_unit="variance")
        period = self._period(exact, metric, neuron.outputs)
        if metric.is_diagonal or period:
            fraction = self._fraction(metric.inputs, metric.samples)
            return Cholesky(period or self.update_period, **shared, sample_fraction=fraction)
        fraction = self._fraction(self.rank, metric.samples)
        return LowRank(self.rank, **shared, sample_fraction=fraction)

    def _period(self, exact: Cholesky, metric: GramMetric, outputs: int) -> int | None:
        """The update period of the exact solution; None where it is too expensive, and leading directions cost less."""
        is_of_examples = metric.sample_rank == 1
        samples = _NOMINAL_SAMPLES[not is_of_examples]
        nominal = metric.of_samples(samples)
        budget = self.budget * 6.0 * metric.groups * samples * metric.inputs * outputs
        exact = replace(exact, sample_fraction=self._fraction(metric.inputs, samples))
        low_rank = LowRank(self.rank, sample_fraction=self._fraction(self.rank, samples))

        def cost(solver: Solver, period: int) -> float:
            update, solve = solver.flops(nominal, outputs)
            return update / period + solve

        if is_of_examples and cost(exact, 1) <= budget:
            return 1
        return self.update_period if cost(exact, self.update_period) <= max(budget, cost(low_rank, 1)) else None

    def _fraction(self, directions: int, samples: int) -> float:
        return min(1.0, max(self.sample_fraction, 4 * directions / samples))
