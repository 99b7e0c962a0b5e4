"""The features of a matrix product, and of a scale."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import jax.numpy as jnp
from jax import Array

from lnb._features._map import FeatureMap, expand_weights, subsample, weighted_mean
from lnb._numerics import contract, gram_of, statistics_dtype


@dataclass(frozen=True)
class DenseFeatures(FeatureMap):
    """The features of a matrix product; each axis of the recorded array counts groups, samples or inputs.

    The features of a scale have no input axis, and i = 1.
    """

    group_axes: tuple[int, ...]
    sample_axes: tuple[int, ...]
    input_axes: tuple[int, ...]
    factor: float = 1.0

    @property
    def sample_rank(self) -> int:
        return len(self.sample_axes)

    def subsample(self, recorded: Array, every: int) -> Array:
        return subsample(recorded, self.sample_axes, every)

    def weights(self, recorded: Array, weights: Array) -> Array:
        return expand_weights(weights, [recorded.shape[a] for a in self.sample_axes])

    def weighted_moments(self, recorded: Array, weights: Array) -> tuple[Array, Array]:
        x = self.matrix(recorded)
        return weighted_mean(x, weights), weighted_mean(jnp.square(x), weights)

    def matrix(self, recorded: Array) -> Array:
        x = recorded.astype(statistics_dtype(recorded.dtype))
        sizes = [prod(x.shape[a] for a in axes) for axes in (self.group_axes, self.sample_axes, self.input_axes)]
        x = x.transpose(self.group_axes + self.sample_axes + self.input_axes).reshape(sizes)  # [g, n, i]
        return x if self.factor == 1.0 else x * jnp.asarray(self.factor, x.dtype)

    def gram(self, recorded: Array) -> tuple[Array, Array]:
        if self.input_axes:
            return gram_of(self.matrix(recorded))
        samples = prod(recorded.shape[a] for a in self.sample_axes)
        mean, square = self.moments(recorded)
        return samples * square[:, :, None], samples * mean

    def moments(self, recorded: Array) -> tuple[Array, Array]:
        left = [a for a in range(recorded.ndim) if a not in self.sample_axes]
        order = [left.index(a) for a in self.group_axes + self.input_axes]
        groups = prod(recorded.shape[a] for a in self.group_axes)
        x = recorded.astype(statistics_dtype(recorded.dtype))

        def mean(x: Array, factor: float) -> Array:
            m = x.mean(self.sample_axes).transpose(order).reshape(groups, -1)  # [g, i]
            return m if factor == 1.0 else m * jnp.asarray(factor, m.dtype)

        return mean(x, self.factor), mean(jnp.square(x), self.factor**2)

    def forward(self, recorded: Array, weight: Array) -> Array:
        return contract("gni,gio->gno", self.matrix(recorded), weight)

    def backward(self, recorded: Array, output: Array) -> Array:
        return contract("gni,gno->gio", self.matrix(recorded), output)
