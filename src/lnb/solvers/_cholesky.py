"""A direct solve with the averaged Gram matrix: section 3.5's second option, and FOOF (Benzing, 2022).

The Gram matrix E[x x^T] and the mean are averaged over batches. With a bias, the covariance S = E[x x^T] - f mu mu^T is
inverted instead: this takes the bias's row out of the system exactly (see `_statistics`) and is better conditioned. The
statistics keep the inverse itself, and each step multiplies the gradient by it (docs/notes.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import Precision

from lnb._checks import check_choice, check_count, check_fraction, check_range
from lnb._metric import GramMetric
from lnb._numerics import contract, diagonal_of, inner, vector_matrix
from lnb.solvers import _inverse
from lnb.solvers._cg import CG
from lnb.solvers._solver import Solution, Solver
from lnb.solvers._statistics import (
    RIDGE_UNITS,
    RidgeUnit,
    centered,
    ema_update,
    ema_weight,
    ridge_of_averages,
    solve_whitened,
    unit_of,
    update_fourth_moment,
    update_inverse_count,
)
from lnb.solvers._tied import TiedExact


class Gram(NamedTuple):
    """Moving averages, and the inverse that was last taken of them.

    Where the Gram matrix is diagonal, [g, i] stands in place of [g, i, i].
    """

    gram: Array  # E[x x^T] [g, i, i]
    mean: Array  # E[x] [g, i]
    inverse: Array  # of S + ridge [g, i, i]
    inverse_count: Array  # 1 / n of the averages' samples [g, 1]
    fourth_moment: Array | None  # E[(x - mu)^4] / chi [g, i]; None where no ridge is made of it


@dataclass(frozen=True)
class Cholesky(Solver):
    """The exact solution for the averaged Gram matrix, whose inverse is renewed every few steps.

    Memory 2 i^2 a group, and i^3 operations a renewal. The Gram matrix of an embedding is diagonal and is kept as such.
    Tied weights are solved by `lnb.solvers.TiedExact`, and neurons that are kept as their equations by `lnb.CG`.

    Args:
        update_period: steps from one renewal to the next. The batches of these steps enter the average, and those of
            the first `update_period` steps.
        decay: of the moving average of the Gram matrix, for one step; 0 keeps only the last batch's.
        ridge: added to the diagonal of M for the weights, in units of the features squared.
        ridge_unit: "mean variance" makes the ridge a multiple of the features' mean variance instead, so that the
            update does not depend on the features' scale, and "variance" one of each feature's own variance, so that it
            does not depend on the scale of any.
        sampling_ridge: the ridge is at least this multiple of i / n, because n samples say little about i directions.
            n is the number of samples that the averages are worth. In the unit "variance" it is a multiple of
            E[(x - mu)^4] / variance: seldom non-zero features have few samples of their own.
        drift: for features that the network computes, the ridge is raised by (drift * d)^2, where a step moves outputs
            by d along each direction, the learning rate with `lnb.Spectral()`: the averages are some steps old.
        sample_fraction: the fraction of a batch's samples that the Gram matrix is taken of, above 0 and at most 1.

    Raises:
        TypeError: a setting is not a number.
        ValueError: a setting is out of its range.

    Source: section 3.5 of the paper; Benzing (2022), eq. (6).

    >>> Cholesky(update_period=1, decay=0.0).ridge  # Algorithm 1, with a full batch and `gradient_decay=0`
    0.1
    """

    update_period: int = 10
    decay: float | Array = 0.95
    ridge: float | Array = 0.1
    ridge_unit: RidgeUnit = "absolute"
    sampling_ridge: float | Array = 0.0
    drift: float | Array = 0.0
    sample_fraction: float = 1.0

    def __post_init__(self) -> None:
        check_count(self, "update_period")
        check_range(self, 0, 1, "decay")
        check_range(self, 0, inf, "ridge", "sampling_ridge", "drift")
        check_choice(self, "ridge_unit", RIDGE_UNITS)
        check_fraction(self, "sample_fraction")

    def init(self, metric: GramMetric, dtype: Any) -> Gram:
        """Averages of zero."""
        mean = (metric.groups, metric.inputs)
        gram = mean if metric.is_diagonal else (*mean, metric.inputs)
        fourth = jnp.zeros(mean, dtype) if self.ridge_unit == "variance" else None
        count = jnp.zeros((metric.groups, 1), dtype)
        return Gram(jnp.zeros(gram, dtype), jnp.zeros(mean, dtype), jnp.zeros(gram, dtype), count, fourth)

    def update(self, metric: GramMetric, statistics: Gram, count: Array) -> Gram:
        """Take this batch into the averages, and invert them."""
        metric = metric.subsample(self.sample_fraction)
        has_own_units = self.ridge_unit == "variance"
        weight = ema_weight(self.decay**self.update_period, count, statistics.mean.dtype)
        new, batch_mean = metric.gram()
        samples, drift = metric.count(), metric.drift(self.drift, new.dtype)
        inverse_count = update_inverse_count(statistics.inverse_count, samples, weight)
        gram, mean = ema_update(statistics.gram, new, weight), ema_update(statistics.mean, batch_mean, weight)
        square, fourth = _square(metric, gram), statistics.fourth_moment
        if fourth is not None:
            squares = _square(metric, statistics.gram), square
            fourth = update_fourth_moment(metric, fourth, batch_mean, squares, weight)
        # Rounding may leave a covariance without full rank slightly indefinite.
        floor = jnp.finfo(gram.dtype).eps * metric.inputs * (square if has_own_units else square.mean(1, keepdims=True))
        covariance, variance = gram, square
        if metric.has_bias:
            center = metric.bias_share**0.5 * mean
            variance = square - jnp.square(center)
            covariance = variance if metric.is_diagonal else gram - center[:, :, None] * center[:, None, :]
        ridge = ridge_of_averages(self, variance, square, inverse_count, fourth) + drift
        if metric.is_diagonal:
            shifted = jnp.maximum(covariance, floor) + ridge
            return Gram(gram, mean, 1 / jnp.where(shifted > 0, shifted, 1), inverse_count, fourth)
        shifted = covariance + (floor + ridge)[:, :, None] * jnp.eye(metric.inputs, dtype=gram.dtype)
        if not has_own_units:
            return Gram(gram, mean, _inverse.inverse(shifted), inverse_count, fourth)
        # Features of very different scales are inverted in units of their own.
        scale = 1 / jnp.sqrt(unit_of(self.ridge_unit, variance))
        scale = jnp.where(jnp.isfinite(scale), scale, 1)
        units = scale[:, :, None] * scale[:, None, :]
        return Gram(gram, mean, _inverse.inverse(shifted * units) * units, inverse_count, fourth)

    def solve(self, metric: GramMetric, statistics: Gram, gradient: Array, warm_start: Any) -> Solution:
        """One product with the inverse."""

        def inverse(weight: Array, mean: Array, bias: Array | None) -> tuple[Array, Array, Array]:
            vector = centered(weight, mean, bias)
            if metric.is_diagonal:
                solved = vector * statistics.inverse[:, :, None]
            else:
                solved = contract("gij,gjo->gio", statistics.inverse, vector, precision=Precision.HIGH)
            return solved, inner(solved, vector), vector_matrix(mean, solved)

        return Solution(*solve_whitened(inverse, metric, statistics.mean, gradient), warm_start)

    def flops(self, metric: GramMetric, outputs: int) -> tuple[float, float]:
        """The Gram matrix and i^3 for its inverse, which takes twice as many on the CPU; one product with it."""
        g, n, i = metric.groups, metric.samples * self.sample_fraction, metric.inputs
        if metric.is_diagonal:
            return 4.0 * g * n, 2.0 * g * i * outputs
        return g * (2.0 * n * i**2 + i**3), 2.0 * g * i**2 * outputs

    def for_tied(self) -> TiedExact:
        """The exact solution with these settings."""
        return TiedExact(
            self.update_period, self.decay, self.ridge, self.ridge_unit, self.sample_fraction, drift=self.drift
        )

    def for_general(self) -> CG:
        """Conjugate gradients with this ridge: there is no Gram matrix."""
        return CG(ridge=self.ridge)


def _square(metric: GramMetric, gram: Array) -> Array:
    """chi [g, i], the diagonal of the Gram matrix."""
    return gram if metric.is_diagonal else diagonal_of(gram)
