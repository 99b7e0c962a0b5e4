"""The preconditioner P of section 3.5 alone: the inverse of eq. (12) with the variances in place of the covariance."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import jax.numpy as jnp
from jax import Array

from lnb._checks import check_choice, check_fraction, check_range
from lnb._metric import GramMetric
from lnb.solvers._cg import CG
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
class Diagonal(Solver):
    """The variances alone: each feature is centered, where there is a bias, and divided by its variance.

    The cheapest solver, with memory 2 i a group. Tied weights are solved by `lnb.solvers.TiedExact` with diagonals,
    and neurons that are kept as their equations by `lnb.CG`.

    Args:
        ridge: added to the variances, in units of the features squared.
        ridge_unit: "mean variance" makes the ridge a multiple of the features' mean variance instead, so that the
            update does not depend on the features' scale, and "variance" one of each feature's own variance.
        shrinkage: how far the variances are drawn towards their mean, 0 to 1.
        mean_decay: of the moving average of mu = E[x].
        square_decay: of the moving average of chi = E[x * x].
        sample_fraction: the fraction of a batch's samples that the moments are taken of, above 0 and at most 1.

    Raises:
        TypeError: a setting is not a number.
        ValueError: a setting is out of its range.

    Source: section 3.5 of the paper.

    >>> Diagonal().shrinkage
    0.1
    """

    ridge: float | Array = 0.1
    ridge_unit: RidgeUnit = "absolute"
    shrinkage: float | Array = 0.1
    mean_decay: float | Array = 0.9
    square_decay: float | Array = 0.999
    sample_fraction: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, 0, inf, "ridge")
        check_choice(self, "ridge_unit", RIDGE_UNITS)
        check_range(self, 0, 1, "shrinkage", closed=True)
        check_range(self, 0, 1, "mean_decay", "square_decay")
        check_fraction(self, "sample_fraction")

    def init(self, metric: GramMetric, dtype: Any) -> Moments:
        """Moments of zero."""
        shape = (metric.groups, metric.inputs)
        return Moments(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def update(self, metric: GramMetric, statistics: Moments, count: Array) -> Moments:
        """Take this batch's moments into mu and chi."""
        batch = metric.subsample(self.sample_fraction).moments()
        return update_moments(statistics, batch, (self.mean_decay, self.square_decay), count)

    def solve(self, metric: GramMetric, statistics: Moments, gradient: Array, warm_start: Any) -> Solution:
        """P g."""
        mean = statistics.mean
        variance = shrunk_variance(metric, mean, statistics.square, self.shrinkage)
        inverse = inverse_of_diagonal(variance + ridge_of(self.ridge, self.ridge_unit, variance))
        return Solution(*solve_whitened(inverse, metric, mean, gradient), warm_start)

    def flops(self, metric: GramMetric, outputs: int) -> tuple[float, float]:
        """Two sums over the features; then centering, dividing, the bias's product and the squared norm."""
        g, n, i = metric.groups, metric.samples * self.sample_fraction, metric.inputs
        return 3.0 * g * n * i, 9.0 * g * i * outputs

    def for_tied(self) -> TiedExact:
        """The exact solution with both Gram matrices kept by their diagonals."""
        return TiedExact(1, self.mean_decay, self.ridge, self.ridge_unit, self.sample_fraction, max_inputs=0)

    def for_general(self) -> CG:
        """Conjugate gradients with this ridge: there is no diagonal."""
        return CG(ridge=self.ridge)
