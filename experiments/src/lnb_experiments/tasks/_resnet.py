"""A small residual network with batch normalisation on CIFAR-10.

Its normalisations use the mean and the variance of the batch that they are given, in training and in evaluation too:
nothing is carried from step to step. So the test images are measured in batches of 500 with their own statistics.

Sources: He et al. (2016), Deep residual learning for image recognition; Ioffe and Szegedy (2015), Batch normalization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import shuffled_batches
from lnb_experiments.data._data import ColourImages, ColourSplit
from lnb_experiments.runs._training import Problem
from lnb_experiments.tasks._networks import (
    Affine,
    Dense,
    apply_dense,
    convolve,
    init_affine,
    init_dense,
    init_kernel,
    standardise,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class ResNetSettings:
    """Hyper-parameters of a residual network."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of each stage; a stage has half the resolution of the one before."""
    blocks: int = 1
    """Blocks of each stage."""
    batch_size: int = 128
    """Images in a batch."""
    training_images: int = 25_600
    """How many of the training images are used: the first ones."""
    validation_images: int = 2000
    """How many of the test images measure a run: the first ones."""


class Batch(NamedTuple):
    """Labelled images."""

    images: Float[Array, "n h w c"]
    labels: Int[Array, " n"]


class Convolution(NamedTuple):
    """A convolution and the normalisation after it."""

    kernel: Float[Array, "size size i o"]
    norm: Affine


class Block(NamedTuple):
    """Two convolutions, and what their outputs are added to; with a shortcut, the block halves the resolution."""

    first: Convolution
    second: Convolution
    shortcut: Convolution | None


class ResNet(NamedTuple):
    """The network's parameters."""

    stem: Convolution
    blocks: tuple[Block, ...]
    head: Dense


def resnet(load: Callable[[], ColourImages], settings: ResNetSettings, seed: int) -> Problem:
    """A residual network that gives photographs their class, trained on the mean cross entropy.

    Args:
        load: the data.
        settings: of the network.
        seed: of the initial weights, the order of the images, and which of them are mirrored.

    Returns:
        A problem with the metrics `accuracy` and `validation_loss`, on test images.

    Raises:
        ExperimentError: the data is not to be had, or a setting is out of its range.
    """
    data = load()
    _check(settings, data)
    test = _first(data.test, settings.validation_images)
    parts = [slice(start, start + _EVALUATION_BATCH) for start in range(0, len(test[1]), _EVALUATION_BATCH)]

    @jax.jit
    def measure(params: ResNet, images: Array, labels: Array) -> tuple[Array, Array]:
        logits = apply_resnet(params, _normalise(images))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(jnp.argmax(logits, axis=1).astype(labels.dtype) == labels), losses.sum()

    def evaluate(params: ResNet) -> Mapping[str, float]:
        hits, losses = zip(*(measure(params, *(array[part] for array in test)) for part in parts), strict=True)
        count = settings.validation_images
        return {"accuracy": float(sum(hits)) / count, "validation_loss": float(sum(losses)) / count}

    batches = shuffled_batches(_first(data.train, settings.training_images), settings.batch_size, seed, _mirror)
    return Problem(
        params=init_resnet(jax.random.key(seed), data.train.images.shape[-1], data.classes, settings),
        loss_fn=_loss_fn,
        batches=batches.epoch,
        steps_per_epoch=batches.steps_per_epoch,
        evaluate=evaluate,
        logits=lambda params, batch: (apply_resnet(params, batch.images), None),
    )


def init_resnet(key: Array, channels: int, classes: int, settings: ResNetSettings) -> ResNet:
    """The initial parameters: He normal kernels, scales 1, shifts 0."""
    stem_key, head_key, block_key = jax.random.split(key, 3)
    block_keys = iter(jax.random.split(block_key, len(settings.widths) * settings.blocks))

    def draw(key: Array, size: int, inputs: int, outputs: int) -> Convolution:
        return Convolution(init_kernel(key, size, inputs, outputs), init_affine(outputs))

    blocks, inputs = [], settings.widths[0]
    for stage, width in enumerate(settings.widths):
        for place in range(settings.blocks):
            first_key, second_key, shortcut_key = jax.random.split(next(block_keys), 3)
            shortcut = draw(shortcut_key, 1, inputs, width) if stage > 0 and place == 0 else None
            blocks.append(Block(draw(first_key, 3, inputs, width), draw(second_key, 3, width, width), shortcut))
            inputs = width
    return ResNet(draw(stem_key, 3, channels, settings.widths[0]), tuple(blocks), init_dense(head_key, inputs, classes))


def apply_resnet(params: ResNet, images: Float[Array, "n h w c"]) -> Float[Array, "n k"]:
    """The logits of each class."""
    x = jax.nn.relu(_apply(params.stem, images))
    for block in params.blocks:
        stride = 1 if block.shortcut is None else 2
        change = _apply(block.second, jax.nn.relu(_apply(block.first, x, stride)))
        x = jax.nn.relu(change + (x if block.shortcut is None else _apply(block.shortcut, x, stride)))
    return apply_dense(params.head, x.mean(axis=(1, 2)))


def _apply(layer: Convolution, x: Float[Array, "n h w i"], stride: int = 1) -> Float[Array, "n a b o"]:
    normalised = standardise(convolve(x, layer.kernel, stride), (0, 1, 2))
    return normalised * layer.norm.scale + layer.norm.shift


def _loss_fn(params: ResNet, batch: Batch) -> Array:
    logits = apply_resnet(params, batch.images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()


def _mirror(examples: tuple[UInt8[Array, "n h w c"], Int[Array, " n"]], key: Array) -> Batch:
    """Normalised images, half of them mirrored."""
    images, labels = examples
    mirrored = jax.random.bernoulli(key, shape=(len(labels), 1, 1, 1))
    return Batch(_normalise(jnp.where(mirrored, images[:, :, ::-1], images)), labels)


def _normalise(images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Values from -2 to 2, which have a variance of about 1."""
    return 4 * images.astype(jnp.float32) / 255 - 2


def _first(split: ColourSplit, count: int) -> tuple[Array, Array]:
    return jnp.asarray(split.images[:count]), jnp.asarray(split.labels[:count])


def _check(settings: ResNetSettings, data: ColourImages) -> None:
    if not settings.widths or min(*settings.widths, settings.blocks) < 1:
        raise ExperimentError(f"`widths` and `blocks` must be positive, got {settings.widths} and {settings.blocks}.")
    for name, split in (("training_images", data.train), ("validation_images", data.test)):
        count, available = getattr(settings, name), len(split.labels)
        if not 1 <= count <= available:
            raise ExperimentError(f"`{name}` must be from 1 to {available}, got {count}.")
