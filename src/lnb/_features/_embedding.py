"""The features of a table lookup: which row each sample reads."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from lnb._features._map import FeatureMap, expand_weights, fill_value, subsample, total_weight
from lnb._numerics import gram_of


@dataclass(frozen=True)
class EmbeddingFeatures(FeatureMap):
    """The one-hot features of a table lookup: n counts tokens, i the table's rows. Their Gram matrix is diagonal.

    `component` is the index's place on the recorded array's last axis, if that axis holds several indices.
    An index outside the table reads no row (`clip=False`) or the nearest (`clip=True`), as in the lookup itself.
    """

    rows: int
    clip: bool
    component: int | None = None
    factor: float = 1.0

    @property
    def sample_rank(self) -> int:
        return 1  # of no use: no two rows meet, whatever the number of samples

    def _sample_axes(self, recorded: Array) -> range:
        return range(recorded.ndim if self.component is None else recorded.ndim - 1)

    def subsample(self, recorded: Array, every: int) -> Array:
        return subsample(recorded, self._sample_axes(recorded), every)

    def weights(self, recorded: Array, weights: Array) -> Array:
        return expand_weights(weights, [recorded.shape[a] for a in self._sample_axes(recorded)])

    def weighted_moments(self, recorded: Array, weights: Array) -> tuple[Array, Array]:
        frequency = (
            self.backward(recorded, weights[:, :, None])[:, :, 0] / self.factor / total_weight(weights)
        )  # [1, i]
        return frequency * self.factor, frequency * self.factor**2

    def indices(self, recorded: Array) -> tuple[Array, Array]:
        """The row that each sample reads, and whether it reads one, [n]."""
        indices = (recorded if self.component is None else recorded[..., self.component]).reshape(-1)
        ran = indices != fill_value(indices.dtype)
        if self.clip:
            indices = jnp.clip(indices, 0, self.rows - 1)
        inside = ran & (indices >= 0) & (indices < self.rows)
        return jnp.where(inside, indices, 0), inside  # [n]

    def matrix(self, recorded: Array) -> Array:
        indices, inside = self.indices(recorded)
        return jax.nn.one_hot(jnp.where(inside, indices, -1), self.rows)[None] * self.factor  # [1, n, i]

    def gram(self, recorded: Array) -> tuple[Array, Array]:
        return gram_of(self.matrix(recorded))

    def moments(self, recorded: Array) -> tuple[Array, Array]:
        indices, inside = self.indices(recorded)
        counts = jnp.zeros(self.rows).at[indices].add(inside.astype(jnp.zeros(()).dtype))
        frequency = (counts / indices.size)[None]  # [1, i]
        return frequency * self.factor, frequency * self.factor**2

    def forward(self, recorded: Array, weight: Array) -> Array:
        indices, inside = self.indices(recorded)
        weight = weight[0] * self.factor
        return jnp.where(inside[:, None], weight[indices], jnp.zeros((), weight.dtype))[None]  # [1, n, o]

    def backward(self, recorded: Array, output: Array) -> Array:
        indices, inside = self.indices(recorded)
        rows = jnp.where(inside[:, None], output[0] * self.factor, jnp.zeros((), output.dtype))
        return jnp.zeros((self.rows, output.shape[2]), output.dtype).at[indices].add(rows)[None]  # [1, i, o]
