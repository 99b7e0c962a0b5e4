"""ResNet-18 with the stem for small images, in Equinox: its batch normalisations carry a state.

Source: He et al. (2016), Deep Residual Learning for Image Recognition.
"""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _data import make_labelled_images
from _train import Network, train
from jaxtyping import Array, Float


def conv3x3(inputs: int, outputs: int, stride: int, key: Array) -> eqx.nn.Conv2d:
    """A 3 x 3 convolution; a batch normalisation follows it, so that it needs no bias."""
    return eqx.nn.Conv2d(inputs, outputs, 3, stride, padding=1, use_bias=False, key=key)


class BasicBlock(eqx.Module):
    """Two convolutions, and what they are added to."""

    conv1: eqx.nn.Conv2d
    conv2: eqx.nn.Conv2d
    bn1: eqx.nn.BatchNorm
    bn2: eqx.nn.BatchNorm
    downsample: eqx.nn.Conv2d | None
    downsample_bn: eqx.nn.BatchNorm | None

    def __init__(self, inputs: int, outputs: int, stride: int, key: Array) -> None:
        key1, key2, key3 = jax.random.split(key, 3)
        self.conv1 = conv3x3(inputs, outputs, stride, key1)
        self.conv2 = conv3x3(outputs, outputs, 1, key2)
        self.bn1 = eqx.nn.BatchNorm(outputs, axis_name="batch", mode="batch")
        self.bn2 = eqx.nn.BatchNorm(outputs, axis_name="batch", mode="batch")
        self.downsample = self.downsample_bn = None
        if stride != 1 or inputs != outputs:
            self.downsample = eqx.nn.Conv2d(inputs, outputs, 1, stride, use_bias=False, key=key3)
            self.downsample_bn = eqx.nn.BatchNorm(outputs, axis_name="batch", mode="batch")

    def __call__(self, x: Float[Array, "c h w"], state: eqx.nn.State) -> tuple[Float[Array, "d i j"], eqx.nn.State]:
        out, state = self.bn1(self.conv1(x), state)
        out, state = self.bn2(self.conv2(jax.nn.relu(out)), state)
        if self.downsample is not None and self.downsample_bn is not None:
            x, state = self.downsample_bn(self.downsample(x), state)
        return jax.nn.relu(out + x), state


class ResNet(eqx.Module):
    """Stages of blocks, each at half the resolution of the one before, and a linear function of the mean pixel."""

    conv1: eqx.nn.Conv2d
    bn1: eqx.nn.BatchNorm
    layers: list[BasicBlock]
    fc: eqx.nn.Linear

    def __init__(self, channels: int, widths: Sequence[int], blocks: int, classes: int, *, key: Array) -> None:
        key1, key2, *block_keys = jax.random.split(key, 2 + blocks * len(widths))
        self.conv1 = conv3x3(channels, widths[0], 1, key1)
        self.bn1 = eqx.nn.BatchNorm(widths[0], axis_name="batch", mode="batch")
        self.layers, inputs = [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                self.layers.append(BasicBlock(inputs, width, stride, block_keys.pop()))
                inputs = width
        self.fc = eqx.nn.Linear(inputs, classes, key=key2)

    def __call__(self, x: Float[Array, "c h w"], state: eqx.nn.State) -> tuple[Float[Array, " k"], eqx.nn.State]:
        x, state = self.bn1(self.conv1(x), state)
        x = jax.nn.relu(x)
        for layer in self.layers:
            x, state = layer(x, state)
        return self.fc(jnp.mean(x, axis=(1, 2))), state


def make_batch(
    key: Array, *, batch: int = 64, channels: int = 3, size: int = 32, classes: int = 10
) -> tuple[Array, Array]:
    """Images and labels."""
    return make_labelled_images(key, batch, channels, size, classes)


def build(
    key: Array,
    *,
    batch: int = 64,
    channels: int = 3,
    size: int = 32,
    widths: Sequence[int] = (64, 128, 256, 512),
    blocks: int = 2,
    classes: int = 10,
) -> Network:
    """The network, with `blocks` blocks a stage, its state, and a batch for it."""
    model, state = eqx.nn.make_with_state(ResNet)(channels, widths, blocks, classes, key=key)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params: ResNet, state: eqx.nn.State, images: Array, labels: Array) -> tuple[Array, eqx.nn.State]:
        model = eqx.combine(params, static)
        batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        logits, state = batched(images, state)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), state

    data = make_batch(key, batch=batch, channels=channels, size=size, classes=classes)
    return Network(loss_fn, params, (state, *data), has_aux=True)


def main() -> None:
    """Train a narrow ResNet-18 on stripes of ten directions."""
    key = jax.random.key(0)
    network = build(key, widths=(16, 32, 64, 128))
    train(network, map(make_batch, jax.random.split(key, 50)), learning_rate=0.02)


if __name__ == "__main__":
    main()
