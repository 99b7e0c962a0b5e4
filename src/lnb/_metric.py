"""The metric M of a neuron (eq. 11) in one batch, as solvers see it.

A metric is a value: what the forward pass recorded, and how M follows from it. Its kinds differ in structure:

    "gram"     M = [X c]^T [X c] / n for each group, the Gram matrix of eq. (12); c is the bias's feature
    "tied"     M v = (n_1 M_1 V + n_2 V M_2) / n, for a weight that is used both as W and as W^T
    "general"  M is known by its products alone

None has a ridge. Axis letters: g groups, n samples, i inputs (features), o outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._features import AnyFeatureSet, FeatureSet, JacobianFeatures, TiedFeatureSet

if TYPE_CHECKING:
    from jaxtyping import Float

Structure = Literal["gram", "tied", "general"]


@dataclass(frozen=True)
class Metric:
    """The metric of a neuron in one batch.

    Neurons that read the same features have equal metrics, whatever their outputs. A metric without arrays has sizes
    only: solvers get one when they make room for their statistics. Where replicas share their statistics, the metric is
    that of all of them together. Metrics are pytrees whose leaves are `arrays` and `distance`.

    Fields:
        structure: "gram", "tied" or "general". A metric of structure "gram" has the methods of `GramMetric` too, and a
            "tied" one those of `TiedMetric`.
        groups, inputs: g, and i without the bias.
        has_bias: whether the last row of packed parameters V [g, i(+1), o] is a bias.
        samples: n, if every region of the network ran.
        is_comparable: whether the metrics of layers that are alike are equal but for their arrays, so that solvers are
            traced once for all of them.
        features: where M follows from.
        arrays: what the forward pass recorded.
        distance: how far a step moves a neuron's output along each direction; 0 where that is not known.
    """

    structure: Structure
    groups: int
    inputs: int
    has_bias: bool
    samples: int
    is_comparable: bool
    features: Any
    arrays: tuple[Array, ...] = ()
    distance: Any = 0.0

    def product(self, vector: Float[Array, "g p o"]) -> Float[Array, "g p o"]:
        """M v of eq. (11), without forming M.

        Args:
            vector: V, p = i(+1).
        """
        return self.features.product(self.arrays, vector)

    def product_flops(self, outputs: int) -> float:
        """Floating-point operations of `product` for o outputs."""
        return 4.0 * self.groups * self.samples * self.inputs * outputs


@dataclass(frozen=True)
class GramMetric(Metric):
    """A metric of structure "gram": the second moments of a neuron's features.

    Fields:
        is_diagonal: whether the Gram matrix is diagonal: that of a lookup is, and that of a single feature.
        is_lookup: whether the features are one-hot, so that each direction has samples of its own.
        bias_share: E[c^2] of the bias's feature c, the fraction of the samples that the bias is added to; 1 without.

    >>> import jax.numpy as jnp, lnb
    >>> neurons = lnb.find_neurons(lambda w, x: jnp.sum(x @ w), jnp.ones((1, 2)), jnp.ones((2, 1)))
    >>> features = neurons.value_and_grad(jnp.ones((1, 2)), jnp.array([[2.0], [4.0]]))[2]
    >>> mean, square = metric_of(neurons[0].read(features), features.arrays).moments()
    >>> mean.tolist(), square.tolist()
    ([[3.0]], [[10.0]])
    """

    is_diagonal: bool = False
    is_lookup: bool = False
    bias_share: float = 1.0

    @property
    def sample_rank(self) -> int:
        """The number of axes that the samples come from: 1 for examples, more for positions and pixels."""
        return self.features.sample_rank

    def moments(self) -> tuple[Float[Array, "g i"], Float[Array, "g i"]]:
        """mu = E[x] and chi = E[x * x] (Algorithm 2, lines 6 and 7).

        chi is the diagonal of the Gram matrix. With a bias, mu is taken over the samples that the bias is added to.
        """
        return self.features.moments(self.arrays)

    def gram(self) -> tuple[Float[Array, "g i i"] | Float[Array, "g i"], Float[Array, "g i"]]:
        """E[x x^T], or its diagonal where `is_diagonal`; and mu."""
        gram, mean = self.features.gram(self.arrays)
        return (gram.reshape(mean.shape) if self.is_diagonal else gram), mean

    def fourth_moment(self, center: Float[Array, "g i"], scale: Float[Array, "g i"]) -> Float[Array, "g i"]:
        """E[(x - c)^4] / s^2, which tells how noisy the variances of few samples are.

        The fourth powers of large features overflow, and those of small ones vanish, unless a scale s divides them.
        """
        return self.features.fourth_moment(self.arrays, center, scale)

    def count(self) -> Float[Array, "#g 1"]:
        """n of this batch, the sum of its samples' weights."""
        return self.features.count(self.arrays)

    def drift(self, steps: float | Array, dtype: Any) -> Array:
        """The squared distance [i] that each feature may have moved by in so many steps.

        The features that a network computes are outputs of neurons, which move by about `distance` at each step along
        every direction. Those that come with the data do not move.
        """
        moved = jnp.asarray(steps, dtype) * jnp.asarray(self.distance, dtype)
        hidden = np.repeat(self.features.hidden, self.features.reads[0].sizes)
        return jnp.square(moved) * hidden.astype(dtype)

    def subsample(self, fraction: float) -> GramMetric:
        """The metric of at least this fraction of the samples, every k-th, k a power of two."""
        features, arrays = self.features.subsample(self.arrays, fraction)
        return self if features is self.features else _gram_metric(features, tuple(arrays), self.distance)

    def of_samples(self, count: int) -> GramMetric:
        """The metric's sizes for this number of samples, without arrays."""
        return _gram_metric(self.features.of_samples(count))


@dataclass(frozen=True)
class TiedMetric(Metric):
    """A metric of structure "tied": that of a weight used as W [i, o] and as W^T, an embedding and the head tied to it.

    Packed parameters V are [1, i(+1), o(+1)]. The first use's bias is the last row, the second's is the last column,
    and the corner is zero. `inputs` and `has_bias` are the first use's.
    """

    @property
    def sides(self) -> tuple[GramMetric, GramMetric]:
        """The metrics M_1 and M_2 of the two uses, as if they were neurons of their own."""
        first, second = self.features.first, self.features.second
        return _gram_metric(first, self.arrays, self.distance), _gram_metric(second, self.arrays, self.distance)

    @property
    def shares(self) -> tuple[float, float]:
        """n_1 / n and n_2 / n."""
        return self.features.shares


@dataclass(frozen=True)
class GeneralMetric(Metric):
    """A metric of structure "general": products come from the VJP of the JVP of the neuron's equations.

    Packed parameters V are [1, i, 1], one parameter after the other.
    """

    def product_flops(self, outputs: int) -> float:
        """Floating-point operations of `product`."""
        del outputs
        return self.features.flops()


for _kind in (GramMetric, TiedMetric, GeneralMetric):
    _static = [field.name for field in fields(_kind) if field.name not in ("arrays", "distance")]
    jax.tree_util.register_dataclass(_kind, data_fields=["arrays", "distance"], meta_fields=_static)


def metric_of(
    features: AnyFeatureSet, arrays: Sequence[Any] = (), distance: Any = 0.0, shared: tuple[Any, ...] = ()
) -> Any:
    """The metric of a feature set.

    Args:
        features: a neuron's feature set, from `Neuron.features` or, for one batch, from `Neuron.read`.
        arrays: the arrays of that batch's `Features`; without them the metric has sizes only.
        distance: see `Metric`.
        shared: the mapped axes whose replicas share statistics.
    """
    if isinstance(features, TiedFeatureSet):
        first, second = (replace(side, shared=shared) for side in (features.first, features.second))
        features = replace(features, first=first, second=second)
    else:
        features = replace(features, shared=shared)
    if isinstance(features, JacobianFeatures):
        sizes = features.groups, features.inputs, features.has_bias, features.samples
        return GeneralMetric("general", *sizes, False, features, tuple(arrays), distance)
    if arrays:
        # The features of layers that are alike are equal once their arrays are numbered alike.
        places = sorted({place for read in features.reads for place in read.places})
        features = features.reindexed({place: k for k, place in enumerate(places)})
        arrays = [arrays[place] for place in places]
    if isinstance(features, TiedFeatureSet):
        sizes = features.groups, features.inputs, features.has_bias, features.samples
        return TiedMetric("tied", *sizes, True, features, tuple(arrays), distance)
    return _gram_metric(features, tuple(arrays), distance)


def _gram_metric(features: FeatureSet, arrays: tuple[Array, ...] = (), distance: Any = 0.0) -> GramMetric:
    return GramMetric(
        "gram",
        features.groups,
        features.inputs,
        features.has_bias,
        features.samples,
        True,
        features,
        arrays,
        distance,
        features.has_diagonal_gram,
        features.is_diagonal,
        features.bias_share,
    )
