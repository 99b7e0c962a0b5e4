"""Networks of the experiments, as plain functions of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def init_dense(key: Array, inputs: int, outputs: int) -> Dense:
    """A layer with Glorot normal weights and zero biases."""
    glorot = jax.nn.initializers.glorot_normal()
    return Dense(glorot(key, (inputs, outputs), jnp.float32), jnp.zeros(outputs, jnp.float32))


def apply_dense(layer: Dense, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
    """The layer's outputs."""
    return x @ layer.weight + layer.bias


def init_mlp(key: Array, sizes: Sequence[int]) -> tuple[Dense, ...]:
    """Layers from `sizes[0]` inputs to `sizes[-1]` outputs: Glorot normal weights, zero biases.

    >>> [layer.weight.shape for layer in init_mlp(jax.random.key(0), (64, 32, 10))]
    [(64, 32), (32, 10)]
    """
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(map(init_dense, keys, sizes[:-1], sizes[1:]))


def apply_mlp(
    layers: Sequence[Dense], x: Float[Array, "*n i"], activation: Callable[[Array], Array] = jnp.tanh
) -> Float[Array, "*n o"]:
    """The layers with an activation between them, by default tanh."""
    *hidden, last = layers
    for layer in hidden:
        x = activation(apply_dense(layer, x))
    return apply_dense(last, x)


def init_kernel(key: Array, size: int, inputs: int, outputs: int) -> Float[Array, "size size i o"]:
    """The kernel of a convolution, from He's normal distribution."""
    return jax.nn.initializers.he_normal()(key, (size, size, inputs, outputs), jnp.float32)


def convolve(
    x: Float[Array, "n h w i"], kernel: Float[Array, "size size i o"], stride: int = 1
) -> Float[Array, "n a b o"]:
    """A convolution over images whose outputs are as many as its inputs, divided by the stride."""
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Affine(NamedTuple):
    """What a normalisation learns: a scale and a shift for each channel."""

    scale: Float[Array, " c"]
    shift: Float[Array, " c"]


def init_affine(channels: int) -> Affine:
    """The identity."""
    return Affine(jnp.ones(channels, jnp.float32), jnp.zeros(channels, jnp.float32))


def standardise(x: Float[Array, "*n"], axes: int | tuple[int, ...] = -1) -> Float[Array, "*n"]:
    """Values of mean 0 and variance 1 over the axes."""
    centred = x - x.mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + 1e-5)
