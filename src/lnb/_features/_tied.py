"""The features of a weight that is used both as W and as W^T."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax import Array

from lnb._features._feature_set import FeatureRead, FeatureSet
from lnb._features._map import Arrays
from lnb._features._ragged import RaggedRead


@dataclass(frozen=True)
class TiedFeatureSet:
    """The features of a weight that is used both as W [i, o] and as W^T, such as an embedding tied to the head.

        M v = (n_1 M_1 V + n_2 V M_2) / n

    Packed parameters V are [1, i(+1), o(+1)]: the first use's bias is the last row, the second's the last column, and
    the corner is zero.

    Fields:
        first, second: the features of either, as if they were neurons of their own.
    """

    first: FeatureSet
    second: FeatureSet
    groups: int = 1

    @property
    def reads(self) -> tuple[FeatureRead | RaggedRead, ...]:
        """The reads of both uses."""
        return self.first.reads + self.second.reads

    def reindexed(self, places: Mapping[int, int]) -> TiedFeatureSet:
        """As `FeatureSet.reindexed`."""
        return replace(self, first=self.first.reindexed(places), second=self.second.reindexed(places))

    def joined(self, other: TiedFeatureSet) -> TiedFeatureSet:
        """As `FeatureSet.joined`."""
        return replace(self, first=self.first.joined(other.first), second=self.second.joined(other.second))

    def weighted(self, arrays: Arrays, weights: Array, place: int) -> tuple[TiedFeatureSet, list[Array]]:
        """As `FeatureSet.weighted`."""
        first, added = self.first.weighted(arrays, weights, place)
        second, more = self.second.weighted(arrays, weights, place + len(added))
        return replace(self, first=first, second=second), added + more

    @property
    def inputs(self) -> int:
        """i."""
        return self.first.inputs

    @property
    def has_bias(self) -> bool:
        """Whether the first use adds a bias."""
        return self.first.has_bias

    @property
    def samples(self) -> int:
        """n, the total over both."""
        return self.first.samples + self.second.samples

    @property
    def shares(self) -> tuple[float, float]:
        """n_1 / n and n_2 / n."""
        return self.first.samples / self.samples, self.second.samples / self.samples

    def product(self, arrays: Arrays, vector: Array) -> Array:
        """M v of eq. (11)."""
        i, o = self.first.inputs, self.second.inputs
        (share, other), (_, rows, columns) = self.shares, vector.shape
        first = share * self.first.product(arrays, vector[:, :, :o])  # [1, i(+1), o]
        second = other * self.second.product(arrays, vector[:, :i].transpose(0, 2, 1)).transpose(0, 2, 1)
        return jnp.pad(first, ((0, 0), (0, 0), (0, columns - o))) + jnp.pad(second, ((0, 0), (0, rows - i), (0, 0)))
