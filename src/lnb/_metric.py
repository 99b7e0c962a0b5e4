"""The metric M of a neuron (eq. 11) in one batch, as solvers see it.

A metric is a value: what the forward pass recorded, and how M follows from it. Its kinds differ in structure:

    "gram"     M = [X c]^T [X c] / n for each group, the Gram matrix of eq. (12); c is the bias's feature
    "tied"     M v = (n_1 M_1 V + n_2 V M_2) / n, for a weight that is used both as W and as W^T
    "general"  M is known by its products alone

All arrays of M are of features as the network computed them, without a ridge. Axis letters: g groups, n samples,
i inputs (features), o outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
from jax import Array

from lnb._equations import EquationFeatureSet
from lnb._feature_sets import FeatureSet, TiedFeatureSet

AnyFeatureSet = FeatureSet | TiedFeatureSet | EquationFeatureSet

Structure = Literal["gram", "tied", "general"]


class Metric:
    """The metric of a neuron in one batch.

    Neurons that read the same features have the same metric, whatever their outputs. A metric without arrays has sizes
    only: solvers get one where they make room for their statistics. Metrics are pytrees.

    A subclass says its structure, its sizes and its product. A metric of structure "gram" gives moments, a Gram matrix
    and the count of its samples too, and a "tied" one its two sides.
    """

    structure: Structure = "general"
    has_equals: bool = True
    """Whether metrics of layers that are alike are equal but for their arrays: they are traced once then."""

    @property
    def groups(self) -> int:
        """g."""
        raise NotImplementedError

    @property
    def inputs(self) -> int:
        """i, without the bias."""
        raise NotImplementedError

    @property
    def has_bias(self) -> bool:
        """Whether the last row of packed parameters V [g, i(+1), o] is a bias."""
        raise NotImplementedError

    @property
    def samples(self) -> int:
        """n, if every region of the network ran."""
        raise NotImplementedError

    def product(self, vector: Array) -> Array:
        """M v of eq. (11), without forming M.

        Args:
            vector: V [g, i(+1), o].
        """
        raise NotImplementedError


_PYTREE = partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["features"])


@dataclass(frozen=True)
class FeatureMetric(Metric):
    """A metric that follows from a feature set and the arrays that it reads."""

    features: AnyFeatureSet
    arrays: tuple[Array, ...] = ()

    @property
    def groups(self) -> int:
        """g."""
        return self.features.groups

    @property
    def inputs(self) -> int:
        """i, without the bias."""
        return self.features.inputs

    @property
    def has_bias(self) -> bool:
        """Whether the last row of packed parameters V [g, i(+1), o] is a bias."""
        return self.features.has_bias

    @property
    def samples(self) -> int:
        """n, if every region of the network ran."""
        return self.features.samples

    def product(self, vector: Array) -> Array:
        """M v of eq. (11) for V [g, i(+1), o], without forming M."""
        return self.features.product(self.arrays, vector)


@_PYTREE
@dataclass(frozen=True)
class GramMetric(FeatureMetric):
    """A metric of structure "gram": the second moments of a neuron's features.

    >>> import jax.numpy as jnp, lnb
    >>> neurons = lnb.find_neurons(lambda w, x: jnp.sum(x @ w), jnp.ones((1, 2)), jnp.ones((2, 1)))
    >>> features = neurons.value_and_grad(jnp.ones((1, 2)), jnp.array([[2.0], [4.0]]))[2]
    >>> mean, square = metric_of(neurons[0].read(features), features.arrays).moments()
    >>> mean.tolist(), square.tolist()
    ([[3.0]], [[10.0]])
    """

    features: FeatureSet

    structure = "gram"

    @property
    def sample_rank(self) -> int:
        """The number of axes that the samples come from: 1 for examples, more for positions and pixels."""
        return self.features.sample_rank

    @property
    def is_diagonal(self) -> bool:
        """Whether the Gram matrix is diagonal: that of a lookup is, and that of a single feature."""
        return self.features.has_diagonal_gram

    @property
    def is_lookup(self) -> bool:
        """Whether the features are one-hot: each direction then has samples of its own."""
        return self.features.is_diagonal

    @property
    def bias_share(self) -> float:
        """E[c^2] of the bias's feature c: the fraction of the samples that the bias is added to; 1 without a bias."""
        return self.features.bias_share

    def moments(self) -> tuple[Array, Array]:
        """mu = E[x] and chi = E[x * x], each [g, i] (Algorithm 2, lines 6 and 7).

        chi is the diagonal of the Gram matrix. With a bias, mu is taken over the samples that the bias is added to.
        """
        return self.features.moments(self.arrays)

    def gram(self) -> tuple[Array, Array]:
        """E[x x^T] [g, i, i], or its diagonal [g, i] where `is_diagonal`, and mu [g, i]."""
        gram, mean = self.features.gram(self.arrays)
        return (gram.reshape(mean.shape) if self.is_diagonal else gram), mean

    def count(self) -> Array:
        """n of this batch [g or 1, 1], the sum of its samples' weights."""
        return self.features.count(self.arrays)

    def subsample(self, fraction: float) -> GramMetric:
        """The metric of at least this fraction of the samples, every k-th."""
        features, arrays = self.features.thin(self.arrays, fraction)
        return replace(self, features=features, arrays=tuple(arrays))

    def of_samples(self, count: int) -> GramMetric:
        """The metric's sizes for this number of samples, without arrays."""
        return replace(self, features=self.features.of_samples(count), arrays=())


@_PYTREE
@dataclass(frozen=True)
class TiedMetric(FeatureMetric):
    """A metric of structure "tied": that of a weight used as W [i, o] and as W^T, an embedding and the head tied to it.

    Packed parameters V are [1, i(+1), o(+1)]. The first use's bias is the last row, the second's is the last column,
    and the corner is zero.
    """

    features: TiedFeatureSet

    structure = "tied"

    @property
    def sides(self) -> tuple[GramMetric, GramMetric]:
        """The metrics M_1 and M_2 of the two uses, as if they were neurons of their own."""
        return GramMetric(self.features.first, self.arrays), GramMetric(self.features.second, self.arrays)

    @property
    def shares(self) -> tuple[float, float]:
        """n_1 / n and n_2 / n."""
        return self.features.shares


@_PYTREE
@dataclass(frozen=True)
class JacobianMetric(FeatureMetric):
    """A metric of structure "general": products come from the VJP of the JVP of the neuron's equations.

    Packed parameters V are [1, i, 1], one after the other.
    """

    features: EquationFeatureSet

    has_equals = False


def metric_of(features: AnyFeatureSet, arrays: Sequence[Any] = ()) -> Metric:
    """The metric of a feature set.

    Args:
        features: a neuron's feature set, from `Neuron.features` or, for one batch, from `Neuron.read`.
        arrays: the arrays of that batch's `Features`; without them the metric has sizes only.
    """
    if isinstance(features, EquationFeatureSet):
        return JacobianMetric(features, tuple(arrays))
    if arrays:
        # The features of layers that are alike are equal once their arrays are numbered alike.
        places = sorted({place for reading in features.readings for place in reading.places})
        features = features.moved({place: k for k, place in enumerate(places)})
        arrays = [arrays[place] for place in places]
    return (TiedMetric if isinstance(features, TiedFeatureSet) else GramMetric)(features, tuple(arrays))  # pyright: ignore[reportArgumentType]
