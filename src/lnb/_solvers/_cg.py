"""Preconditioned conjugate gradients on this batch's metric: Algorithm 2, lines 6 to 10.

    r = g - A x,  z = P r,  p = z;   a = r.z / p.A p,  x += a p,  r -= a A p;   b = r'.z' / r.z,  p = z' + b p

with A = M + ridge, x the previous direction, P from moving averages of the moments (section 3.5). Inner products are
taken over (i, o), one for each group: the groups are systems of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import jax.numpy as jnp
from jax import Array

from lnb._features import FeatureSet
from lnb._moments import Moments, inverse_of_diagonal, renewed, ridge_of, shrunk_variance, solve_whitened
from lnb._numerics import inner
from lnb._solvers._solver import AnyFeatureSet, Solution, check_count, check_range


@dataclass(frozen=True)
class CG:
    """Conjugate gradients, started at the previous direction and preconditioned by the moments: the paper's solver.

    Args:
        steps: iterations, each one product with M; one more product starts them.
        ridge: added to the diagonal of M for the weights, in units of the features squared.
        relative: the ridge is a multiple of the features' mean variance instead, which makes the update the same
            whatever the features' scale.
        shrinkage: how far the variances of P are drawn towards their mean, 0 to 1.
        mean_decay: of the moving average of mu = E[x].
        square_decay: of the moving average of chi = E[x * x].

    Raises:
        ValueError: a setting is out of its range.

    Source: Algorithm 2 and section 3.5 of the paper.

    >>> CG(ridge=1.0).steps
    2
    """

    steps: int = 2
    ridge: float = 0.1
    relative: bool = False
    shrinkage: float = 0.1
    mean_decay: float = 0.9
    square_decay: float = 0.999

    def __post_init__(self) -> None:
        check_count(self, "steps")
        check_range(self, 0, inf, "ridge")
        check_range(self, 0, 1, "shrinkage", closed=True)
        check_range(self, 0, 1, "mean_decay", "square_decay")

    @property
    def every(self) -> int:
        """Every batch enters the moments."""
        return 1

    def init(self, features: AnyFeatureSet, dtype: Any) -> Any:
        """Moments of zero; a neuron kept as its equations has none, and P is the identity."""
        if not isinstance(features, FeatureSet):
            return ()
        shape = (features.groups, features.inputs)
        return Moments(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def update(self, features: AnyFeatureSet, arrays: Sequence[Array], statistics: Any, count: Array) -> Any:
        """Mu and chi with this batch's moments in them."""
        if not isinstance(features, FeatureSet):
            return ()
        return renewed(statistics, features.moments(arrays), (self.mean_decay, self.square_decay), count)

    def init_memory(self, shape: tuple[int, int, int], dtype: Any) -> Array:
        """The previous direction [g, i(+1), o]: zero."""
        return jnp.zeros(shape, dtype)

    def solve(
        self,
        features: AnyFeatureSet,
        arrays: Sequence[Array],
        statistics: Any,
        gradient: Array,
        memory: Any,
    ) -> Solution:
        """`steps` iterations from the previous direction."""
        precondition, ridge = self._preconditioner(features, statistics)

        def apply(vector: Array) -> Array:
            return features.product(arrays, vector) + _on_weights(features, ridge[:, :, None] * vector)

        solution = memory
        residual = gradient - apply(solution)
        conditioned = precondition(residual)
        conjugate = conditioned
        slope = _inner(residual, conditioned)
        for _ in range(self.steps):
            image = apply(conjugate)
            length = _divide(slope, _inner(conjugate, image))
            solution = solution + length * conjugate
            residual = residual - length * image
            conditioned = precondition(residual)
            previous, slope = slope, _inner(residual, conditioned)
            conjugate = conditioned + _divide(slope, previous) * conjugate
        return Solution(solution, inner(solution, gradient, features.has_bias), solution)

    def operations(self, features: AnyFeatureSet, outputs: int) -> tuple[float, float]:
        """Two sums over the features; `steps + 1` products with the batch's metric."""
        g, n, i = features.groups, features.samples, features.inputs
        return 3.0 * g * n * i, (self.steps + 1) * 4.0 * g * n * i * outputs

    def _preconditioner(self, features: AnyFeatureSet, statistics: Any) -> tuple[Callable[[Array], Array], Array]:
        """P, and the ridge [g, 1]."""
        if not isinstance(features, FeatureSet):
            return lambda vector: vector, jnp.full((1, 1), self.ridge)
        mean = statistics.mean
        variance = shrunk_variance(features, mean, statistics.square, self.shrinkage)
        inverse = inverse_of_diagonal(variance)
        return lambda vector: solve_whitened(inverse, features, mean, vector)[0], ridge_of(self, variance)


def _on_weights(features: AnyFeatureSet, vector: Array) -> Array:
    """V [g, i(+1), o] with zeros for the bias."""
    return vector.at[:, -1].set(0) if features.has_bias else vector


def _inner(first: Array, second: Array) -> Array:
    return (first * second).sum((1, 2), keepdims=True)  # [g, 1, 1]


def _divide(numerator: Array, denominator: Array) -> Array:
    """The quotient, or 0 where the denominator vanishes: the residual has, and nothing is left to do."""
    vanished = denominator <= 0
    return jnp.where(vanished, 0, numerator / jnp.where(vanished, 1, denominator))
