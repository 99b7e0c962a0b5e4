"""Section 5.4 of the paper: a U-Net that gives each pixel of a photograph its class, on PASCAL VOC 2012.

The network is Ronneberger's, written in Flax: twice a convolution and a ReLU at each resolution, maximum pooling on
the way down, transposed convolutions and what was seen on the way down on the way up, and weights from
N(0, 2 / (pixels of a kernel x channels that it sees)). Its convolutions keep the image's size, so that nothing is
cropped; there is no dropout and no normalisation. The images are neither cropped nor mirrored.

Source: Ronneberger et al. (2015), U-Net: Convolutional Networks for Biomedical Image Segmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import DecodedExamples, check_batch_size, epoch_order
from lnb_experiments.data._voc import (
    CLASSES,
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    UNLABELLED,
    Encoded,
    decode_example,
)
from lnb_experiments.runs._training import Problem

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

_EVALUATION_BATCH = 16


@dataclass(frozen=True)
class SegmentationSettings:
    """Hyper-parameters of a U-Net."""

    size: int = 384
    """Side of the images in pixels."""
    width: int = 64
    """Channels at the full resolution; they double at each coarser one."""
    depth: int = 4
    """How often the resolution is halved."""
    batch_size: int = 16
    """Images in a batch."""
    validation_images: int | None = None
    """How many held-out images measure a run, evenly spaced; None for all."""


class Batch(NamedTuple):
    """Images and the class of each pixel."""

    images: UInt8[Array, "n h w c"]
    masks: UInt8[Array, "n h w"]


class DoubleConvolution(nnx.Module):
    """Two convolutions, each rectified."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(inputs, outputs, (3, 3), rngs=rngs)
        self.second = nnx.Conv(outputs, outputs, (3, 3), rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        return nnx.relu(self.second(nnx.relu(self.first(x))))


class UNet(nnx.Module):
    """Down to a coarse image and up again, with what was seen on the way down beside it."""

    def __init__(self, width: int, depth: int, rngs: nnx.Rngs) -> None:
        widths = [width * 2**level for level in range(depth + 1)]
        up = list(reversed(widths[:-1]))
        self.down = nnx.List(
            [DoubleConvolution(i, o, rngs) for i, o in zip([3, *widths[:-2]], widths[:-1], strict=True)]
        )
        self.middle = DoubleConvolution(widths[-2], widths[-1], rngs)
        self.enlarge = nnx.List([nnx.ConvTranspose(2 * o, o, (2, 2), strides=(2, 2), rngs=rngs) for o in up])
        self.up = nnx.List([DoubleConvolution(2 * o, o, rngs) for o in up])
        self.head = nnx.Conv(width, CLASSES, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w k"]:
        skipped = []
        for block in self.down:
            x = block(x)
            skipped.append(x)
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = self.middle(x)
        for enlarge, block, beside in zip(self.enlarge, self.up, reversed(skipped), strict=True):
            x = block(jnp.concatenate([beside, enlarge(x)], axis=-1))
        return self.head(x)


def segmentation(
    load: Callable[[], Mapping[str, Sequence[Encoded]]], settings: SegmentationSettings, seed: int
) -> Problem:
    """A U-Net trained on the mean cross entropy of the labelled pixels.

    Photographs are decoded while the network trains, and kept: at most 4 `size`^2 bytes each, which is 53 MB for VOC's
    training split at 96 pixels and 0.9 GB at 384.

    Args:
        load: the splits `train` and `val`.
        settings: of the network.
        seed: of the initial weights and of the order of the images.

    Returns:
        A problem with the metrics `accuracy` (of pixels), `mean_iou` and `validation_loss`, on held-out images.

    Raises:
        ExperimentError: the data is not to be had, or a setting is out of its range.
    """
    _check(settings)
    decode = partial(decode_example, size=settings.size)
    splits = load()
    train, held_out = (DecodedExamples(splits[name], decode) for name in ("train", "val"))
    check_batch_size(settings.batch_size, len(train))
    chosen = _validation_choice(len(held_out), settings.validation_images)
    graph, params = init_unet(seed, settings.width, settings.depth)

    def pixel_losses(params: nnx.State, batch: Batch) -> tuple[Array, Array]:
        logits = nnx.merge(graph, params)(_normalise(batch.images))
        labelled = batch.masks != UNLABELLED
        classes = jnp.where(labelled, batch.masks, 0).astype(jnp.int32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
        return logits, jnp.where(labelled, losses, 0)

    def loss_fn(params: nnx.State, batch: Batch) -> Array:
        _, losses = pixel_losses(params, batch)
        return losses.sum() / jnp.maximum(jnp.sum(batch.masks != UNLABELLED), 1)

    @jax.jit
    def measure(params: nnx.State, batch: Batch) -> tuple[Array, Array]:
        logits, losses = pixel_losses(params, batch)
        return losses.sum(), confusion(jnp.argmax(logits, axis=-1), batch.masks)

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        order = epoch_order(len(train), settings.batch_size, seed, epoch, start)
        return (Batch(*map(jnp.asarray, arrays)) for arrays in train.batches(indices for _, indices in order))

    def evaluate(params: nnx.State) -> Mapping[str, float]:
        parts = np.split(chosen, range(_EVALUATION_BATCH, len(chosen), _EVALUATION_BATCH))
        measured = [measure(params, Batch(*map(jnp.asarray, arrays))) for arrays in held_out.batches(parts)]
        counts = np.sum([np.asarray(count, np.int64) for _, count in measured], axis=0)  # [k, k]
        return {
            "accuracy": float(np.trace(counts) / counts.sum()),
            "mean_iou": mean_iou(counts),
            "validation_loss": sum(float(loss) for loss, _ in measured) / float(counts.sum()),
        }

    def logits(params: nnx.State, batch: Batch) -> tuple[Array, Array]:
        return pixel_losses(params, batch)[0], batch.masks != UNLABELLED

    return Problem(params, loss_fn, batches, len(train) // settings.batch_size, evaluate, logits=logits)


def init_unet(seed: int, width: int, depth: int) -> tuple[nnx.GraphDef, nnx.State]:
    """The network's structure and its initial parameters."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: UNet(width, depth, nnx.Rngs(0))), nnx.Param)
    # NumPy draws them: compiling Flax's initializers, shape by shape, takes ten seconds.
    random = np.random.default_rng(seed)

    def draw(shape: jax.ShapeDtypeStruct) -> Array:
        if len(shape.shape) == 1:
            return jnp.zeros(shape.shape, shape.dtype)
        deviation = (2 / np.prod(shape.shape[:-1])) ** 0.5
        return jnp.asarray(deviation * random.standard_normal(shape.shape), shape.dtype)

    return graph, jax.tree.map(draw, shapes)


def confusion(predicted: Int[Array, "*n"], masks: UInt8[Array, "*n"]) -> Int[Array, "k k"]:
    """How many labelled pixels of each class, by row, are predicted to be of each, by column."""
    labelled = masks != UNLABELLED
    cells = jnp.where(labelled, masks, 0).astype(jnp.int32) * CLASSES + predicted.astype(jnp.int32)
    counts = jnp.zeros(CLASSES**2, jnp.int32).at[cells.ravel()].add(labelled.ravel().astype(jnp.int32))
    return counts.reshape(CLASSES, CLASSES)


def mean_iou(counts: Int[np.ndarray, "k k"]) -> float:
    """Pixels that are of a class and predicted to be, over those that are either; the mean over the classes.

    Classes that are neither in the masks nor predicted are left out.

    >>> mean_iou(np.asarray([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))  # (3 / 4 + 2 / 3) / 2
    0.7083333333333333
    """
    hits = np.diagonal(counts)
    either = counts.sum(axis=0) + counts.sum(axis=1) - hits
    present = either > 0
    return float(np.mean(hits[present] / either[present]))


def _normalise(images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    scaled = images.astype(jnp.float32) / 255
    return (scaled - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_DEVIATION)


def _validation_choice(count: int, wanted: int | None) -> Int[np.ndarray, " m"]:
    wanted = count if wanted is None else wanted
    if not 1 <= wanted <= count:
        raise ExperimentError(f"`validation_images` must be from 1 to {count} or None, got {wanted}.")
    return np.arange(wanted) * count // wanted


def _check(settings: SegmentationSettings) -> None:
    if settings.width < 1 or settings.depth < 1:
        raise ExperimentError(f"`width` and `depth` must be positive, got {settings.width} and {settings.depth}.")
    if settings.size < 1 or settings.size % 2**settings.depth:
        raise ExperimentError(
            f"`size` must be a multiple of {2**settings.depth}, to be halved `depth` times, got {settings.size}."
        )
