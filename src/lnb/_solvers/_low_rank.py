"""A few leading directions of the features and a diagonal for the rest: section 3.5's third option.

    S ~ L L^T + D,   L [i, r],   D = diag(max(v - diag(L L^T), 0)),   v the variances

(S is E[x x^T] and v is chi where the neuron has no bias). The leading subspace is tracked from batch to batch by one
block power iteration on the moving average S', which is never formed: with Q the columns of the last L,

    Y = S' Q = a L (L^T Q) + (1 - a) X_c^T (X_c Q) / n,   L <- Y C^-T,   C C^T = Q^T Y

(the Nystrom approximation: exact on the span of Q, whatever its basis, and never above S'). The triangular C keeps the
columns of L in the order in which they converge, to the eigenvectors, so that Q needs no orthonormalisation. Its
inverse by Woodbury's identity,

    (S + ridge)^-1 = E^-1 - V V^T,   E = D + ridge,   V = E^-1 L R^-T,   R R^T = I + L^T E^-1 L

costs 4 i r operations for each output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._features import FeatureSet
from lnb._moments import (
    Inverse,
    average,
    centered,
    inverse_of_diagonal,
    ridge_of,
    sampling_ridge_of,
    share_of_batch,
    solve_whitened,
    variance_of,
)
from lnb._numerics import contract, vector_matrix
from lnb._solvers._factor import diagonal_of, inverse_factor
from lnb._solvers._solver import AnyFeatureSet, Solution, check_count, check_range, check_share


class LowRankStatistics(NamedTuple):
    """Moving averages; memory (r + 2) i a group.

    For features whose Gram matrix is diagonal, `factor` has no columns.
    """

    mean: Array  # mu [g, i]
    square: Array  # chi [g, i]
    factor: Array  # L [g, i, r]; before the first batch, where the search for it starts


@dataclass(frozen=True)
class LowRank:
    """The leading directions of the averaged Gram matrix exactly, and its diagonal besides.

    Args:
        rank: r, the number of leading directions.
        every: steps from one renewal of the statistics to the next; the first `every` steps all renew them.
        decay: of the moving averages, for one step.
        ridge: added to the diagonal of M for the weights, in units of the features squared.
        relative: the ridge is a multiple of the features' mean variance instead, which makes the update the same
            whatever the features' scale.
        sampling_ridge: the ridge is at least this multiple of i / n, since n samples say little of i directions.
        samples: the share of a batch's samples that the statistics are taken of, above 0 and at most 1.

    Raises:
        ValueError: a setting is out of its range.

    Source: section 3.5 of the paper; Halko, Martinsson and Tropp (2011), section 5.5, for the approximation.

    >>> LowRank(rank=16).rank
    16
    """

    rank: int = 16
    every: int = 1
    decay: float = 0.95
    ridge: float = 0.1
    relative: bool = False
    sampling_ridge: float = 0.0
    samples: float = 1.0

    def __post_init__(self) -> None:
        check_count(self, "rank", "every")
        check_range(self, 0, 1, "decay")
        check_range(self, 0, inf, "ridge", "sampling_ridge")
        check_share(self, "samples")

    def init(self, features: AnyFeatureSet, dtype: Any) -> LowRankStatistics:
        """Moments of zero, and random directions to start from."""
        assert isinstance(features, FeatureSet)
        moments = (features.groups, features.inputs)
        start = _random_directions((*moments, self._rank_of(features)), dtype)
        # Each field its own array, so that the state can be donated.
        return LowRankStatistics(jnp.zeros(moments, dtype), jnp.zeros(moments, dtype), start)

    def _rank_of(self, features: FeatureSet) -> int:
        return 0 if features.has_diagonal_gram else min(self.rank, features.inputs)

    def update(self, features: AnyFeatureSet, arrays: Sequence[Array], statistics: Any, count: Array) -> Any:
        """One power iteration on the averages with this batch in them."""
        assert isinstance(features, FeatureSet)
        features, arrays = features.thin(arrays, self.samples)
        share = share_of_batch(self.decay**self.every, count, statistics.mean.dtype)
        mean, square = (
            average(old, new, share) for old, new in zip(statistics[:2], features.moments(arrays), strict=True)
        )
        if statistics.factor.shape[2] == 0:
            return statistics._replace(mean=mean, square=square)
        factor = statistics.factor
        basis = _directions(factor)
        image = contract("git,gts->gis", factor, contract("git,gis->gts", factor, basis))
        image = average(image, _covariance_product(features, arrays, mean, basis), share)
        small = contract("gir,gis->grs", basis, image)
        return LowRankStatistics(mean, square, contract("gir,gsr->gis", image, inverse_factor(small)))

    def _diagonal(self, features: FeatureSet, statistics: LowRankStatistics, least: Array | None) -> Array:
        """E [g, i], of a ridge that is at least `least`."""
        variance = variance_of(features, statistics.mean, statistics.square)
        rest = variance - jnp.square(statistics.factor).sum(2)
        # The variance is a difference of numbers as large as chi, Woodbury's inverse of some as large as 1 / E.
        eps = jnp.finfo(variance.dtype).eps
        floor = 10 * eps * statistics.square + eps**0.5 * variance.mean(1, keepdims=True)
        shifted = jnp.maximum(rest, floor) + ridge_of(self, variance, least)
        return jnp.where(shifted > 0, shifted, 1)

    def init_memory(self, shape: tuple[int, int, int], dtype: Any) -> tuple[()]:
        """Nothing."""
        del shape, dtype
        return ()

    def solve(
        self,
        features: AnyFeatureSet,
        arrays: Sequence[Array],
        statistics: Any,
        gradient: Array,
        memory: Any,
    ) -> Solution:
        """Woodbury's identity."""
        assert isinstance(features, FeatureSet)
        least = sampling_ridge_of(self.sampling_ridge, features, arrays)
        inverse = inverse_with_leading(self._diagonal(features, statistics, least), statistics.factor)
        return Solution(*solve_whitened(inverse, features, statistics.mean, gradient), memory)

    def operations(self, features: AnyFeatureSet, outputs: int) -> tuple[float, float]:
        """The products with the batch and with the factor; V, two products with it, and the diagonal's part."""
        g, n, i = features.groups, features.samples * self.samples, features.inputs
        rank = self._rank_of(features) if isinstance(features, FeatureSet) else self.rank
        return g * i * rank * (4.0 * n + 8.0 * rank), g * i * (outputs * (4.0 * rank + 9) + 4.0 * rank**2)


def inverse_with_leading(diagonal: Array, factor: Array) -> Inverse:
    """(E + L L^T)^-1 of E [g, i], which is positive, and L [g, i, r], by Woodbury's identity.

    With a bias mu is one more column of L, so that E^-1 mu is one more of V, and what c has along it tells mu^T S^-1 c.
    All that is taken of g_w itself: of arrays like the weights only V V^T c is written.
    """
    rank = factor.shape[2]
    if rank == 0:
        return inverse_of_diagonal(diagonal)
    reciprocal = 1 / diagonal

    def inverse(weight: Array, mean: Array, bias: Array | None) -> tuple[Array, Array, Array]:
        columns = factor if bias is None else jnp.concatenate([factor, mean[:, :, None]], axis=2)
        scaled = columns * reciprocal[:, :, None]
        gram = contract("gir,gis->grs", columns, scaled)
        turn = inverse_factor(np.eye(rank, dtype=factor.dtype) + gram[:, :rank, :rank]).transpose(0, 2, 1)  # R^-T
        if bias is not None:
            turn = jnp.pad(turn, [(0, 0), (0, 1), (0, 1)]) + np.diag(np.arange(rank + 1) == rank).astype(turn.dtype)
        woodbury = contract("gir,grs->gis", scaled, turn)  # [V E^-1 mu]
        leading = along = contract("gir,gio->gro", woodbury, weight)
        projected = along[:, -1]  # of no use without a bias
        if bias is not None:
            shift = contract("grs,gst->grt", gram, turn)[:, -1]  # mu^T [V E^-1 mu]
            along = along - shift[:, :, None] * bias
            leading = along * (np.arange(rank + 1) < rank).astype(along.dtype)[:, None]
            projected = along[:, -1] - vector_matrix(shift, leading)
        vector = centered(weight, mean, bias)
        solved = vector * reciprocal[:, :, None] - contract("gir,gro->gio", woodbury, leading)
        squared = (jnp.square(vector).sum(2) * reciprocal).sum(1) - jnp.square(leading).sum((1, 2))
        return solved, squared, projected

    return inverse


def _random_directions(shape: tuple[int, ...], dtype: Any) -> Array:
    """The same each time, and for all groups: constants of the compiled step."""
    directions = np.random.default_rng(0).standard_normal(shape[1:]).astype(dtype)
    return jnp.broadcast_to(jnp.asarray(directions), shape)


def _directions(factor: Array) -> Array:
    """Columns L [g, i, r] of length 1, and a little of every other direction, so that none is lost for good."""
    squared = diagonal_of(contract("gir,gis->grs", factor, factor))
    length = jnp.sqrt(jnp.where(squared > 0, squared, 1))[:, None]
    return factor / length + 1e-3 / factor.shape[1] ** 0.5 * _random_directions(factor.shape, factor.dtype)


def _covariance_product(features: FeatureSet, arrays: Sequence[Array], mean: Array, basis: Array) -> Array:
    """X_c^T X_c Q / n [g, i, r] of this batch, X_c centered at `mean` where the neuron has a bias; Q [g, i, r]."""
    if not features.has_bias:
        return features.product(arrays, basis)
    # [X 1]^T [X 1] [Q 0; -mu^T Q 1]: its columns are X^T X_c Q with 1^T X_c Q below, and X^T 1 beside.
    projected = vector_matrix(mean, basis)[:, None]
    extended = jnp.concatenate([basis, -projected], axis=1)  # [g, i + 1, r]
    product = features.product(arrays, extended)
    return product[:, :-1] - mean[:, :, None] * product[:, -1:]
