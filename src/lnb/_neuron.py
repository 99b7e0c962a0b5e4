"""A neuron, and the features that the neurons of a loss read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._explicit_axes import with_automatic_axes
from lnb._feature_sets import FeatureSet, TiedFeatureSet
from lnb._find import FoundNeuron
from lnb._linear_maps import Arrays, statistics_dtype
from lnb._solvers import AnyFeatureSet

PyTree = Any


@dataclass(frozen=True)
class Features:
    """What the neurons read in one batch: arrays for `update`, and which feature set reads which of them.

    A pytree whose leaves are `arrays`, None where nothing reads what was recorded; it passes through `jax.jit`,
    `jax.lax.scan` and `optax.chain`.
    """

    arrays: tuple[Any, ...]
    sets: tuple[AnyFeatureSet | None, ...]
    signature: tuple[Any, ...]


jax.tree_util.register_dataclass(Features, data_fields=["arrays"], meta_fields=["sets", "signature"])


@dataclass(frozen=True, eq=False)
class Neuron:
    """A linear function of the network and its parameters.

    Fields:
        paths: of its parameters in `params`, as JAX prints them.
        kind: "dense", "convolution", "embedding", "scale", "tied" (a weight used both as W and as W^T), "identity",
            or "general" (kept as its equations).
        groups, inputs, outputs: g, i (without the bias) and o of `Y[g, n, o] = sum_i X[g, n, i] W[g, i, o] + b[g, o]`.
        samples: n of eq. (11) for the batch that it was found with.
        has_bias: whether one of the parameters is b.
        index: its place in `Neurons`.
    """

    paths: tuple[str, ...]
    kind: str
    groups: int
    inputs: int
    outputs: int
    samples: int
    has_bias: bool
    index: int
    _found: FoundNeuron
    _shapes: Mapping[int, jax.ShapeDtypeStruct]

    @property
    def name(self) -> str:
        """The paths, joined."""
        return " + ".join(self.paths)

    @property
    def leaves(self) -> tuple[int, ...]:
        """Its parameters' places among the leaves of `params`."""
        return self._found.leaves

    @property
    def features(self) -> AnyFeatureSet | None:
        """The feature set that it was found with; None where the metric is the identity."""
        return self._found.features

    @property
    def covered(self) -> Mapping[int, np.ndarray | None]:
        """For each of its leaves, which elements are the neuron's; None for all."""
        return self._found.covered

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of its packed parameters, [g, i(+1), o]; [1, i(+1), o(+1)] where W^T has a bias of its own."""
        columns = isinstance(self.features, TiedFeatureSet) and self.features.second.has_bias
        return (self.groups, max(1, self.inputs + self.has_bias), self.outputs + columns)

    @property
    def operations(self) -> float:
        """Floating-point operations of its own forward and backward pass: three products of [n, i] and [i, o]."""
        return 6.0 * self.groups * self.samples * max(1, self.inputs) * self.outputs

    @property
    def dtype(self) -> Any:
        """Type of its statistics and directions."""
        return statistics_dtype(*(shape.dtype for shape in self._shapes.values()))

    def pack(self, params: PyTree) -> Array:
        """Its part of a tree like `params` as [g, i(+1), o], the bias in the last row."""
        return self.pack_leaves(jax.tree.leaves(params))

    def pack_leaves(self, leaves: Sequence[Array]) -> Array:
        """`pack` for the tree's leaves."""
        return self._found.pack({leaf: leaves[leaf].astype(self.dtype) for leaf in self.leaves})

    def unpack(self, packed: Array) -> dict[str, Array]:
        """The parameters, by path, of an array [g, i(+1), o]; elements that are not the neuron's are zero."""
        return dict(zip(self.paths, (self.unpack_leaves(packed)[leaf] for leaf in self.leaves), strict=True))

    def unpack_leaves(self, packed: Array) -> dict[int, Array]:
        """`unpack` by the leaves' places."""
        like = {leaf: jax.ShapeDtypeStruct(s.shape, packed.dtype) for leaf, s in self._shapes.items()}
        return jax.linear_transpose(self._found.pack, like)(packed)[0]

    def moments(self, features: Features) -> tuple[Array, Array]:
        """Means over the samples of its features and of their squares (mu and chi of Algorithm 2), each [g, i]."""
        mean, square = with_automatic_axes(self._canonical(features, "moments").moments, features.arrays)
        return mean.astype(self.dtype), square.astype(self.dtype)

    def gram(self, features: Features) -> Array:
        """Its metric's matrix of eq. (12), E[[x c] [x c]^T], as [g, i(+1), i(+1)].

        c is 1, or 0 in a use of the weight that does not add the bias.
        """
        feature_set = self._canonical(features, "a Gram matrix")
        return with_automatic_axes(partial(self._gram, feature_set), features.arrays)

    def _gram(self, feature_set: FeatureSet, arrays: Arrays) -> Array:
        gram, mean = (moment.astype(self.dtype) for moment in feature_set.gram(arrays))
        if feature_set.is_diagonal:
            gram = gram[:, :, None] * jnp.eye(gram.shape[1], dtype=gram.dtype)
        if not self.has_bias:
            return gram
        column = jnp.concatenate([mean, jnp.ones_like(mean[:, :1])], axis=1)[:, :, None]  # [g, i + 1, 1]
        column = feature_set.bias_square(arrays).astype(self.dtype)[:, :, None] * column
        return jnp.concatenate([jnp.concatenate([gram, column[:, :-1, 0][:, None]], axis=1), column], axis=2)

    def _canonical(self, features: Features, what: str) -> FeatureSet:
        feature_set = features.sets[self.index]
        if not isinstance(feature_set, FeatureSet):
            raise ValueError(f"neuron {self.name} is of kind {self.kind!r}, which has no {what}; use metric_product.")
        return feature_set
