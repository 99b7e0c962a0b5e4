"""The features of one weight, read from an array that the forward pass recorded.

A linear function is a grouped linear regression,

    Y[g, n, o] = sum_i X[g, n, i] W[g, i, o] + b[g, o]

Axis letters, here and everywhere: g groups, n samples, i inputs (features), o outputs. A feature map reads X from the
recorded array, and multiplies by it and by its transpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from lnb._numerics import contract, gram_of

Arrays = Sequence[Array]
"""The arrays that a forward pass recorded, as `Features` holds them."""


class FeatureMap(Protocol):
    """X of one weight, read from an array that the forward pass recorded."""

    @property
    def sample_rank(self) -> int:
        """How many axes the samples are spread over."""
        ...

    def subsample(self, recorded: Array, every: int) -> Array:
        """The recorded array of about every k-th sample."""
        ...

    def weights(self, recorded: Array, weights: Array) -> Array:
        """A batch's weights for each sample, [n]."""
        ...

    def weighted_moments(self, recorded: Array, weights: Array) -> tuple[Array, Array]:
        """`moments` with weights [g or 1, n], which need not add up to 1."""
        ...

    def matrix(self, recorded: Array) -> Array:
        """X [g, n, i]."""
        ...

    def gram(self, recorded: Array) -> tuple[Array, Array]:
        """X^T X [g, i, i] and X^T 1 [g, i]."""
        ...

    def moments(self, recorded: Array) -> tuple[Array, Array]:
        """Mean over the samples of the features and of their squares, each [g, i]."""
        ...

    def forward(self, recorded: Array, weight: Array) -> Array:
        """X W [g, n, o] for W [g, i, o]."""
        ...

    def backward(self, recorded: Array, output: Array) -> Array:
        """X^T Y [g, i, o] for Y [g, n, o]."""
        ...


def fill_value(dtype: Any) -> Any:
    """The value to record for a region that did not run: zero, or an index that reads no row."""
    if jnp.issubdtype(dtype, jnp.unsignedinteger):
        return jnp.iinfo(dtype).max
    return jnp.iinfo(dtype).min if jnp.issubdtype(dtype, jnp.integer) else jnp.zeros((), dtype)


def subsample(array: Array, axes: Sequence[int], every: int) -> Array:
    """Every k-th index along the first of these axes that is long enough; if none is, one index of the longest."""
    if not axes:
        return array
    axis = next((a for a in axes if array.shape[a] >= every), max(axes, key=lambda a: array.shape[a]))
    return lax.slice_in_dim(array, 0, array.shape[axis], min(every, array.shape[axis]), axis)


def align(weights: Array, samples: Sequence[int]) -> Array:
    """Fit the weights of a batch, [b1, b2, ..], to samples with axes of these sizes.

    Where the samples have fewer axes than the weights, the weights are averaged over the rest.

    Raises:
        ValueError: the leading axes are not the batch's, one by one or as their product.
    """
    if samples and weights.size == samples[0] and weights.shape[0] != samples[0]:
        weights = weights.reshape(-1)
    shared = min(weights.ndim, len(samples))
    if weights.shape[:shared] != tuple(samples[:shared]) or not shared:
        raise ValueError(f"has samples of shape {tuple(samples)}, and the weights have shape {weights.shape}")
    return weights.mean(tuple(range(shared, weights.ndim)))


def expand_weights(weights: Array, samples: Sequence[int]) -> Array:
    """The weight of each sample, [n], for samples with axes of these sizes; it repeats over axes the batch lacks."""
    aligned = align(weights, samples)
    full = aligned.reshape(aligned.shape + (1,) * (len(samples) - aligned.ndim))
    return jnp.broadcast_to(full, tuple(samples)).reshape(-1)


def total_weight(weights: Array) -> Array:
    """The sum of weights [g, n], [g, 1]; 1 where all are zero."""
    total = weights.sum(1, keepdims=True)
    return jnp.where(total > 0, total, 1)


def weighted_mean(x: Array, weights: Array) -> Array:
    """The mean of X [g, n, i] with weights [g or 1, n], [g, i]."""
    weights = jnp.broadcast_to(weights, x.shape[:2]).astype(x.dtype)
    return contract("gn,gni->gi", weights, x) / total_weight(weights)


@dataclass(frozen=True)
class LoopFeatures(FeatureMap):
    """Features recorded at every step of a loop, with the steps as the recorded array's first axis.

    Where each step has a weight of its own (`stacked`, layers run by a scan), the steps are groups; where all steps
    use one weight (time), they are samples.

    Fields:
        inner: the map of one step, or the weight of its samples.
        stacked: as above.
        sampled: the recorded steps are some of a loop's, and each stands for several.
    """

    inner: Any
    stacked: bool
    sampled: bool = False

    @property
    def sample_rank(self) -> int:
        return self.inner.sample_rank + (not self.stacked)

    def weights(self, recorded: Array, weights: Array) -> Array:
        """A batch's weights for each sample, [n]; of weights [batch, step] each step has its own."""
        steps, own = recorded.shape[0], jax.eval_shape(lambda r: r[0], recorded)
        each = weights.ndim == 2 and weights.shape[1] == steps and self.inner.sample_rank == 1
        each = each and not self.stacked and not self.sampled
        if each:
            return jnp.concatenate([self.inner.weights(own, weights[:, k]) for k in range(steps)])
        inside = self.inner.weights(own, weights)
        return inside if self.stacked else jnp.tile(inside, steps)

    def weighted_moments(self, recorded: Array, weights: Array) -> tuple[Array, Array]:
        steps = recorded.shape[0]
        if self.stacked:
            groups = len(weights)
            split = weights.reshape(steps, -1, weights.shape[1]) if groups > 1 else weights[None].repeat(steps, 0)
            mean, square = jax.vmap(self.inner.weighted_moments)(recorded, split)
            return mean.reshape(-1, mean.shape[2]), square.reshape(-1, mean.shape[2])
        split = weights.reshape(len(weights), steps, -1).swapaxes(0, 1)  # [step, g, n]
        mean, square = jax.vmap(self.inner.weighted_moments)(recorded, split)  # [step, g, i]
        share = (split.sum(2) / total_weight(weights)[None, :, 0])[:, :, None].astype(mean.dtype)  # [step, g, 1]
        return (mean * share).sum(0), (square * share).sum(0)

    def subsample(self, recorded: Array, every: int) -> Array:
        return jax.vmap(lambda step: self.inner.subsample(step, every))(recorded)

    def matrix(self, recorded: Array) -> Array:
        return self._merge(jax.vmap(self.inner.matrix)(recorded))

    def gram(self, recorded: Array) -> tuple[Array, Array]:
        if not self.stacked:
            return gram_of(self.matrix(recorded))
        gram, total = jax.vmap(self.inner.gram)(recorded)  # [step, g, i, i] and [step, g, i]
        return gram.reshape(-1, *gram.shape[2:]), total.reshape(-1, total.shape[2])

    def moments(self, recorded: Array) -> tuple[Array, Array]:
        mean, square = jax.vmap(self.inner.moments)(recorded)  # [step, g, i]
        if self.stacked:
            return mean.reshape(-1, mean.shape[2]), square.reshape(-1, mean.shape[2])
        return mean.mean(0), square.mean(0)

    def forward(self, recorded: Array, weight: Array) -> Array:
        if self.stacked:
            return self._merge(jax.vmap(self.inner.forward)(recorded, self._split(recorded, weight)))
        return self._merge(jax.vmap(self.inner.forward, in_axes=(0, None))(recorded, weight))

    def backward(self, recorded: Array, output: Array) -> Array:
        result = jax.vmap(self.inner.backward)(recorded, self._split(recorded, output))  # [step, g, i, o]
        return result.reshape(-1, *result.shape[2:]) if self.stacked else result.sum(0)

    def _merge(self, value: Array) -> Array:
        """[step, g, n, k] as [g, n, k]."""
        steps, groups, samples, last = value.shape
        if self.stacked:
            return value.reshape(steps * groups, samples, last)
        return value.transpose(1, 0, 2, 3).reshape(groups, steps * samples, last)

    def _split(self, recorded: Array, value: Array) -> Array:
        """[g, n, k] as [step, g, n, k]; for a stacked weight, i stands in n's place."""
        steps = recorded.shape[0]
        if self.stacked:
            return value.reshape(steps, -1, *value.shape[1:])
        return value.reshape(value.shape[0], steps, -1, value.shape[2]).transpose(1, 0, 2, 3)


def is_sampled(feature_map: Any) -> bool:
    """Whether a map, or a weight of samples, is of some iterations of a loop, in this loop or in one around it."""
    return isinstance(feature_map, LoopFeatures) and (feature_map.sampled or is_sampled(feature_map.inner))


@dataclass(frozen=True)
class RunWeight:
    """The weight of the samples of a region that may be passed over: 1 if it ran, 0 if not.

    Of an iteration of a loop, it is the number of iterations that it stands for.
    """

    groups: int
    samples: int

    def matrix(self, recorded: Array) -> Array:
        """The weight of each sample, [g, n, 1]."""
        return jnp.broadcast_to(recorded, (self.groups, self.samples, 1))


@dataclass(frozen=True)
class SampleWeight:
    """The weights of samples that `Features.weighted` was given."""

    def matrix(self, recorded: Array) -> Array:
        """The weight of each sample, [g or 1, n, 1]."""
        return recorded
