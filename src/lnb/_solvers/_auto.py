"""A solver for each neuron by its sizes: the cheapest that keeps the exact solution's quality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lnb._equations import EquationFeatureSet
from lnb._feature_sets import TiedFeatureSet
from lnb._solvers._cg import CG
from lnb._solvers._cholesky import Cholesky
from lnb._solvers._low_rank import LowRank
from lnb._solvers._solver import Solver
from lnb._solvers._sylvester import Sylvester


def auto(
    *,
    ridge: float = 10.0,
    least_ridge: float = 0.1,
    every: int = 10,
    decay: float = 0.95,
    samples: float = 0.25,
    rank: int = 16,
    budget: float = 0.1,
) -> Callable[[Any], Solver]:
    """The exact solution where the Gram matrix is cheap, a few leading directions and the diagonal where it is not.

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
            backward pass.

    Returns:
        A function that gives each neuron its solver: `Cholesky` if that is within the budget, `LowRank` if not, and
        the one that fits where the metric is no Gram matrix. `print(neurons)` shows the choice.

    >>> import jax.numpy as jnp, lnb
    >>> def loss_fn(weight, x):
    ...     return jnp.tanh(x @ weight).sum()
    >>> (wide,) = lnb.find_neurons(loss_fn, jnp.ones((784, 800)), jnp.ones((1000, 784)))
    >>> (tokens,) = lnb.find_neurons(loss_fn, jnp.ones((128, 256)), jnp.ones((64, 65, 128)))
    >>> type(auto()(wide)).__name__, type(auto()(tokens)).__name__
    ('LowRank', 'Cholesky')
    """
    for name, value in (("ridge", ridge), ("least_ridge", least_ridge), ("budget", budget)):
        if not value >= 0:
            raise ValueError(f"`{name}` of auto must be at least 0, got {value!r}.")
    exact = Cholesky(every=every, decay=decay, relative=True, samples=samples)
    low_rank = LowRank(rank=rank, decay=decay, relative=True, samples=samples)

    def choose(neuron: Any) -> Solver:
        features, outputs = neuron.features, neuron.outputs
        if isinstance(features, EquationFeatureSet):
            return CG(ridge=least_ridge)
        multiple = max(least_ridge, ridge * features.inputs / features.samples)
        if isinstance(features, TiedFeatureSet):
            return Sylvester.like(replace(exact, ridge=least_ridge))
        if features.is_diagonal:
            multiple = least_ridge  # a lookup's rows are each met by samples of their own
        share = min(1.0, max(samples, 4 * features.inputs / features.samples))
        within = replace(exact, ridge=multiple, samples=share)
        update, solve = within.operations(features, outputs)
        if features.has_diagonal_gram or update / every + solve <= budget * neuron.operations:
            return within
        share = min(1.0, max(samples, 4 * rank / features.samples))
        return replace(low_rank, ridge=multiple, samples=share)

    return choose
