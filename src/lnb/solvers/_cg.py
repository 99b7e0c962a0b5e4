"""Preconditioned conjugate gradients on this batch's metric: Algorithm 2, lines 6 to 10.

    r = g - A x,  z = P r,  p = z;   a = r.z / p.A p,  x += a p,  r -= a A p;   b = r'.z' / r.z,  p = z' + b p

with A = M + ridge, x the previous direction, P from moving averages of the moments (section 3.5). Inner products are
taken over (i, o), one for each group: the groups are systems of their own.

Where the previous direction was far off, the new one may go against the gradient. It is then zero, and so is the next
start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import jax.numpy as jnp
from jax import Array

from lnb._checks import check_choice, check_count, check_range
from lnb._metric import Metric
from lnb._numerics import inner
from lnb.solvers._solver import Solution, Solver
from lnb.solvers._statistics import (
    RIDGE_UNITS,
    Moments,
    RidgeUnit,
    inverse_of_diagonal,
    ridge_of,
    shrunk_variance,
    solve_whitened,
    update_moments,
)
from lnb.solvers._tied import TiedExact


@dataclass(frozen=True)
class CG(Solver):
    """The paper's solver: conjugate gradients from the previous direction, preconditioned by the moments.

    Unlike the other solvers it multiplies by this batch's metric, at each iteration. So it is also the solver of
    neurons that are kept as their equations; there it has no preconditioner, and the ridge is absolute. Tied weights
    are solved by `lnb.solvers.TiedExact`.

    Args:
        steps: iterations, each one product with M. One more product starts them.
        ridge: added to the diagonal of M for the weights, in units of the features squared.
        ridge_unit: "mean variance" makes the ridge a multiple of the features' mean variance instead, so that the
            update does not depend on the features' scale, and "variance" one of each feature's own variance.
        shrinkage: how far the variances of P are drawn towards their mean, 0 to 1.
        mean_decay: of the moving average of mu = E[x].
        square_decay: of the moving average of chi = E[x * x].

    Raises:
        TypeError: a setting is not a number.
        ValueError: a setting is out of its range.

    Source: Algorithm 2 and section 3.5 of the paper.

    >>> CG(ridge=1.0).steps
    2
    """

    steps: int = 2
    ridge: float | Array = 0.1
    ridge_unit: RidgeUnit = "absolute"
    shrinkage: float | Array = 0.1
    mean_decay: float | Array = 0.9
    square_decay: float | Array = 0.999

    def __post_init__(self) -> None:
        check_count(self, "steps")
        check_range(self, 0, inf, "ridge")
        check_choice(self, "ridge_unit", RIDGE_UNITS)
        check_range(self, 0, 1, "shrinkage", closed=True)
        check_range(self, 0, 1, "mean_decay", "square_decay")

    def init(self, metric: Metric, dtype: Any) -> Any:
        """Moments of zero; a general metric has none."""
        if metric.structure == "general":
            return ()
        shape = (metric.groups, metric.inputs)
        return Moments(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def update(self, metric: Any, statistics: Any, count: Array) -> Any:
        """Take this batch's moments into mu and chi."""
        if metric.structure == "general":
            return ()
        return update_moments(statistics, metric.moments(), (self.mean_decay, self.square_decay), count)

    def init_warm_start(self, shape: tuple[int, int, int], dtype: Any) -> Array:
        """The previous direction [g, i(+1), o]: zero."""
        return jnp.zeros(shape, dtype)

    def solve(self, metric: Any, statistics: Any, gradient: Array, warm_start: Array) -> Solution:
        """Take `steps` iterations from the previous direction."""
        precondition, ridge = self._preconditioner(metric, statistics)

        def apply(vector: Array) -> Array:
            return metric.product(vector) + ridge * vector

        solution = warm_start
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
        squared_norm = inner(solution, gradient, metric.has_bias)
        against = squared_norm < 0
        solution = jnp.where(against[:, None, None], 0, solution)
        return Solution(solution, jnp.where(against, 0, squared_norm), solution)

    def flops(self, metric: Metric, outputs: int) -> tuple[float, float]:
        """Two sums over the features; `steps + 1` products with the batch's metric."""
        g, n, i = metric.groups, metric.samples, metric.inputs
        return 3.0 * g * n * i, (self.steps + 1) * metric.product_flops(outputs)

    def for_tied(self) -> TiedExact:
        """The exact solution with this ridge."""
        return TiedExact(ridge=self.ridge, ridge_unit=self.ridge_unit)

    def for_general(self) -> CG:
        """This solver."""
        return self

    def _preconditioner(self, metric: Any, statistics: Any) -> tuple[Callable[[Array], Array], Array]:
        """P, and the ridge of each row of V [g, i(+1), 1]; none for a bias."""
        if metric.structure == "general":
            return lambda vector: vector, jnp.full((1, 1, 1), self.ridge)
        mean = statistics.mean
        variance = shrunk_variance(metric, mean, statistics.square, self.shrinkage)
        inverse, ridge = inverse_of_diagonal(variance), ridge_of(self.ridge, self.ridge_unit, variance)
        rows = jnp.pad(jnp.broadcast_to(ridge, variance.shape), ((0, 0), (0, int(metric.has_bias))))
        return lambda vector: solve_whitened(inverse, metric, mean, vector)[0], rows[:, :, None]


def _inner(first: Array, second: Array) -> Array:
    return (first * second).sum((1, 2), keepdims=True)  # [g, 1, 1]


def _divide(numerator: Array, denominator: Array) -> Array:
    """The quotient, or 0 where the denominator vanishes because the residual has."""
    vanished = denominator <= 0
    return jnp.where(vanished, 0, numerator / jnp.where(vanished, 1, denominator))
