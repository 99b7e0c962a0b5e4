"""The exact solution for a weight that is used both as W and as W^T: an embedding and the head tied to it.

Its metric is a Kronecker sum, so that once the two biases are taken out (see `_statistics`) the system is Sylvester's,

    A W + W B + ridge W = R,   A = n_1 / n S_1 [i, i],   B = n_2 / n S_2 [o, o],

and with the eigenvectors A = P diag(a) P^T and B = Q diag(b) Q^T

    W = P [ (P^T R Q)_io / (a_i + b_o + ridge) ] Q^T.

A lookup's S_1 is diagonal, and needs no eigenvectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import Precision

from lnb._checks import check_choice, check_count, check_fraction, check_range
from lnb._metric import GramMetric, TiedMetric
from lnb._numerics import contract, inner
from lnb.solvers._solver import Solution, Solver
from lnb.solvers._statistics import RIDGE_UNITS, RidgeUnit, ema_update, ema_weight


class Side(NamedTuple):
    """Moving averages of one use, and the eigenvectors last taken of them."""

    gram: Array  # E[x x^T] [i, i], or its diagonal [i]
    mean: Array  # mu [i]
    values: Array  # eigenvalues of S [i]
    vectors: Array | None  # their eigenvectors, in columns [i, i]; None where S is kept by its diagonal


@dataclass(frozen=True)
class TiedExact(Solver):
    """The exact solution for tied weights, whose two Gram matrices are renewed every few steps.

    The other solvers hand tied weights over to it, with their own settings.

    Args:
        update_period: steps from one renewal to the next; the first `update_period` steps all renew them.
        decay: of the moving averages of the Gram matrices, for one step.
        ridge: added to the diagonal of M for the weights, in units of the features squared.
        ridge_unit: "mean variance" and "variance" make the ridge a multiple of the mean diagonal of M instead.
        sample_fraction: the fraction of a batch's samples that the Gram matrices are taken of, above 0 and at most 1.
        max_inputs: a Gram matrix of more features than this is kept by its diagonal.
        drift: for features that the network computes, the ridge is raised by (drift * d)^2, where a step moves outputs
            by d along each direction, the learning rate with `lnb.Spectral()`: the averages are some steps old.

    Raises:
        TypeError: a setting is not a number.
        ValueError: a setting is out of its range.

    >>> TiedExact(ridge=1.0).update_period
    10
    """

    update_period: int = 10
    decay: float | Array = 0.95
    ridge: float | Array = 0.1
    ridge_unit: RidgeUnit = "absolute"
    sample_fraction: float = 1.0
    max_inputs: int = 1024
    drift: float | Array = 0.0

    def __post_init__(self) -> None:
        check_count(self, "update_period")
        check_range(self, 0, 1, "decay")
        check_range(self, 0, inf, "ridge", "max_inputs", "drift")
        check_choice(self, "ridge_unit", RIDGE_UNITS)
        check_fraction(self, "sample_fraction")

    def for_gram(self) -> None:
        """None: it solves tied weights alone."""

    def for_tied(self) -> TiedExact:
        """This solver."""
        return self

    def init(self, metric: TiedMetric, dtype: Any) -> tuple[Side, Side]:
        """Averages of zero."""

        def side(part: GramMetric) -> Side:
            i = part.inputs
            is_diagonal = self._is_diagonal(part)
            gram, mean, values = (jnp.zeros(shape, dtype) for shape in ((i,) if is_diagonal else (i, i), (i,), (i,)))
            return Side(gram, mean, values, None if is_diagonal else jnp.zeros((i, i), dtype))

        first, second = metric.sides
        return side(first), side(second)

    def _is_diagonal(self, side: GramMetric) -> bool:
        return side.is_diagonal or side.inputs > self.max_inputs

    def update(self, metric: TiedMetric, statistics: tuple[Side, Side], count: Array) -> tuple[Side, Side]:
        """Take this batch into the averages, and find their eigenvectors."""

        def update_side(part: GramMetric, old: Side) -> Side:
            weight = ema_weight(self.decay**self.update_period, count, old.mean.dtype)
            fewer = part.subsample(self.sample_fraction)
            if self._is_diagonal(part):
                mean, gram = fewer.moments()
            else:
                gram, mean = fewer.gram()
            gram = ema_update(old.gram, gram.reshape(old.gram.shape), weight)
            mean = ema_update(old.mean, mean[0], weight)
            center = part.bias_share**0.5 * mean if part.has_bias else jnp.zeros_like(mean)
            if self._is_diagonal(part):
                return Side(gram, mean, jnp.maximum(gram - jnp.square(center), 0), old.vectors)
            values, vectors = jnp.linalg.eigh(gram - center[:, None] * center[None, :])
            return Side(gram, mean, jnp.maximum(values, 0), vectors)

        first, second = metric.sides
        return update_side(first, statistics[0]), update_side(second, statistics[1])

    def solve(self, metric: TiedMetric, statistics: tuple[Side, Side], gradient: Array, warm_start: Any) -> Solution:
        """Solve in the basis of the eigenvectors; the gradient is [1, i(+1), o(+1)], as in `lnb.Metric`."""
        (first, second), (rows, columns), (share, other) = metric.sides, statistics, metric.shares
        i, o = first.inputs, second.inputs
        right = gradient[0, :i, :o]
        below, beside = gradient[0, i:, :o], gradient[0, :i, o:]  # gradients of the biases [0 or 1, o], [i, 0 or 1]
        if first.has_bias:
            right = right - rows.mean[:, None] * below
        if second.has_bias:
            right = right - beside * columns.mean[None, :]
        diagonal = share * rows.values[:, None] + other * columns.values[None, :]
        ridge = self.ridge * (1 if self.ridge_unit == "absolute" else diagonal.mean())
        left, right_drift = (side.drift(self.drift, diagonal.dtype) for side in metric.sides)
        diagonal = diagonal + ridge + share * left[:, None] + other * right_drift[None, :]
        weight = _rotate(_transpose(rows.vectors), columns.vectors, right) / jnp.where(diagonal > 0, diagonal, 1)
        weight = _rotate(rows.vectors, _transpose(columns.vectors), weight)
        below = below / (share * first.bias_share) - contract("i,io->o", rows.mean, weight)
        beside = beside / (other * second.bias_share) - contract("io,o->i", weight, columns.mean)[:, None]
        corner = jnp.zeros((below.shape[0], beside.shape[1]), weight.dtype)
        direction = jnp.block([[weight, beside], [below, corner]])[None]
        return Solution(direction, inner(direction, gradient), warm_start)

    def flops(self, metric: TiedMetric, outputs: int) -> tuple[float, float]:
        """Two Gram matrices and their eigenvectors; two changes of basis."""
        update = solve = 0.0
        for part in metric.sides:
            n, i = part.samples * self.sample_fraction, part.inputs
            if self._is_diagonal(part):
                update += 4.0 * n
            else:
                update += 2.0 * n * i**2 + 9.0 * i**3
                solve += 4.0 * i * metric.inputs * outputs
        return update, solve


def _rotate(left: Array | None, right: Array | None, matrix: Array) -> Array:
    """Left @ matrix @ right, where None stands for the identity."""
    matrix = matrix if left is None else contract("ij,jo->io", left, matrix, precision=Precision.HIGH)
    return matrix if right is None else contract("io,op->ip", matrix, right, precision=Precision.HIGH)


def _transpose(matrix: Array | None) -> Array | None:
    return None if matrix is None else matrix.T
