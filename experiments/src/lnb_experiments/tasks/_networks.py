"""Networks of the experiments, as plain functions of their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Float


class Dense(NamedTuple):
    """A dense layer, y = x W + b."""

    weight: Float[Array, "i o"]
    bias: Float[Array, " o"]


def init_mlp(key: Array, sizes: Sequence[int]) -> tuple[Dense, ...]:
    """Layers from `sizes[0]` inputs to `sizes[-1]` outputs: Glorot normal weights, zero biases.

    >>> [layer.weight.shape for layer in init_mlp(jax.random.key(0), (64, 32, 10))]
    [(64, 32), (32, 10)]
    """
    glorot = jax.nn.initializers.glorot_normal()
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(
        Dense(glorot(k, (i, o), jnp.float32), jnp.zeros(o, jnp.float32))
        for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)
    )


def apply_mlp(layers: Sequence[Dense], x: Float[Array, "n i"]) -> Float[Array, "n o"]:
    """The layers with tanh between them."""
    *hidden, last = layers
    for layer in hidden:
        x = jnp.tanh(x @ layer.weight + layer.bias)
    return x @ last.weight + last.bias
