"""Moving averages of a neuron's moments, and the whitening that solves with them (sections 3.3 and 3.5).

With a bias that is added to a share f of the samples, M = [[S + f mu mu^T, f mu], [f mu^T, f]] (eq. 12 for f = 1) and

    M^-1 [g_w; g_b] = [w; g_b / f - mu^T w],   w = S^-1 (g_w - mu g_b),

which is P = W W^T of section 3.3 written out: exact where S is the covariance, the preconditioner where S is its
diagonal. Without a bias M is the uncentered second moment, and w = M^-1 g.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array

from lnb._features import FeatureSet
from lnb._numerics import vector_matrix


class Ridged(Protocol):
    """A solver's settings of its ridge."""

    @property
    def ridge(self) -> float:
        """Added to the diagonal of M."""
        ...

    @property
    def relative(self) -> bool:
        """Whether it is a multiple of the features' mean variance."""
        ...


class Moments(NamedTuple):
    """Moving averages of mu and chi."""

    mean: Array  # [g, i]
    square: Array  # [g, i]


def average(old: Array, new: Array, share: Array) -> Array:
    """One step of a moving average, in which the new batch has this share."""
    return (1 - share) * old + share * new.astype(old.dtype)


def share_of_batch(decay: float, count: Array, dtype: Any) -> Array:
    """The share of the last of `count` batches in an exponential average that needs no correction: exactly 1 of one."""
    base, count = jnp.asarray(decay, dtype), count.astype(dtype)
    return 1 - base * (1 - base ** (count - 1)) / (1 - base**count)


def renewed(old: Moments, batch: tuple[Array, Array], decays: tuple[float, float], count: Array) -> Moments:
    """Mu and chi with those of the last of `count` batches in them."""
    shares = (share_of_batch(decay, count, past.dtype) for decay, past in zip(decays, old, strict=True))
    return Moments(*map(average, old, batch, shares))


def variance_of(features: FeatureSet, mean: Array, square: Array) -> Array:
    """Diagonal of S [g, i]: max(chi - f mu^2, 0) with a bias, chi without."""
    if not features.has_bias:
        return square
    return jnp.maximum(square - features.bias_share * jnp.square(mean), 0)


def shrunk(variance: Array, shrinkage: Any) -> Array:
    """Variances [g, i] drawn towards their mean over the features: (1 - s) v + s mean(v)."""
    shrinkage = jnp.asarray(shrinkage, variance.dtype)
    return (1 - shrinkage) * variance + shrinkage * variance.mean(1, keepdims=True)


def shrunk_variance(features: FeatureSet, mean: Array, square: Array, shrinkage: float) -> Array:
    """Diagonal of S [g, i] with the variances max(chi - f mu^2, 0) shrunk; without a bias, mu^2 is added again."""
    centered = features.bias_share * jnp.square(mean)
    variance = shrunk(jnp.maximum(square - centered, 0), shrinkage)
    return variance if features.has_bias else variance + centered


def ridge_of(solver: Ridged, variance: Array, least: Array | None = None) -> Array:
    """What a solver adds to the variances [g, i] of M, [g, 1]: its ridge, or that multiple of their mean.

    `least` is a lower bound on the setting.
    """
    ridge = jnp.asarray(solver.ridge, variance.dtype)
    if least is not None:
        ridge = jnp.maximum(ridge, least.astype(variance.dtype))
    ridge = jnp.broadcast_to(ridge, (variance.shape[0], 1))
    return ridge * variance.mean(1, keepdims=True) if solver.relative else ridge


def sampling_ridge_of(multiple: Any, features: FeatureSet, arrays: Sequence[Array]) -> Array | None:
    """A multiple of i / n, n being this batch's; None for none."""
    if isinstance(multiple, (int, float)) and multiple == 0:
        return None
    count = features.count(arrays)
    return multiple * features.inputs / jnp.where(count > 0, count, 1)


Inverse = Callable[[Array, Array, Array | None], tuple[Array, Array, Array]]
"""Of S (with a bias) or M (without): from g_w [g, i, o], mu [g, i] and g_b [g, 1, o], or None, to S^-1 c,
c . S^-1 c [g] and mu^T S^-1 c [g, o], of c = g_w - mu g_b."""


def inverse_of_diagonal(diagonal: Array) -> Inverse:
    """E^-1 of E [g, i], 1 for a feature that never varies.

    The length is summed from |c|^2 along the outputs, so that E^-1 c need not be written for it, nor for mu's product.
    """
    reciprocal = 1 / jnp.where(diagonal > 0, diagonal, 1)

    def inverse(weight: Array, mean: Array, bias: Array | None) -> tuple[Array, Array, Array]:
        vector = centered(weight, mean, bias)
        squared = (jnp.square(vector).sum(2) * reciprocal).sum(1)
        return vector * reciprocal[:, :, None], squared, vector_matrix(mean * reciprocal, vector)

    return inverse


def solve_whitened(inverse: Inverse, features: FeatureSet, mean: Array, vector: Array) -> tuple[Array, Array]:
    """M^-1 v and v . M^-1 v [g] for V [g, i(+1), o].

    Of arrays like the weights, large beside the features of a batch, it writes what `inverse` must.
    """
    if not features.has_bias:
        return inverse(vector, mean, None)[:2]
    bias = vector[:, -1:]
    weight, squared, projected = inverse(vector[:, :-1], mean, bias)
    below = bias / features.bias_share - projected[:, None]
    return jnp.concatenate([weight, below], axis=1), squared + jnp.square(bias).sum((1, 2)) / features.bias_share


def centered(weight: Array, mean: Array, bias: Array | None) -> Array:
    """c = g_w - mu g_b, of a single group without the axis of groups: XLA would write it with and without."""
    if bias is None:
        return weight
    if len(weight) == 1:
        return (weight[0] - mean[0][:, None] * bias[0])[None]
    return weight - mean[:, :, None] * bias
