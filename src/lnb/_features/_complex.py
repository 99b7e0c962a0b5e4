"""The features of a weight where the network's numbers are complex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from lnb._features._map import FeatureMap, weighted_mean
from lnb._numerics import contract, gram_of


@dataclass(frozen=True)
class ComplexFeatures(FeatureMap):
    """Complex features as real ones, so that the metric is Re(J^H J).

    A sample has two rows, which give the real and the imaginary part of its outputs:

        [Re x, -Im x]    and    [Im x, Re x]    for a weight [Re W; Im W],

    and the left halves of these for a real weight. Each row stands for half a sample, and is sqrt(2) times as long.

    Fields:
        inner: reads the real and the imaginary part of X.
        pair: whether the weight is complex.
        factor: the constant that X is multiplied by.
    """

    inner: Any
    pair: bool
    factor: complex = 1.0

    @property
    def sample_rank(self) -> int:
        return self.inner.sample_rank

    def subsample(self, recorded: Array, every: int) -> Array:
        return self.inner.subsample(recorded, every)

    def weights(self, recorded: Array, weights: Array) -> Array:
        return jnp.tile(self.inner.weights(recorded, weights), 2)

    def weighted_moments(self, recorded: Array, weights: Array) -> tuple[Array, Array]:
        x = self.matrix(recorded)
        return weighted_mean(x, weights), weighted_mean(jnp.square(x), weights)

    def matrix(self, recorded: Array) -> Array:
        real, imaginary = self.inner.matrix(recorded.real), self.inner.matrix(recorded.imag)
        if self.factor != 1.0:
            a, b = (jnp.asarray(part * 2**0.5, real.dtype) for part in (self.factor.real, self.factor.imag))
            real, imaginary = a * real - b * imaginary, b * real + a * imaginary
        else:
            real, imaginary = 2**0.5 * real, 2**0.5 * imaginary
        if not self.pair:
            return jnp.concatenate([real, imaginary], axis=1)
        rows = [jnp.concatenate(parts, axis=2) for parts in ((real, -imaginary), (imaginary, real))]
        return jnp.concatenate(rows, axis=1)

    def gram(self, recorded: Array) -> tuple[Array, Array]:
        return gram_of(self.matrix(recorded))

    def moments(self, recorded: Array) -> tuple[Array, Array]:
        x = self.matrix(recorded)
        return x.mean(1), jnp.square(x).mean(1)

    def forward(self, recorded: Array, weight: Array) -> Array:
        return contract("gni,gio->gno", self.matrix(recorded), weight)

    def backward(self, recorded: Array, output: Array) -> Array:
        return contract("gni,gno->gio", self.matrix(recorded), output)
