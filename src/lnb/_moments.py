"""Moving averages of a neuron's moments, and the whitening that solves with them (sections 3.3 and 3.5).

With a bias that is added to a share f of the samples, M = [[S + f mu mu^T, f mu], [f mu^T, f]] (eq. 12 for f = 1) and

    M^-1 [g_w; g_b] = [w; g_b / f - mu^T w],   w = S^-1 (g_w - mu g_b),

which is P = W W^T of section 3.3 written out: exact where S is the covariance, the preconditioner where S is its
diagonal. Without a bias M is the uncentered second moment, and w = M^-1 g.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array

from lnb._feature_sets import FeatureSet
from lnb._linear_maps import contract


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
    """Moving averages of mu and chi, not yet corrected for their start at zero."""

    mean: Array  # [g, i]
    square: Array  # [g, i]


def average(old: Array, new: Array, decay: float) -> Array:
    """One step of an exponential moving average."""
    return decay * old + (1 - decay) * new.astype(old.dtype)


def correction(decay: float, count: Array) -> Array:
    """What a moving average after `count` steps is multiplied by for its start at zero."""
    return 1 / (1 - decay ** count.astype(float))


def corrected(value: Array, decay: float, count: Array) -> Array:
    """A moving average after `count` steps, corrected for its start at zero."""
    return value * correction(decay, count).astype(value.dtype)


def variance_of(features: FeatureSet, mean: Array, square: Array) -> Array:
    """Diagonal of S [g, i]: max(chi - f mu^2, 0) with a bias, chi without."""
    if not features.has_bias:
        return square
    return jnp.maximum(square - features.bias_share * jnp.square(mean), 0)


def shrunk(variance: Array, shrinkage: float) -> Array:
    """Variances [g, i] drawn towards their mean over the features: (1 - s) v + s mean(v)."""
    return (1 - shrinkage) * variance + shrinkage * variance.mean(1, keepdims=True)


def shrunk_variance(features: FeatureSet, mean: Array, square: Array, shrinkage: float) -> Array:
    """Diagonal of S [g, i] with the variances max(chi - f mu^2, 0) shrunk; without a bias, mu^2 is added again."""
    centered = features.bias_share * jnp.square(mean)
    variance = shrunk(jnp.maximum(square - centered, 0), shrinkage)
    return variance if features.has_bias else variance + centered


def ridge_of(solver: Ridged, variance: Array) -> Array:
    """What a solver adds to the variances [g, i] of M, [g, 1]: its ridge, or that multiple of their mean."""
    if not solver.relative:
        return jnp.full((variance.shape[0], 1), solver.ridge, variance.dtype)
    return solver.ridge * variance.mean(1, keepdims=True)


Inverse = Callable[[Array], tuple[Array, Array]]
"""Of a symmetric matrix A: from V [g, i, o] to A^-1 v and v . A^-1 v [g]."""


def inverse_of_diagonal(diagonal: Array, woodbury: Array | None = None) -> Inverse:
    """E^-1 - U U^T of E [g, i], 1 for a feature that never varies, and of U [g, i, r], if there is one.

    The length is summed from |v|^2 along the outputs, so that E^-1 v need not be written for it.
    """
    scale = jnp.where(diagonal > 0, diagonal, 1)

    def inverse(vector: Array) -> tuple[Array, Array]:
        solved = vector / scale[:, :, None]
        squared = (jnp.square(vector).sum(2) / scale).sum(1)
        if woodbury is None:
            return solved, squared
        along = contract("gir,gio->gro", woodbury, vector)
        return solved - contract("gir,gro->gio", woodbury, along), squared - jnp.square(along).sum((1, 2))

    return inverse


def solve_whitened(inverse: Inverse, features: FeatureSet, mean: Array, vector: Array) -> tuple[Array, Array]:
    """M^-1 v and v . M^-1 v [g] for V [g, i(+1), o]; `inverse` is S's (with a bias) or M's (without).

    Of arrays like the weights, large beside the features of a batch, it writes only g_w - mu g_b itself, and what
    `inverse` must.
    """
    if not features.has_bias:
        return inverse(vector)
    weight, bias = vector[:, :-1], vector[:, -1:]
    centered = _centered(weight, mean, bias)
    weight, squared = inverse(centered)
    mean, _ = inverse(mean[:, :, None])
    below = bias / features.bias_share - contract("gij,gio->gjo", mean, centered)
    return jnp.concatenate([weight, below], axis=1), squared + jnp.square(bias).sum((1, 2)) / features.bias_share


def _centered(weight: Array, mean: Array, bias: Array) -> Array:
    """g_w - mu g_b, of a single group without the axis of groups: XLA would write it with and without."""
    if len(weight) == 1:
        return (weight[0] - mean[0][:, None] * bias[0])[None]
    return weight - mean[:, :, None] * bias
