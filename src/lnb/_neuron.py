"""A neuron, and the features that the neurons of a loss read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._equations import EquationFeatureSet
from lnb._explicit_axes import with_automatic_axes
from lnb._feature_sets import FeatureSet, TiedFeatureSet
from lnb._find import Features as AnyFeatureSet
from lnb._find import FoundNeuron
from lnb._linear_maps import Arrays, statistics_dtype

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

    def weighted(self, sample_weight: Any) -> Features:
        """The features with each sample weighted: M = sum w x x^T / sum w, n of eq. (11) the sum of the weights.

        Rows that the loss leaves out, padding for example, should count in no metric: give them the weight 0.

        Args:
            sample_weight: w >= 0, of the leading axes of the batch: [batch], or [batch, position]. A neuron with more
                samples per example, such as pixels, repeats it over them; one with fewer takes its mean.

        Raises:
            ValueError: the shape does not fit a neuron's samples.

        >>> import jax.numpy as jnp, lnb
        >>> neurons = lnb.find_neurons(lambda w, x: jnp.sum(x @ w), jnp.ones((1, 2)), jnp.ones((3, 1)))
        >>> features = neurons.value_and_grad(jnp.ones((1, 2)), jnp.array([[2.0], [4.0], [7.0]]))[2]
        >>> neurons[0].gram(features.weighted(jnp.array([1, 1, 0]))).tolist()
        [[[10.0]]]
        """
        weights = jnp.asarray(sample_weight)
        weights = weights.astype(jnp.zeros(()).dtype)
        if weights.ndim == 0:
            raise ValueError("`sample_weight` must have the leading axes of the batch, got a single number.")
        arrays, sets = list(self.arrays), []
        for index, feature_set in enumerate(self.sets):
            added: list[Array] = []
            if feature_set is not None:
                try:
                    feature_set, added = feature_set.weighted(arrays, weights, len(arrays))
                except ValueError as error:
                    raise ValueError(f"`sample_weight` does not fit neuron {index}, which {error}.") from None
            sets.append(feature_set)
            arrays += added
        return Features(tuple(arrays), tuple(sets), self.signature)


def join_features(*features: Features) -> Features:
    """The features of several batches as those of one: every batch's samples count, however many it has.

    For gradients that are accumulated over micro-batches: give the update the mean gradient and the joined features.

    Args:
        *features: of the same neurons, from `neurons.value_and_grad` of each micro-batch.

    Raises:
        TypeError, ValueError: there are none, or they are not the features of the same neurons.

    >>> import jax.numpy as jnp, lnb
    >>> neurons = lnb.find_neurons(lambda w, x: jnp.sum(x @ w), jnp.ones((1, 2)), jnp.ones((3, 1)))
    >>> first, second = (neurons.value_and_grad(jnp.ones((1, 2)), x)[2] for x in (jnp.ones((3, 1)), jnp.zeros((1, 1))))
    >>> neurons[0].gram(lnb.join_features(first, second)).tolist()
    [[[0.75]]]
    """
    if not features:
        raise ValueError("`join_features` needs the features of at least one batch.")
    for other in features:
        if not isinstance(other, Features):
            raise TypeError(f"`features` must come from `neurons.value_and_grad`, got {type(other).__name__}.")
        if other.signature != features[0].signature:
            raise ValueError("`features` come from different networks: join those of one `lnb.find_neurons`.")
    joined = features[0]
    for other in features[1:]:
        start = len(joined.arrays)
        places = {place: start + place for place in range(len(other.arrays))}
        sets = tuple(
            None if own is None or more is None else own.joined(more.moved(places))  # pyright: ignore[reportArgumentType]
            for own, more in zip(joined.sets, other.sets, strict=True)
        )
        joined = Features(joined.arrays + other.arrays, sets, joined.signature)
    return joined


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
        left_out: of the neuron as it was found, the leaves that are trained by something else.
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
    left_out: frozenset[int] = frozenset()

    def without(self, left_out: frozenset[int]) -> Neuron | None:
        """The neuron of its other leaves; None where only leaves with the identity metric are left.

        Raises:
            ValueError: its weights cannot be parted.
        """
        mine = left_out.intersection(self.leaves)
        if not mine:
            return self
        try:
            found = self._found.without(mine)
        except ValueError as error:
            raise ValueError(
                f"a mask leaves out a part of the neuron {self.name}, but {error}: train all of it with one optimizer."
            ) from None
        if found is None:
            return None
        return replace(
            self,
            paths=tuple(path for path, leaf in zip(self.paths, self.leaves, strict=True) if leaf not in mine),
            inputs=found.inputs,
            has_bias=found.features is not None and found.features.has_bias,
            _found=found,
            _shapes={leaf: shape for leaf, shape in self._shapes.items() if leaf not in mine},
            left_out=mine,
        )

    def read(self, features: Features) -> AnyFeatureSet | None:
        """Its feature set in one batch."""
        feature_set = features.sets[self.index]
        if not self.left_out or feature_set is None:
            return feature_set
        if isinstance(feature_set, EquationFeatureSet):
            return feature_set.without(self.left_out)
        assert isinstance(feature_set, FeatureSet)
        return feature_set.without_bias()

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

    def pack_leaves(self, leaves: Mapping[int, Array] | Sequence[Array]) -> Array:
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
        feature_set = self.read(features)
        if not isinstance(feature_set, FeatureSet):
            raise ValueError(f"neuron {self.name} is of kind {self.kind!r}, which has no {what}; use metric_product.")
        return feature_set
