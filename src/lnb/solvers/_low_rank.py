"""A few leading directions of the features and a diagonal for the rest: section 3.5's third option.

    S ~ L L^T + D,   L [i, r],   D = diag(max(v - diag(L L^T), 0)),   v the variances

Without a bias S is E[x x^T] and v is chi. One block power iteration a batch tracks the leading subspace of the moving
average S', which is never formed: with Q the columns of the last L,

    Y = S' Q = a L (L^T Q) + (1 - a) X_c^T (X_c Q) / n,   L <- Y C^-T,   C C^T = Q^T Y

This is the Nystrom approximation: it is exact on the span of Q, whatever its basis, and never above S'. The triangular
C keeps the columns of L in the order in which they converge to the eigenvectors, so that Q needs no
orthonormalisation. The inverse by Woodbury's identity,

    (S + ridge)^-1 = E^-1 - V V^T,   E = D + ridge,   V = E^-1 L R^-T,   R R^T = I + L^T E^-1 L

costs 4 i r operations for each output.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._checks import check_choice, check_count, check_fraction, check_range
from lnb._metric import GramMetric
from lnb._numerics import contract, diagonal_of, vector_matrix
from lnb.solvers._cg import CG
from lnb.solvers._inverse import inverse_factor
from lnb.solvers._solver import Solution, Solver
from lnb.solvers._statistics import (
    RIDGE_UNITS,
    Inverse,
    RidgeUnit,
    centered,
    ema_update,
    ema_weight,
    inverse_of_diagonal,
    ridge_of_averages,
    solve_whitened,
    unit_of,
    update_fourth_moment,
    update_inverse_count,
    variance_of,
)
from lnb.solvers._tied import TiedExact


class LowRankStatistics(NamedTuple):
    """Moving averages."""

    mean: Array  # mu [g, i]
    square: Array  # chi [g, i]
    factor: Array | None  # L [g, i, r]; at first, where the search for it starts; None for a diagonal Gram matrix
    inverse_count: Array  # 1 / n of the averages' samples [g, 1]
    fourth_moment: Array | None  # E[(x - mu)^4] / chi [g, i]; None where no ridge is made of it


@dataclass(frozen=True)
class LowRank(Solver):
    """The leading directions of the averaged Gram matrix exactly, and its diagonal for the rest.

    Memory (r + 2) i a group; cheap for wide layers. The Gram matrix of an embedding is diagonal and is kept as such.
    Tied weights are solved by `lnb.solvers.TiedExact`, and neurons that are kept as their equations by `lnb.CG`.

    Args:
        rank: r, the number of leading directions.
        update_period: steps from one update of the statistics to the next; the first `update_period` steps all update
            them.
        decay: of the moving averages, for one step.
        ridge: added to the diagonal of M for the weights, in units of the features squared.
        ridge_unit, sampling_ridge: as in `lnb.Cholesky`.
        drift: for features that the network computes, the ridge is raised by (drift * d)^2, where a step moves outputs
            by d along each direction, the learning rate with `lnb.Spectral()`: the averages are some steps old.
        sample_fraction: the fraction of a batch's samples that the statistics are taken of, above 0 and at most 1.

    Raises:
        TypeError: a setting is not a number.
        ValueError: a setting is out of its range.

    Source: section 3.5 of the paper; Halko, Martinsson and Tropp (2011), section 5.5, for the approximation.

    >>> LowRank(rank=16).rank
    16
    """

    rank: int = 16
    update_period: int = 1
    decay: float | Array = 0.95
    ridge: float | Array = 0.1
    ridge_unit: RidgeUnit = "absolute"
    sampling_ridge: float | Array = 0.0
    drift: float | Array = 0.0
    sample_fraction: float = 1.0

    def __post_init__(self) -> None:
        check_count(self, "rank", "update_period")
        check_range(self, 0, 1, "decay")
        check_range(self, 0, inf, "ridge", "sampling_ridge", "drift")
        check_choice(self, "ridge_unit", RIDGE_UNITS)
        check_fraction(self, "sample_fraction")

    def init(self, metric: GramMetric, dtype: Any) -> LowRankStatistics:
        """Moments of zero, and random directions to start from."""
        moments = (metric.groups, metric.inputs)
        rank = self._rank_of(metric)
        start = _random_directions((*moments, rank), dtype) if rank else None
        mean, square, inverse_count = (jnp.zeros(shape, dtype) for shape in (moments, moments, (metric.groups, 1)))
        fourth = jnp.zeros(moments, dtype) if self.ridge_unit == "variance" else None
        return LowRankStatistics(mean, square, start, inverse_count, fourth)

    def _rank_of(self, metric: GramMetric) -> int:
        return 0 if metric.is_diagonal else min(self.rank, metric.inputs)

    def update(self, metric: GramMetric, statistics: LowRankStatistics, count: Array) -> LowRankStatistics:
        """One power iteration on the averages with this batch in them."""
        metric = metric.subsample(self.sample_fraction)
        weight = ema_weight(self.decay**self.update_period, count, statistics.mean.dtype)
        new = metric.moments()
        mean, square = (ema_update(old, each, weight) for old, each in zip(statistics[:2], new, strict=True))
        fourth = statistics.fourth_moment
        if fourth is not None:
            fourth = update_fourth_moment(metric, fourth, new[0], (statistics.square, square), weight)
        inverse_count = update_inverse_count(statistics.inverse_count, metric.count(), weight)
        factor = statistics.factor
        if factor is None:
            return LowRankStatistics(mean, square, factor, inverse_count, fourth)
        basis = _directions(factor)
        image = contract("git,gts->gis", factor, contract("git,gis->gts", factor, basis))
        image = ema_update(image, _covariance_product(metric, mean, basis), weight)
        small = contract("gir,gis->grs", basis, image)
        factor = contract("gir,gsr->gis", image, inverse_factor(small))
        return LowRankStatistics(mean, square, factor, inverse_count, fourth)

    def _diagonal(self, metric: GramMetric, statistics: LowRankStatistics) -> Array:
        """E [g, i]."""
        variance = variance_of(metric, statistics.mean, statistics.square)
        rest = variance if statistics.factor is None else variance - jnp.square(statistics.factor).sum(2)
        # The variance is a difference of numbers as large as chi, and Woodbury's of numbers as large as 1 / E.
        eps = jnp.finfo(variance.dtype).eps
        unit = unit_of("variance" if self.ridge_unit == "variance" else "mean variance", variance)
        floor = 10 * eps * statistics.square + eps**0.5 * unit
        averages = statistics.square, statistics.inverse_count, statistics.fourth_moment
        ridge = ridge_of_averages(self, variance, *averages)
        shifted = jnp.maximum(rest, floor) + ridge + metric.drift(self.drift, variance.dtype)
        return jnp.where(shifted > 0, shifted, 1)

    def solve(self, metric: GramMetric, statistics: LowRankStatistics, gradient: Array, warm_start: Any) -> Solution:
        """Woodbury's identity."""
        diagonal, factor = self._diagonal(metric, statistics), statistics.factor
        inverse = inverse_of_diagonal(diagonal) if factor is None else inverse_with_leading(diagonal, factor)
        return Solution(*solve_whitened(inverse, metric, statistics.mean, gradient), warm_start)

    def flops(self, metric: GramMetric, outputs: int) -> tuple[float, float]:
        """The products with the batch and with the factor; V, two products with it, and the diagonal's part."""
        g, n, i = metric.groups, metric.samples * self.sample_fraction, metric.inputs
        rank = self._rank_of(metric)
        return g * i * rank * (4.0 * n + 8.0 * rank), g * i * (outputs * (4.0 * rank + 9) + 4.0 * rank**2)

    def for_tied(self) -> TiedExact:
        """The exact solution with these settings."""
        return TiedExact(10, self.decay, self.ridge, self.ridge_unit, self.sample_fraction, drift=self.drift)

    def for_general(self) -> CG:
        """Conjugate gradients with this ridge: there is no Gram matrix."""
        return CG(ridge=self.ridge)


def inverse_with_leading(diagonal: Array, factor: Array) -> Inverse:
    """(E + L L^T)^-1 of positive E [g, i] and L [g, i, r], by Woodbury's identity.

    With a bias, mu is one more column of L and E^-1 mu one more of V, which gives mu^T S^-1 c. All products are taken
    of g_w itself, so that V V^T c is the only array like the weights to be written (docs/notes.md).
    """
    rank = factor.shape[2]
    reciprocal = 1 / diagonal

    def inverse(weight: Array, mean: Array, bias: Array | None) -> tuple[Array, Array, Array]:
        columns = factor if bias is None else jnp.concatenate([factor, mean[:, :, None]], axis=2)
        scaled = columns * reciprocal[:, :, None]
        gram = contract("gir,gis->grs", columns, scaled)
        root = inverse_factor(np.eye(rank, dtype=factor.dtype) + gram[:, :rank, :rank]).transpose(0, 2, 1)  # R^-T
        if bias is not None:
            root = jnp.pad(root, [(0, 0), (0, 1), (0, 1)]) + np.diag(np.arange(rank + 1) == rank).astype(root.dtype)
        woodbury = contract("gir,grs->gis", scaled, root)  # [V E^-1 mu]
        leading = along = contract("gir,gio->gro", woodbury, weight)
        projected = along[:, -1]  # not used without a bias
        if bias is not None:
            shift = contract("grs,gst->grt", gram, root)[:, -1]  # mu^T [V E^-1 mu]
            along = along - shift[:, :, None] * bias
            leading = along * (np.arange(rank + 1) < rank).astype(along.dtype)[:, None]
            projected = along[:, -1] - vector_matrix(shift, leading)
        vector = centered(weight, mean, bias)
        solved = vector * reciprocal[:, :, None] - contract("gir,gro->gio", woodbury, leading)
        squared_norm = (jnp.square(vector).sum(2) * reciprocal).sum(1) - jnp.square(leading).sum((1, 2))
        return solved, squared_norm, projected

    return inverse


def _random_directions(shape: tuple[int, ...], dtype: Any) -> Array:
    """Random directions [g, i, r], the same each time and for all groups: constants of the compiled step."""
    directions = np.random.default_rng(0).standard_normal(shape[1:]).astype(dtype)
    return jnp.broadcast_to(jnp.asarray(directions), shape)


def _directions(factor: Array) -> Array:
    """Columns of L [g, i, r] with length 1, plus a little of every direction, so that none is lost for good."""
    squared_norm = diagonal_of(contract("gir,gis->grs", factor, factor))
    length = jnp.sqrt(jnp.where(squared_norm > 0, squared_norm, 1))[:, None]
    return factor / length + 1e-3 / factor.shape[1] ** 0.5 * _random_directions(factor.shape, factor.dtype)


def _covariance_product(metric: GramMetric, mean: Array, basis: Array) -> Array:
    """X_c^T X_c Q / n [g, i, r] of this batch for Q [g, i, r], with X_c centered at `mean` where there is a bias."""
    if not metric.has_bias:
        return metric.product(basis)
    # [X 1]^T [X 1] [Q 0; -mu^T Q 1]: its columns are X^T X_c Q with 1^T X_c Q below, and X^T 1 beside.
    projected = vector_matrix(mean, basis)[:, None]
    extended = jnp.concatenate([basis, -projected], axis=1)  # [g, i + 1, r]
    product = metric.product(extended)
    return product[:, :-1] - mean[:, :, None] * product[:, -1:]
