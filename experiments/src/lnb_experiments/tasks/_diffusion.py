"""A denoising diffusion model of small digits: a U-Net that predicts the noise in an image.

    x_t = cos(pi t / 2) x + sin(pi t / 2) noise,   loss = mean |network(x_t, t) - noise|^2,   t uniform in [0, 1]

The digits are MNIST's, each two by two pixels averaged, from -1 to 1.

Sources: Ho, Jain and Abbeel (2020), Denoising diffusion probabilistic models; Ronneberger, Fischer and Brox (2015),
U-Net: convolutional networks for biomedical image segmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import shuffled_batches
from lnb_experiments.data._data import LabelledImages
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
    from jaxtyping import Float

_SIDE = 28  # of MNIST's images
_GROUPS = 4  # of channels that are normalised together
_TIME_FEATURES = 16
_VALIDATION_SEED = 0


@dataclass(frozen=True)
class DiffusionSettings:
    """Hyper-parameters of a diffusion model."""

    width: int = 16
    """Channels at full resolution, a multiple of 4; there are twice as many at half resolution."""
    time_width: int = 64
    """Length of the embedded time."""
    batch_size: int = 150
    """Images in a batch; what is left over at the end of an epoch waits for another epoch."""
    validation_images: int = 1000
    """How many of the test images measure a run: the first ones."""


class Batch(NamedTuple):
    """Images, the time of each, and its noise."""

    images: Float[Array, "n h w 1"]
    times: Float[Array, " n"]
    noise: Float[Array, "n h w 1"]


class Block(NamedTuple):
    """Two convolutions of normalised activations, with the time between them, and what they are added to."""

    first_norm: Affine
    first: Float[Array, "3 3 i o"]
    time: Dense
    second_norm: Affine
    second: Float[Array, "3 3 o o"]
    shortcut: Float[Array, "1 1 i o"] | None


class UNet(NamedTuple):
    """The network's parameters."""

    time: Dense
    stem: Float[Array, "3 3 1 c"]
    down: Block
    middle: Block
    up: Block
    norm: Affine
    head: Float[Array, "3 3 c 1"]


def diffusion(load: Callable[[], LabelledImages], settings: DiffusionSettings, seed: int) -> Problem:
    """A U-Net trained on the mean squared error of the noise.

    Args:
        load: images of 28 x 28 pixels; their labels are not used.
        settings: of the network.
        seed: of the initial weights, the order of the images, their times and their noise.

    Returns:
        A problem with the metric `validation_loss`, the same loss on test images, with evenly spaced times and noise
        that is the same for all seeds.

    Raises:
        ExperimentError: the data is not to be had, or a setting is out of its range.
    """
    if min(settings.width, settings.time_width) < 1 or settings.width % _GROUPS:
        raise ExperimentError(f"`width` must be a multiple of {_GROUPS} and `time_width` positive, got {settings}.")
    data = load()
    count, available = settings.validation_images, len(data.test.images)
    if not 1 <= count <= available:
        raise ExperimentError(f"`validation_images` must be from 1 to {available}, got {count}.")
    images = jnp.asarray(_smaller(data.test.images[:count]))
    noise = jax.random.normal(jax.random.key(_VALIDATION_SEED), images.shape)
    validation = Batch(images, (jnp.arange(count) + 0.5) / count, noise)
    measure = jax.jit(_loss_fn)

    def evaluate(params: UNet) -> Mapping[str, float]:
        return {"validation_loss": float(measure(params, validation))}

    batches = shuffled_batches(jnp.asarray(_smaller(data.train.images)), settings.batch_size, seed, _add_noise)
    params = init_unet(jax.random.key(seed), settings)
    return Problem(params, _loss_fn, batches.epoch, batches.steps_per_epoch, evaluate)


def init_unet(key: Array, settings: DiffusionSettings) -> UNet:
    """The initial parameters."""
    time_key, stem_key, down_key, middle_key, up_key, head_key = jax.random.split(key, 6)
    width, time_width = settings.width, settings.time_width

    def draw_block(key: Array, inputs: int, outputs: int) -> Block:
        first_key, block_time_key, second_key, shortcut_key = jax.random.split(key, 4)
        return Block(
            first_norm=init_affine(inputs),
            first=init_kernel(first_key, 3, inputs, outputs),
            time=init_dense(block_time_key, time_width, outputs),
            second_norm=init_affine(outputs),
            second=init_kernel(second_key, 3, outputs, outputs),
            shortcut=None if inputs == outputs else init_kernel(shortcut_key, 1, inputs, outputs),
        )

    return UNet(
        time=init_dense(time_key, _TIME_FEATURES, time_width),
        stem=init_kernel(stem_key, 3, 1, width),
        down=draw_block(down_key, width, width),
        middle=draw_block(middle_key, width, 2 * width),
        up=draw_block(up_key, 3 * width, width),
        norm=init_affine(width),
        head=init_kernel(head_key, 3, width, 1),
    )


def apply_unet(params: UNet, x: Float[Array, "n h w 1"], times: Float[Array, " n"]) -> Float[Array, "n h w 1"]:
    """The noise in images at their times."""
    octaves = jnp.arange(-1, _TIME_FEATURES // 2 - 1, dtype=times.dtype)
    angles = jnp.pi * times[:, None] * jnp.exp2(octaves)  # [n, f / 2]
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
    time = jax.nn.silu(apply_dense(params.time, features))  # [n, d]

    wide = _apply_block(params.down, convolve(x, params.stem), time)  # [n, h, w, c]
    count, height, width, channels = wide.shape
    halved = wide.reshape(count, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    low = _apply_block(params.middle, halved, time)  # [n, h / 2, w / 2, 2 * c]
    doubled = jnp.repeat(jnp.repeat(low, 2, axis=1), 2, axis=2)
    up = _apply_block(params.up, jnp.concatenate([wide, doubled], axis=-1), time)
    return convolve(jax.nn.silu(_normalise(params.norm, up)), params.head)


def _apply_block(block: Block, x: Float[Array, "n h w i"], time: Float[Array, "n d"]) -> Float[Array, "n h w o"]:
    hidden = convolve(jax.nn.silu(_normalise(block.first_norm, x)), block.first)
    hidden = hidden + apply_dense(block.time, time)[:, None, None, :]
    hidden = convolve(jax.nn.silu(_normalise(block.second_norm, hidden)), block.second)
    return hidden + (x if block.shortcut is None else convolve(x, block.shortcut))


def _normalise(norm: Affine, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Group normalisation."""
    grouped = x.reshape(*x.shape[:3], _GROUPS, -1)  # [n, h, w, c] -> [n, h, w, g, c / g]
    return standardise(grouped, (1, 2, 4)).reshape(x.shape) * norm.scale + norm.shift


def _loss_fn(params: UNet, batch: Batch) -> Array:
    angle = 0.5 * jnp.pi * batch.times[:, None, None, None]
    noisy = jnp.cos(angle) * batch.images + jnp.sin(angle) * batch.noise
    return jnp.square(apply_unet(params, noisy, batch.times) - batch.noise).mean()


def _add_noise(images: Float[Array, "n h w 1"], key: Array) -> Batch:
    time_key, noise_key = jax.random.split(key)
    return Batch(images, jax.random.uniform(time_key, images.shape[:1]), jax.random.normal(noise_key, images.shape))


def _smaller(images: Float[np.ndarray, "n i"]) -> Float[np.ndarray, "n h w 1"]:
    """Each two by two pixels averaged, and intensities from -1 to 1."""
    half = _SIDE // 2
    halved = images.reshape(-1, half, 2, half, 2).mean(axis=(2, 4))  # [n, h, p, w, q] -> [n, h, w]
    return 2 * halved[..., None] - 1
