"""Moving averages of a neuron's moments, and the whitening that solves with them (sections 3.3 and 3.5).

With a bias, M = [[S + mu mu^T, mu], [mu^T, 1]] (eq. 12) and

    M^-1 [g_w; g_b] = [w; g_b - mu^T w],   w = S^-1 (g_w - mu g_b),

which is P = W W^T of section 3.3 written out: exact where S is the covariance, the preconditioner where S is its
diagonal. Without a bias M is the uncentered second moment, and w = M^-1 g.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array

from lnb._linear_maps import FeatureSet, contract


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


def corrected(value: Array, decay: float, count: Array) -> Array:
    """A moving average after `count` steps, corrected for its start at zero."""
    return value / (1 - jnp.asarray(decay, value.dtype) ** count.astype(value.dtype))


def shrunk_variance(mean: Array, square: Array, shrinkage: float) -> Array:
    """V = max(chi - mu^2, 0) [g, i], drawn towards its mean over the features: (1 - s) v + s mean(v)."""
    variance = jnp.maximum(square - jnp.square(mean), 0)
    return (1 - shrinkage) * variance + shrinkage * variance.mean(1, keepdims=True)


def ridge_of(solver: Ridged, variance: Array) -> Array:
    """What a solver adds to the variances [g, i] of M, [g, 1]: its ridge, or that multiple of their mean."""
    if not solver.relative:
        return jnp.full((variance.shape[0], 1), solver.ridge, variance.dtype)
    return solver.ridge * variance.mean(1, keepdims=True)


def solve_whitened(inverse: Callable[[Array], Array], mean: Array, has_bias: bool, vector: Array) -> Array:
    """M^-1 v for V [g, i(+1), o]; `inverse` applies S^-1 (with a bias) or M^-1 (without) to [g, i, o]."""
    if not has_bias:
        return inverse(vector)
    weight, bias = vector[:, :-1], vector[:, -1:]
    weight = inverse(weight - mean[:, :, None] * bias)
    return jnp.concatenate([weight, bias - contract("gi,gio->go", mean, weight)[:, None]], axis=1)


def solve_diagonal(features: FeatureSet, mean: Array, variance: Array, vector: Array, ridge: Any = 0.0) -> Array:
    """P v with the variances [g, i] for the covariance, the ridge [g, 1] added; 1 for a feature that never varies."""
    scale = variance + ridge if features.has_bias else variance + jnp.square(mean) + ridge
    scale = jnp.where(scale > 0, scale, 1)[:, :, None]
    return solve_whitened(lambda weight: weight / scale, mean, features.has_bias, vector)
