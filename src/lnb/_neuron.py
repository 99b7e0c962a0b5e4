"""A neuron: its parameters, how they are packed, and what its features say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._batch import Features
from lnb._explicit_axes import with_automatic_axes
from lnb._features import AnyFeatureSet, Arrays, FeatureSet, JacobianFeatures
from lnb._features._layout import Concatenate, ElementNumbers, Layout, Pad, ravel, unpack
from lnb._numerics import real_parts, statistics_dtype

if TYPE_CHECKING:
    from jaxtyping import Float

PyTree = Any


@dataclass(frozen=True)
class Neuron:
    """A linear function of the network and its parameters, as data: it can be printed, compared and pickled.

    Fields:
        paths: of its parameters in `params`, as JAX prints them.
        kind: "dense", "ragged" (dense, with samples that data part among the groups, such as experts), "convolution",
            "embedding", "scale", "tied" (a weight used both as W and as W^T), "identity", "general" (kept as its
            equations), or "reparametrised" (the parameters that weights are computed from, kept as their equations).
        groups, inputs, outputs: g, i (without the bias) and o of `Y[g, n, o] = sum_i X[g, n, i] W[g, i, o] + b[g, o]`.
        samples: n of eq. (11) for the batch that it was found with; of a ragged neuron, the mean over its groups.
        has_bias: whether one of the parameters is b.
        index: its place in `Neurons`.
        leaves: its parameters' places among the leaves of `params`.
        shapes: of these leaves; a complex one is its real and imaginary part, [2, ...].
        weight: how W [g, i, o] is laid out in the leaves.
        bias: the same of b [g, 1, o]; None where there is none.
        output_bias: of a tied weight, the bias [1, i, 1] that is added where it is used as W^T.
        whole: whether all elements of its leaves are its own.
        bias_leaves: the leaves that are its biases.
        parts: sizes of the parts that the program cuts the outputs o into, such as q, k and v; () for one part.
        left_out: of the neuron as it was found, the leaves that are trained by something else.
        features: the feature set that it was found with; None where the metric is the identity.
        side: of a neuron that is kept as its equations, the smaller side of its parameters as a matrix [i(+1), o], o
            the number of outputs of a sample; None for others.
    """

    paths: tuple[str, ...]
    kind: str
    groups: int
    inputs: int
    outputs: int
    samples: int
    has_bias: bool
    index: int
    leaves: tuple[int, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    weight: Layout = field(repr=False)
    bias: Layout | None = field(repr=False)
    output_bias: Layout | None = field(repr=False)
    whole: bool
    bias_leaves: frozenset[int]
    parts: tuple[int, ...] = ()
    left_out: frozenset[int] = frozenset()
    features: AnyFeatureSet | None = field(default=None, repr=False, compare=False)
    side: int | None = None

    @property
    def name(self) -> str:
        """The paths, joined."""
        return " + ".join(self.paths)

    @property
    def signature(self) -> tuple[Any, ...]:
        """Its data that must not change from batch to batch."""
        return (self.kind, self.leaves, self.groups, self.inputs, self.outputs, self.has_bias)

    @property
    def packing(self) -> Layout:
        """How its packed parameters are laid out in the leaves."""
        packed = self.weight if self.bias is None else Concatenate((self.weight, self.bias), 1)  # [g, i(+1), o]
        if self.output_bias is None:
            return packed
        column = Pad(self.output_bias, ((0, 0), (0, self.shape[1] - self.inputs), (0, 0)))
        return Concatenate((packed, column), 2)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of its packed parameters, [g, i(+1), o]; [1, i(+1), o(+1)] where W^T has a bias of its own."""
        columns = self.outputs + (self.output_bias is not None)
        return (self.groups, max(1, self.inputs + self.has_bias), columns)

    @property
    def flops(self) -> float:
        """Floating-point operations of its own forward and backward pass: three products of [n, i] and [i, o]."""
        return 6.0 * self.groups * self.samples * max(1, self.inputs) * self.outputs

    @cached_property
    def dtype(self) -> Any:
        """Type of its statistics and directions."""
        return statistics_dtype(*(shape.dtype for shape in self.shapes))

    def covered(self, leaf: int) -> np.ndarray | None:
        """Which elements of one of its leaves are its own; None for all."""
        if self.whole:
            return None
        ids = ElementNumbers({leaf: shape.shape for leaf, shape in zip(self.leaves, self.shapes, strict=True)})
        parts = [part for part in (self.weight, self.bias, self.output_bias) if part is not None]
        return np.isin(ids[leaf], np.concatenate([part.read(ids).ravel() for part in parts]))

    def pack(self, params: PyTree) -> Float[Array, "g p o"]:
        """Its part of a tree like `params`, p = i(+1): the weights, and the bias in the last row."""
        return self.pack_leaves([real_parts(leaf) for leaf in jax.tree.leaves(params)])

    def pack_leaves(self, leaves: Mapping[int, Array] | Sequence[Array]) -> Float[Array, "g p o"]:
        """`pack` for the tree's leaves."""
        return self.packing.read({leaf: leaves[leaf].astype(self.dtype) for leaf in self.leaves})

    def unpack(self, packed: Float[Array, "g p o"]) -> dict[str, Float[Array, "..."]]:
        """The parameters, by path, that pack to this array; elements that are not the neuron's are zero."""
        return dict(zip(self.paths, (self.unpack_leaves(packed)[leaf] for leaf in self.leaves), strict=True))

    def unpack_leaves(self, packed: Float[Array, "g p o"]) -> dict[int, Float[Array, "..."]]:
        """`unpack` by the leaves' places."""
        return unpack(self.packing, packed, {k: s.shape for k, s in zip(self.leaves, self.shapes, strict=True)})

    def without(self, left_out: frozenset[int]) -> Neuron | None:
        """The neuron of its other leaves; None where only leaves with the identity metric are left.

        Raises:
            ValueError: its weights cannot be parted.
        """
        mine = left_out.intersection(self.leaves)
        if not mine:
            return self
        weights = set(self.leaves) - self.bias_leaves
        if weights <= left_out:
            return None
        kept = [k for k, leaf in enumerate(self.leaves) if leaf not in mine]
        neuron = replace(
            self,
            paths=tuple(self.paths[k] for k in kept),
            leaves=tuple(self.leaves[k] for k in kept),
            shapes=tuple(self.shapes[k] for k in kept),
            left_out=mine,
        )
        if self.features is None or isinstance(self.features, JacobianFeatures):
            sizes = {leaf: prod(shape.shape) for leaf, shape in zip(neuron.leaves, neuron.shapes, strict=True)}
            size = sum(sizes.values())
            if self.features is None:
                return replace(neuron, groups=size, weight=ravel(sizes, (size, 1, 1)))
            features = self.features.without(mine)
            return replace(neuron, inputs=size, weight=ravel(sizes, (1, size, 1)), features=features)
        if not isinstance(self.features, FeatureSet) or not self.bias_leaves <= left_out or weights & left_out:
            raise ValueError(
                f"a mask leaves out a part of the neuron {self.name}, but its weights cannot be trained apart from "
                "each other: train all of it with one optimizer."
            )
        features = self.features.without_bias()
        return replace(neuron, has_bias=False, bias=None, bias_leaves=frozenset(), features=features)

    def read(self, features: Features) -> AnyFeatureSet | None:
        """Its feature set in one batch."""
        feature_set = features.sets[self.index]
        if not self.left_out or feature_set is None:
            return feature_set
        if isinstance(feature_set, JacobianFeatures):
            return feature_set.without(self.left_out)
        assert isinstance(feature_set, FeatureSet)
        return feature_set.without_bias()

    def moments(self, features: Features) -> tuple[Float[Array, "g i"], Float[Array, "g i"]]:
        """Means over the samples of its features and of their squares: mu and chi of Algorithm 2."""
        mean, square = with_automatic_axes(self._canonical(features, "moments").moments, features.arrays)
        return mean.astype(self.dtype), square.astype(self.dtype)

    def gram(self, features: Features) -> Float[Array, "g p p"]:
        """Its metric's matrix of eq. (12), E[[x c] [x c]^T], p = i(+1).

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
        feature_set = self.read(features)
        if not isinstance(feature_set, FeatureSet):
            raise ValueError(f"neuron {self.name} is of kind {self.kind!r}, which has no {what}; use metric_product.")
        return feature_set
