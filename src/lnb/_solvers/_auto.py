"""A solver for each neuron by its sizes: the cheapest that keeps the exact solution's quality."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lnb._feature_sets import GramFeatureSet
from lnb._solvers._cg import CG
from lnb._solvers._cholesky import Cholesky
from lnb._solvers._low_rank import LowRank
from lnb._solvers._solver import Solver


def auto(
    *,
    ridge: float = 0.1,
    every: int = 10,
    decay: float = 0.95,
    samples: float = 0.25,
    rank: int = 16,
    budget: float = 0.1,
) -> Callable[[Any], Solver]:
    """A solver for each neuron by its sizes."""
    exact = Cholesky(every=every, decay=decay, ridge=ridge, relative=True, samples=samples)
    low_rank = LowRank(rank=rank, every=1, decay=decay, ridge=ridge, relative=True, samples=samples)

    def choose(neuron: Any) -> Solver:
        features = neuron.features
        if not isinstance(features, GramFeatureSet):
            return CG(ridge=ridge)
        if features.has_diagonal_gram:
            return exact
        update, solve = exact.operations(features, neuron.outputs)
        passes = 6.0 * neuron.groups * neuron.samples * neuron.inputs * neuron.outputs
        return exact if update / every + solve <= budget * passes else low_rank

    return choose
