"""The uses of weights that are computed from a neuron's parameters, where these weights have canonical form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from lnb._features._feature_set import FeatureSet
from lnb._features._map import Arrays
from lnb._numerics import contract, split_bias


@dataclass(frozen=True, eq=False)
class WeightRead:
    """All uses of a weight W = h(p) as one: M_p = h'^T M h', M being the metric of W with its features.

    Fields:
        function: `function(change, arrays)` is h' times a change of the leaves p, packed as V [g, i(+1), o]. It is not
            pickled: a neuron's own needs it for nothing, and each batch's features bring theirs.
        sources: the places in `Features.arrays` of what h' depends on: the values of p, and the data that h reads.
        features: those of W.
    """

    function: Callable[[Mapping[int, Array], Sequence[Array]], Array]
    sources: tuple[int, ...]
    features: FeatureSet

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "function": None}

    @property
    def samples(self) -> int:
        """n, if every region ran."""
        return self.features.samples

    @property
    def is_sampled(self) -> bool:
        """Whether samples are those of some iterations of a loop."""
        return any(read.is_sampled for read in self.features.reads)

    @property
    def places(self) -> tuple[int, ...]:
        """The places in `Features.arrays` that are read."""
        return (*self.sources, *(place for read in self.features.reads for place in read.places))

    def reindexed(self, places: Mapping[int, int]) -> WeightRead:
        """The same uses, reading other places."""
        sources = tuple(places[source] for source in self.sources)
        return replace(self, sources=sources, features=self.features.reindexed(places))

    def weighted(self, arrays: Arrays, shapes: Any, weights: Array, place: int) -> tuple[WeightRead, list[Array]]:
        """The uses with each sample weighted, by arrays to be put at `place` and after."""
        del shapes
        features, added = self.features.weighted(arrays, weights, place)
        return replace(self, features=features), added

    def holding(self, held: Mapping[int, Any]) -> WeightRead:
        """The uses with these leaves held at zero."""
        return replace(self, function=lambda change, arrays: self.function({**change, **held}, arrays))

    def count(self, arrays: Arrays) -> Array:
        """How many samples there are."""
        return self.features.count(arrays).mean()

    def product(self, arrays: Arrays, shapes: Mapping[int, Any], change: Mapping[int, Array]) -> Mapping[int, Array]:
        """n M_p v for a change v of the leaves."""
        values = [arrays[source] for source in self.sources]

        def weights(change: Mapping[int, Array]) -> Array:
            return self.function(change, values)

        packed = weights(change)
        product = self._metric_product(arrays, packed) * self.count(arrays)
        (pulled,) = jax.linear_transpose(weights, shapes)(product.astype(packed.dtype))
        return pulled

    def flops(self, size: int) -> float:
        """Floating-point operations of a product, one of three, for this many parameters."""
        features = self.features
        by_gram, by_features = self._flops(max(1, size // (features.groups * (features.inputs + features.has_bias))))
        return by_features if features.has_diagonal_gram else min(by_gram, by_features)

    def _flops(self, outputs: int) -> tuple[float, float]:
        """Of each of three products, with the Gram matrix, which is formed once, and with X."""
        groups, samples, inputs = self.features.groups, self.features.samples, self.features.inputs
        by_gram = 2.0 * groups * inputs**2 * (samples / 3 + outputs)
        return by_gram, 4.0 * groups * samples * inputs * outputs

    def _metric_product(self, arrays: Arrays, vector: Array) -> Array:
        """M V for V [g, i(+1), o]: with the Gram matrix where three products with it cost less than with X."""
        features = self.features
        by_gram, by_features = self._flops(vector.shape[2])
        if features.has_diagonal_gram or by_gram > by_features:
            return features.product(arrays, vector)
        gram, mean = features.gram(arrays)
        weight, *bias = split_bias(vector, features.has_bias)
        rows = contract("gij,gjo->gio", gram, weight)
        if not bias:
            return rows
        share = features.bias_square(arrays)[:, :, None]  # [g or 1, 1, 1]
        total = contract("gi,gio->go", mean, weight)[:, None] + bias[0]  # [g, 1, o]
        return jnp.concatenate([rows + share * mean[:, :, None] * bias[0], share * total], axis=1)
