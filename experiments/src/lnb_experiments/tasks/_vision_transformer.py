"""Section 5.3 of the paper: the vision transformer of Equinox's tutorial on CIFAR-10.

As there: 4 x 4 patches, a class token, positions and class token drawn from N(0, 1), dropout, the tanh approximation of
GELU, and images cropped at random from their padding with 4 black pixels, mirrored at random and normalised by channel.
As in the paper, the normalisations learn no scale and shift. One thing differs: the tutorial draws all of its blocks
from one random key, so that they start alike; here each block has its own.

Source: Kidger, Equinox v0.11.11, examples/vision_transformer.ipynb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import shuffled_batches
from lnb_experiments.data._data import ColourImages
from lnb_experiments.runs._training import Problem

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Key, UInt8

# The tutorial's, of the channels of CIFAR-10 in [0, 1].
_MEAN = (0.4914, 0.4822, 0.4465)
_DEVIATION = (0.2023, 0.1994, 0.2010)

_PADDING = 4
_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class VisionTransformerSettings:
    """Hyper-parameters of a vision transformer."""

    width: int = 512
    """Length of a token."""
    hidden: int = 256
    """Width of each block's perceptron."""
    heads: int = 8
    """Attention heads of each block."""
    depth: int = 6
    """Blocks."""
    patch: int = 4
    """Side of a patch in pixels."""
    dropout: float = 0.1
    """Share of the values that are left out in training."""
    batch_size: int = 64
    """Images in a batch."""
    validation_images: int = 10_000
    """How many of the test images measure a run: the first ones."""


class Batch(NamedTuple):
    """Labelled images, and a random key for each image's dropout."""

    images: Float[Array, "n c h w"]
    labels: Int[Array, " n"]
    keys: Key[Array, " n"]


class Block(eqx.Module):
    """Attention without biases and a perceptron, each on normalised tokens and added to them.

    Dropout acts on the perceptron's hidden values and on its outputs, as in Equinox's tutorial.
    """

    attention_norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    perceptron_norm: eqx.nn.LayerNorm
    expand: eqx.nn.Linear
    contract: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, width: int, hidden: int, heads: int, dropout: float, key: Array) -> None:
        attention_key, expand_key, contract_key = jax.random.split(key, 3)
        self.attention_norm = _plain_norm(width)
        self.attention = eqx.nn.MultiheadAttention(heads, width, key=attention_key)
        self.perceptron_norm = _plain_norm(width)
        self.expand = eqx.nn.Linear(width, hidden, key=expand_key)
        self.contract = eqx.nn.Linear(hidden, width, key=contract_key)
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(self, x: Float[Array, "t d"], key: Array | None) -> Float[Array, "t d"]:
        hidden_key, output_key = (None, None) if key is None else jax.random.split(key)
        normalised = jax.vmap(self.attention_norm)(x)
        x = x + self.attention(normalised, normalised, normalised)
        hidden = jax.nn.gelu(jax.vmap(self.expand)(jax.vmap(self.perceptron_norm)(x)))  # [t, hidden]
        hidden = self.dropout(hidden, key=hidden_key)
        return x + self.dropout(jax.vmap(self.contract)(hidden), key=output_key)


class VisionTransformer(eqx.Module):
    """Patches with a class token and positions through blocks; the class token gives the logits."""

    patch_embedding: eqx.nn.Linear
    positions: Float[Array, "t d"]
    class_token: Float[Array, "1 d"]
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    patch: int = eqx.field(static=True)

    def __init__(self, settings: VisionTransformerSettings, image: tuple[int, int, int], classes: int, key: Array):
        height, width, channels = image
        patches = height * width // settings.patch**2
        patch_key, position_key, class_key, block_key, head_key = jax.random.split(key, 5)
        self.patch_embedding = eqx.nn.Linear(channels * settings.patch**2, settings.width, key=patch_key)
        self.positions = jax.random.normal(position_key, (patches + 1, settings.width))
        self.class_token = jax.random.normal(class_key, (1, settings.width))
        self.blocks = [
            Block(settings.width, settings.hidden, settings.heads, settings.dropout, each)
            for each in jax.random.split(block_key, settings.depth)
        ]
        self.norm = _plain_norm(settings.width)
        self.head = eqx.nn.Linear(settings.width, classes, key=head_key)
        self.dropout = eqx.nn.Dropout(settings.dropout)
        self.patch = settings.patch

    def __call__(self, image: Float[Array, "c h w"], key: Array | None) -> Float[Array, " k"]:
        keys = [None] * (1 + len(self.blocks)) if key is None else jax.random.split(key, 1 + len(self.blocks))
        channels, height, width = image.shape
        size = self.patch
        patches = image.reshape(channels, height // size, size, width // size, size)  # [c, i, p, j, q]
        patches = patches.transpose(1, 3, 0, 2, 4).reshape(-1, channels * size**2)  # [i * j, c * p * q]
        tokens = jax.vmap(self.patch_embedding)(patches)
        x = jnp.concatenate([self.class_token, tokens]) + self.positions  # [t, d]
        x = self.dropout(x, key=keys[0])
        for block, block_key in zip(self.blocks, keys[1:], strict=True):
            x = block(x, block_key)
        return self.head(self.norm(x[0]))


def vision_transformer(load: Callable[[], ColourImages], settings: VisionTransformerSettings, seed: int) -> Problem:
    """A vision transformer that gives photographs their class, trained on the mean cross entropy.

    Args:
        load: the data.
        settings: of the network.
        seed: of the initial weights, the order of the images, their crops and the dropout.

    Returns:
        A problem with the metrics `accuracy` and `validation_loss`, on test images.

    Raises:
        ExperimentError: the data is not to be had, or a setting is out of its range.
    """
    data = load()
    _check(settings, data)
    model = VisionTransformer(settings, data.train.images.shape[1:], data.classes, jax.random.key(seed))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def apply(params: Any, batch: Batch) -> Array:
        return jax.vmap(eqx.combine(params, static))(batch.images, batch.keys)

    def loss_fn(params: Any, batch: Batch) -> Array:
        logits = apply(params, batch)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

    test = tuple(map(jnp.asarray, data.test))

    @jax.jit
    def measure(params: Any, images: Array, labels: Array) -> tuple[Array, Array]:
        model = eqx.nn.inference_mode(eqx.combine(params, static))
        logits = jax.vmap(model, in_axes=(0, None))(_normalise(images), None)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(jnp.argmax(logits, axis=1).astype(labels.dtype) == labels), losses.sum()

    def evaluate(params: Any) -> Mapping[str, float]:
        count = settings.validation_images
        starts = range(0, count, _EVALUATION_BATCH)
        parts = [slice(start, min(start + _EVALUATION_BATCH, count)) for start in starts]
        hits, losses = zip(*(measure(params, *(array[part] for array in test)) for part in parts), strict=True)
        return {"accuracy": float(sum(hits)) / count, "validation_loss": float(sum(losses)) / count}

    examples = tuple(map(jnp.asarray, data.train))
    batches = shuffled_batches(examples, settings.batch_size, seed, _augment)
    return Problem(
        params,
        loss_fn,
        batches.epoch,
        batches.steps_per_epoch,
        evaluate,
        logits=lambda params, batch: (apply(params, batch), None),
    )


def _augment(examples: tuple[UInt8[Array, "n h w c"], Int[Array, " n"]], key: Array) -> Batch:
    """Images cropped from their padding with black and mirrored, both at random, then normalised."""
    images, labels = examples
    count, height, width, channels = images.shape
    crop_key, mirror_key, dropout_key = jax.random.split(key, 3)
    corners = jax.random.randint(crop_key, (count, 2), 0, 2 * _PADDING + 1)
    padded = jnp.pad(images, [(0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)])

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    cropped = jax.vmap(crop)(padded, corners)
    mirrored = jax.random.bernoulli(mirror_key, shape=(count, 1, 1, 1))
    cropped = jnp.where(mirrored, cropped[:, :, ::-1], cropped)
    return Batch(_normalise(cropped), labels, jax.random.split(dropout_key, count))


def _normalise(images: UInt8[Array, "n h w c"]) -> Float[Array, "n c h w"]:
    scaled = images.astype(jnp.float32) / 255
    return ((scaled - jnp.asarray(_MEAN)) / jnp.asarray(_DEVIATION)).transpose(0, 3, 1, 2)


def _check(settings: VisionTransformerSettings, data: ColourImages) -> None:
    height, width, _ = data.train.images.shape[1:]
    if settings.patch < 1 or height % settings.patch or width % settings.patch:
        raise ExperimentError(f"`patch` must divide the images' sides, {height} and {width}, got {settings.patch}.")
    if min(settings.width, settings.hidden, settings.heads, settings.depth) < 1 or settings.width % settings.heads:
        raise ExperimentError(f"sizes must be positive and `width` a multiple of `heads`, got {settings}.")
    if not 0 <= settings.dropout < 1:
        raise ExperimentError(f"`dropout` must be from 0 to below 1, got {settings.dropout}.")
    if not 1 <= settings.validation_images <= len(data.test.labels):
        raise ExperimentError(
            f"`validation_images` must be from 1 to {len(data.test.labels)}, got {settings.validation_images}."
        )


def _plain_norm(width: int) -> eqx.nn.LayerNorm:
    """Normalisation to mean 0 and variance 1, with nothing learned."""
    return eqx.nn.LayerNorm(width, use_weight=False, use_bias=False)
