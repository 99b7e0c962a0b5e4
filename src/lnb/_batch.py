"""The features that the neurons of a loss read in one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from lnb._features import AnyFeatureSet

if TYPE_CHECKING:
    from jaxtyping import Real


@dataclass(frozen=True)
class Features:
    """The features of one batch: the recorded arrays, and the feature sets that read them.

    A pytree whose leaves are `arrays`, None where nothing reads what was recorded; it passes through `jax.jit`,
    `jax.lax.scan` and `optax.chain`.
    """

    arrays: tuple[Any, ...]
    sets: tuple[AnyFeatureSet | None, ...]
    signature: tuple[Any, ...]

    def weighted(self, sample_weight: Real[Array, "*batch"]) -> Features:
        """The features with each sample weighted: M = sum w x x^T / sum w, n of eq. (11) the sum of the weights.

        Rows that the loss leaves out, padding for example, should count in no metric: give them the weight 0.

        Args:
            sample_weight: w >= 0 for each example, or for each of its positions. A neuron with more samples per
                example, such as pixels, repeats the weight over them; one with fewer takes its mean.

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
            None if own is None or more is None else own.joined(more.reindexed(places))  # pyright: ignore[reportArgumentType]
            for own, more in zip(joined.sets, other.sets, strict=True)
        )
        joined = Features(joined.arrays + other.arrays, sets, joined.signature)
    return joined


jax.tree_util.register_dataclass(Features, data_fields=["arrays"], meta_fields=["sets", "signature"])
