"""A solver for each neuron by its sizes: the cheapest that keeps the exact solution's quality."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

from lnb._features import FeatureSet, JacobianFeatures, TiedFeatureSet
from lnb._solvers._cg import CG
from lnb._solvers._cholesky import Cholesky
from lnb._solvers._low_rank import LowRank
from lnb._solvers._solver import Solver, check_count, check_range, check_share
from lnb._solvers._sylvester import Sylvester

_NOMINAL_SAMPLES = (256, 4096)  # of a batch, where a sample is an example, and where it is a position or a pixel


@dataclass(frozen=True)
class Auto:
    """The exact solution where the Gram matrix is cheap, a few leading directions and the diagonal where it is not.

    `print(neurons)` shows the choice and what it costs. It is made as for a batch of 256 samples, or of 4,096 for a
    neuron that reads several positions or pixels of an example: the optimizer's state is then the same whatever the
    batch, and a checkpoint can be restored with another batch size.

    The ridge is relative, `max(least_ridge, ridge * i / n)` times the features' mean variance: what a batch of n
    samples says of i directions is the noisier the fewer samples there are for each, and a ridge in proportion keeps
    a step from following the noise. So pixels, activations and tokens have one default, and the update does not depend
    on the features' scale.

    Args:
        ridge: a multiple of i / n.
        least_ridge: for neurons of many samples.
        every: steps from one renewal of a Gram matrix to the next; neurons take turns. Leading directions are cheap,
            and follow every step.
        decay: of the moving averages, for one step.
        samples: the share of a batch that statistics are taken of, or more where that would be fewer than 4 samples for
            each direction: i of a Gram matrix, `rank` otherwise.
        rank: number of leading directions where the Gram matrix is too dear.
        budget: how much the exact solution may cost, as a share of the operations of the neuron's own forward and
            backward pass, where leading directions would cost less.

    Raises:
        TypeError, ValueError: a setting is no number, or out of its range.

    >>> import jax.numpy as jnp, lnb
    >>> def loss_fn(weight, x):
    ...     return jnp.tanh(x @ weight).sum()
    >>> (wide,) = lnb.find_neurons(loss_fn, jnp.ones((784, 800)), jnp.ones((1000, 784)))
    >>> (tokens,) = lnb.find_neurons(loss_fn, jnp.ones((128, 256)), jnp.ones((64, 65, 128)))
    >>> type(Auto().choose(wide)).__name__, type(Auto().choose(tokens)).__name__
    ('LowRank', 'Cholesky')
    """

    ridge: float = 10.0
    least_ridge: float = 0.1
    every: int = 10
    decay: float = 0.95
    samples: float = 0.25
    rank: int = 16
    budget: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, 0, inf, "ridge", "least_ridge", "budget")
        check_range(self, 0, 1, "decay")
        check_count(self, "every", "rank")
        check_share(self, "samples")

    def choose(self, neuron: Any) -> Solver:
        """The solver of a neuron: `Cholesky` where it is cheap, else `LowRank`, or what fits another kind of metric."""
        features = neuron.features
        if isinstance(features, JacobianFeatures):
            return CG(ridge=self.least_ridge)
        exact = Cholesky(every=self.every, decay=self.decay, ridge=self.least_ridge, relative=True)
        if isinstance(features, TiedFeatureSet):
            return Sylvester.like(replace(exact, samples=self.samples))
        if features.has_diagonal_gram or self._is_cheap(replace(exact, samples=self.samples), neuron):
            # A lookup's rows are each met by samples of their own.
            sampling_ridge = 0.0 if features.is_diagonal else self.ridge
            share = self._share(features.inputs, features.samples)
            return replace(exact, samples=share, sampling_ridge=sampling_ridge)
        return LowRank(
            rank=self.rank,
            decay=self.decay,
            ridge=self.least_ridge,
            relative=True,
            sampling_ridge=self.ridge,
            samples=self._share(self.rank, features.samples),
        )

    def _is_cheap(self, exact: Cholesky, neuron: Any) -> bool:
        """Whether the exact solution is within the budget, or no dearer than leading directions."""
        features: FeatureSet = neuron.features
        samples = _NOMINAL_SAMPLES[features.sample_rank > 1]
        own = 6.0 * features.groups * samples * features.inputs * neuron.outputs
        exact = replace(exact, samples=self._share(features.inputs, samples))
        low_rank = LowRank(rank=self.rank, samples=self._share(self.rank, samples))

        def cost(solver: Solver) -> float:
            update, solve = solver.operations(features.of_samples(samples), neuron.outputs)
            return update / solver.every + solve

        return cost(exact) <= max(self.budget * own, cost(low_rank))

    def _share(self, directions: int, samples: int) -> float:
        return min(1.0, max(self.samples, 4 * directions / samples))


auto = Auto
"""The name that scripts written before know it by."""
