"""A U-Net for segmentation, in Flax NNX.

Source: Ronneberger et al. (2015), U-Net: Convolutional Networks for Biomedical Image Segmentation.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from _data import make_discs
from _train import Network, train
from flax import nnx
from jaxtyping import Array, Float


class DoubleConv(nnx.Module):
    """Two convolutions, each normalised and rectified."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(outputs, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        x = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(self.norm2(self.conv2(x)))


class UNet(nnx.Module):
    """Down to a coarse image and up again, with what was seen on the way down beside it."""

    def __init__(self, channels: int, classes: int, width: int, depth: int, rngs: nnx.Rngs) -> None:
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nnx.List(
            [DoubleConv(i, o, rngs) for i, o in zip([channels, *widths[:-2]], widths[:-1], strict=True)]
        )
        self.middle = DoubleConv(widths[-2], widths[-1], rngs)
        self.upsample = nnx.List(
            [nnx.ConvTranspose(2 * o, o, (2, 2), strides=(2, 2), rngs=rngs) for o in reversed(widths[:-1])]
        )
        self.up = nnx.List([DoubleConv(2 * o, o, rngs) for o in reversed(widths[:-1])])
        self.head = nnx.Conv(width, classes, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w k"]:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = self.middle(x)
        for upsample, block, skip in zip(self.upsample, self.up, reversed(skips), strict=True):
            x = block(jnp.concatenate([skip, upsample(x)], axis=-1))
        return self.head(x)


def make_batch(key: Array, *, batch: int = 16, channels: int = 3, size: int = 64) -> tuple[Array, Array]:
    """Images of discs, and the discs' pixels."""
    return make_discs(key, batch, channels, size)


def build(
    key: Array, *, batch: int = 16, channels: int = 3, size: int = 64, width: int = 16, depth: int = 3
) -> Network:
    """The network, its running statistics, and a batch for it."""
    model = UNet(channels, 2, width, depth, nnx.Rngs(key))
    graph, params, state = nnx.split(model, nnx.Param, ...)

    def loss_fn(params: nnx.State, state: nnx.State, images: Array, masks: Array) -> tuple[Array, Any]:
        model = nnx.merge(graph, params, state, copy=True)
        loss = optax.softmax_cross_entropy_with_integer_labels(model(images), masks).mean()
        return loss, nnx.split(model, nnx.Param, ...)[2]

    return Network(loss_fn, params, (state, *make_batch(key, batch=batch, channels=channels, size=size)), has_aux=True)


def main() -> None:
    """Train on discs."""
    key = jax.random.key(0)
    train(build(key), map(make_batch, jax.random.split(key, 50)), learning_rate=0.02)


if __name__ == "__main__":
    main()
