"""ResNet-50 at 224 pixels, in Flax NNX.

Source: He et al. (2016), Deep Residual Learning for Image Recognition, with the stride in the 3 x 3 convolution.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
from _data import make_labelled_images
from _train import Network
from flax import nnx
from jaxtyping import Array, Float


class ConvNorm(nnx.Module):
    """A convolution without bias and its batch normalisation."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(inputs, outputs, (size, size), strides=stride, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n i j d"]:
        return self.norm(self.conv(x))


class Bottleneck(nnx.Module):
    """Down to a quarter of the channels, a 3 x 3 convolution and up again, and what that is added to."""

    def __init__(self, inputs: int, width: int, stride: int, rngs: nnx.Rngs) -> None:
        self.reduce = ConvNorm(inputs, width, 1, 1, rngs)
        self.middle = ConvNorm(width, width, 3, stride, rngs)
        self.expand = ConvNorm(width, 4 * width, 1, 1, rngs)
        self.shortcut = None if inputs == 4 * width and stride == 1 else ConvNorm(inputs, 4 * width, 1, stride, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n i j d"]:
        out = self.expand(nnx.relu(self.middle(nnx.relu(self.reduce(x)))))
        return nnx.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class ResNet50(nnx.Module):
    """A stem, four stages of bottlenecks, and a linear function of the mean pixel."""

    def __init__(self, width: int, blocks: tuple[int, ...], classes: int, rngs: nnx.Rngs) -> None:
        self.stem = ConvNorm(3, width, 7, 2, rngs)
        inputs, stages = width, []
        for stage, count in enumerate(blocks):
            for k in range(count):
                own = width * 2**stage
                stages.append(Bottleneck(inputs, own, 2 if stage > 0 and k == 0 else 1, rngs))
                inputs = 4 * own
        self.blocks = nnx.List(stages)
        self.head = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n k"]:
        x = nnx.max_pool(nnx.relu(self.stem(x)), (3, 3), strides=(2, 2), padding="SAME")
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


def build(
    key: Array,
    *,
    batch: int = 128,
    size: int = 224,
    width: int = 64,
    blocks: tuple[int, ...] = (3, 4, 6, 3),
    classes: int = 1000,
) -> Network:
    """The network, its running statistics, and a batch for it."""
    graph, params, state = nnx.split(ResNet50(width, blocks, classes, nnx.Rngs(key)), nnx.Param, ...)

    def loss_fn(params: nnx.State, state: nnx.State, images: Array, labels: Array) -> tuple[Array, Any]:
        model = nnx.merge(graph, params, state, copy=True)
        loss = optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()
        return loss, nnx.split(model, nnx.Param, ...)[2]

    images, labels = make_labelled_images(key, batch, 3, size, classes)
    images = jnp.moveaxis(images, 1, -1)
    return Network(loss_fn, params, (state, images, labels), has_aux=True)
