"""Batches for the examples: synthetic ones that a network can learn, and text where there is some."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

TEXT = "tinyshakespeare.txt"
"""The file of `$LNB_DATA_DIR` that the language models read."""

ASCII = 128
"""The vocabulary of the language models: a token is a character's code."""


def make_labelled_images(
    key: Array, batch: int, channels: int, size: int, classes: int
) -> tuple[Float[Array, "n c h w"], Int[Array, " n"]]:
    """Images of stripes, whose class is the direction of the stripes, in noise."""
    label_key, phase_key, noise_key = jax.random.split(key, 3)
    labels = jax.random.randint(label_key, (batch,), 0, classes)
    angle = (jnp.pi / classes) * labels.astype(jnp.float32)[:, None, None]
    phase = jax.random.uniform(phase_key, (batch, 1, 1), maxval=2 * jnp.pi)
    y, x = jnp.mgrid[:size, :size].astype(jnp.float32)  # each [h, w]
    stripes = jnp.sin(jnp.cos(angle) * x + jnp.sin(angle) * y + phase)[:, None]  # [n, 1, h, w]
    return stripes + 0.3 * jax.random.normal(noise_key, (batch, channels, size, size)), labels


def make_discs(key: Array, batch: int, channels: int, size: int) -> tuple[Float[Array, "n h w c"], Int[Array, "n h w"]]:
    """Images of a bright disc in noise, and which pixels are of the disc."""
    centre_key, radius_key, noise_key = jax.random.split(key, 3)
    centre = jax.random.uniform(centre_key, (2, batch, 1, 1), maxval=float(size))
    radius = jax.random.uniform(radius_key, (batch, 1, 1), minval=size / 6, maxval=size / 2)
    y, x = jnp.mgrid[:size, :size].astype(jnp.float32)  # each [h, w]
    mask = jnp.square(y - centre[0]) + jnp.square(x - centre[1]) < jnp.square(radius)  # [n, h, w]
    noise = jax.random.normal(noise_key, (batch, size, size, channels))
    return mask.astype(jnp.float32)[..., None] + 0.5 * noise, mask.astype(jnp.int32)


def make_tokens(key: Array, batch: int, length: int, vocabulary: int) -> Int[Array, "n t"]:
    """Sequences that go on by a step of their own, around the vocabulary."""
    start_key, step_key = jax.random.split(key)
    start = jax.random.randint(start_key, (batch, 1), 0, vocabulary)
    step = jax.random.randint(step_key, (batch, 1), 1, 4)
    return (start + step * jnp.arange(length)) % vocabulary


def text_batches(key: Array, steps: int, batch: int, length: int) -> Iterator[Int[Array, "n t"]]:
    """Pieces of the text in `$LNB_DATA_DIR` as codes below `ASCII`, or of `make_tokens` where there is none."""
    path = Path(os.environ.get("LNB_DATA_DIR", "")).expanduser() / TEXT
    if not path.is_file():
        print(f"no {path}: training on synthetic sequences")
        for step_key in jax.random.split(key, steps):
            yield make_tokens(step_key, batch, length, ASCII)
        return
    codes = np.frombuffer(path.read_bytes(), np.uint8).astype(np.int32)
    codes = jnp.asarray(np.minimum(codes, ASCII - 1))
    for step_key in jax.random.split(key, steps):
        starts = jax.random.randint(step_key, (batch, 1), 0, len(codes) - length)
        yield codes[starts + jnp.arange(length)]  # [n, t]
