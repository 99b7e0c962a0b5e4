"""Moving averages of a metric's moments, and the whitening that solves with them (sections 3.3 and 3.5).

With a bias that is added to a fraction f of the samples, M = [[S + f mu mu^T, f mu], [f mu^T, f]] (eq. 12 for f = 1),

    M^-1 [g_w; g_b] = [w; g_b / f - mu^T w],   w = S^-1 (g_w - mu g_b),

which is P = W W^T of section 3.3 written out. It is exact where S is the covariance, and the preconditioner where S is
its diagonal. Without a bias M is the uncentered second moment, and w = M^-1 g.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

from lnb._metric import GramMetric
from lnb._numerics import vector_matrix

RidgeUnit = Literal["absolute", "mean variance", "variance"]
RIDGE_UNITS = ("absolute", "mean variance", "variance")

_VARIES = 1e-20
"""A feature with less than this share of the mean variance has not varied."""


class Moments(NamedTuple):
    """Moving averages of mu and chi."""

    mean: Array  # mu = E[x] [g, i]
    square: Array  # chi = E[x * x] [g, i]


def ema_weight(decay: float | Array, count: Array, dtype: Any) -> Array:
    """The weight of the last of `count` batches in an exponential average that needs no correction: 1 for the first."""
    base, count = jnp.asarray(decay, dtype), count.astype(dtype)
    return 1 - base * (1 - base ** (count - 1)) / (1 - base**count)


def ema_update(old: Array, new: Array, weight: Array) -> Array:
    """Take one more batch into a moving average, with this weight."""
    return (1 - weight) * old + weight * new.astype(old.dtype)


def update_moments(old: Moments, batch: tuple[Array, Array], decays: tuple[Any, Any], count: Array) -> Moments:
    """Take the last of `count` batches into mu and chi."""
    weights = (ema_weight(decay, count, past.dtype) for decay, past in zip(decays, old, strict=True))
    return Moments(*map(ema_update, old, batch, weights))


def variance_of(metric: GramMetric, mean: Array, square: Array) -> Array:
    """The diagonal of S [g, i]: max(chi - f mu^2, 0) with a bias, chi without."""
    if not metric.has_bias:
        return square
    return jnp.maximum(square - metric.bias_share * jnp.square(mean), 0)


def shrunk_variance(metric: GramMetric, mean: Array, square: Array, shrinkage: float | Array) -> Array:
    """The diagonal of S [g, i], with the variances v drawn towards their mean: (1 - s) v + s mean(v).

    The variances are max(chi - f mu^2, 0). Without a bias, mu^2 is added again.
    """
    centered = metric.bias_share * jnp.square(mean)
    variance = jnp.maximum(square - centered, 0)
    shrinkage = jnp.asarray(shrinkage, variance.dtype)
    variance = (1 - shrinkage) * variance + shrinkage * variance.mean(1, keepdims=True)
    return variance if metric.has_bias else variance + centered


def ridge_of(ridge: float | Array, unit: RidgeUnit, variance: Array) -> Array:
    """The ridge that a solver adds to the variances [g, i] of M: one for all features [g, 1], or each its own [g, i].

    Args:
        ridge: the solver's setting.
        unit: "absolute", or that of which the ridge is a multiple: the features' "mean variance", or each feature's own
            "variance".
        variance: the diagonal of S [g, i].
    """
    ridge = jnp.broadcast_to(jnp.asarray(ridge, variance.dtype), (variance.shape[0], 1))
    return ridge if unit == "absolute" else ridge * unit_of(unit, variance)


def unit_of(unit: RidgeUnit, variance: Array) -> Array:
    """The unit of a relative ridge [g, 1 or i]; a feature that has not varied has the mean variance."""
    mean = variance.mean(1, keepdims=True)
    return mean if unit == "mean variance" else jnp.where(variance > _VARIES * mean, variance, mean)


def ridge_of_averages(
    solver: Any, variance: Array, square: Array, inverse_count: Array, fourth_moment: Array | None
) -> Array:
    """The ridge [g, 1 or i] of a solver whose statistics are averages of few samples.

    In the unit "variance", the sampling ridge of a feature is a multiple of E[(x - mu)^4] / v, three times its variance
    v if it is normal. The variance of n samples is off by the root of E[(x - mu)^4] / n, and by far more for a feature
    that is seldom non-zero than for one that always varies.

    Args:
        solver: with the settings `ridge`, `ridge_unit` and `sampling_ridge`.
        variance: the diagonal of S [g, i].
        inverse_count: 1 / n [g, 1].
        fourth_moment: in the unit "variance", E[(x - mu)^4] / chi [g, i]; None in others.
        square: chi [g, i].
    """
    unit = solver.ridge_unit
    least = jnp.asarray(solver.sampling_ridge * variance.shape[1], variance.dtype) * inverse_count
    if unit == "mean variance":
        least = least * unit_of(unit, variance)
    if fourth_moment is not None:
        least = least * fourth_moment_share(variance, square, fourth_moment)
    return jnp.maximum(ridge_of(solver.ridge, unit, variance), least)


def fourth_moment_share(variance: Array, square: Array, fourth_moment: Array) -> Array:
    """E[(x - mu)^4] / v [g, i]; of the means for a feature that has not varied.

    Args:
        variance, square: v and chi [g, i].
        fourth_moment: E[(x - mu)^4] / chi [g, i].
    """
    means = [moment.mean(1, keepdims=True) for moment in (square, variance)]
    varies = variance > _VARIES * means[1]
    mean_share = (fourth_moment * _quotient(square, means[0])).mean(1, keepdims=True) * _quotient(*means)
    return jnp.where(varies, fourth_moment * _quotient(square, variance), mean_share)


def _quotient(numerator: Array, denominator: Array) -> Array:
    return numerator / jnp.where(denominator > 0, denominator, 1)


def update_fourth_moment(
    metric: GramMetric, old: Array, mean: Array, squares: tuple[Array, Array], weight: Array
) -> Array:
    """Take a batch into E[(x - mu)^4] / chi [g, i], which is in units of the features squared.

    Args:
        metric: of the batch.
        old: the average before.
        mean: mu of the batch [g, i].
        squares: the averages of chi before this batch and with it.
        weight: of this batch.
    """
    before, now = squares
    batch = metric.fourth_moment(mean, jnp.sqrt(jnp.where(now > 0, now, 1)))
    return ema_update(old * _quotient(before, now), batch, weight)


def update_inverse_count(old: Array, count: Array, weight: Array) -> Array:
    """1 / n [g, 1] of the n samples that an average is worth with this batch in it: the sum of w_k^2 / n_k."""
    return jnp.square(1 - weight) * old + jnp.square(weight) / jnp.where(count > 0, count, 1).astype(old.dtype)


Inverse = Callable[[Array, Array, Array | None], tuple[Array, Array, Array]]
"""Multiplies by the inverse of S (with a bias) or of M (without).

From g_w [g, i, o], mu [g, i] and g_b [g, 1, o], or None, to S^-1 c [g, i, o], c . S^-1 c [g] and mu^T S^-1 c [g, o],
where c = g_w - mu g_b.
"""


def inverse_of_diagonal(diagonal: Array) -> Inverse:
    """E^-1 of E [g, i]; 1 for a feature that never varies.

    The squared norm is summed over the outputs first, so that E^-1 c is not written for it (docs/notes.md).
    """
    reciprocal = 1 / jnp.where(diagonal > 0, diagonal, 1)

    def inverse(weight: Array, mean: Array, bias: Array | None) -> tuple[Array, Array, Array]:
        vector = centered(weight, mean, bias)
        squared_norm = (jnp.square(vector).sum(2) * reciprocal).sum(1)
        return vector * reciprocal[:, :, None], squared_norm, vector_matrix(mean * reciprocal, vector)

    return inverse


def solve_whitened(inverse: Inverse, metric: GramMetric, mean: Array, vector: Array) -> tuple[Array, Array]:
    """Solve M theta = v for V [g, i(+1), o].

    Args:
        inverse: of S, or of M without a bias.
        metric: of this batch, for its bias.
        mean: mu [g, i].
        vector: V [g, i(+1), o].

    Returns:
        theta [g, i(+1), o], and v . theta [g].
    """
    if not metric.has_bias:
        return inverse(vector, mean, None)[:2]
    bias, share = vector[:, -1:], metric.bias_share
    weight, squared_norm, projected = inverse(vector[:, :-1], mean, bias)
    below = bias / share - projected[:, None]
    return jnp.concatenate([weight, below], axis=1), squared_norm + jnp.square(bias).sum((1, 2)) / share


def centered(weight: Array, mean: Array, bias: Array | None) -> Array:
    """c = g_w - mu g_b [g, i, o]; a single group is computed without the axis of groups (docs/notes.md)."""
    if bias is None:
        return weight
    if len(weight) == 1:
        return (weight[0] - mean[0][:, None] * bias[0])[None]
    return weight - mean[:, :, None] * bias
