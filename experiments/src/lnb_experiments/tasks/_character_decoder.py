"""A decoder like Llama that predicts the next character of a text; its output layer is a weight of its own.

    x + attention(rms(x)),   x + (silu(rms(x) W_gate) * rms(x) W_up) W_down

Queries and keys are turned by angles that grow with their place, and nothing has a bias.

Sources: Touvron et al. (2023), LLaMA; Su et al. (2021), RoFormer; Shazeer (2020), GLU variants improve transformer;
Zhang and Sennrich (2019), Root mean square layer normalization.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.runs._training import Problem
from lnb_experiments.tasks._characters import next_character
from lnb_experiments.tasks._networks import init_dense

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_SLOWEST = 10_000.0  # the longest wavelength of the rotations, in places over 2 pi


@dataclass(frozen=True)
class CharacterDecoderSettings:
    """Hyper-parameters of a decoder."""

    width: int = 96
    """Length of a token."""
    heads: int = 4
    """Attention heads of each block."""
    depth: int = 2
    """Blocks."""
    hidden: int = 256
    """Width of each block's gated perceptron."""
    context: int = 64
    """Characters that a prediction sees at most."""
    batch_size: int = 32
    """Windows of the text in a batch."""
    validation_windows: int | None = 512
    """How many windows of the held-out text measure a run, evenly spaced; None for all that fit side by side."""


class Block(NamedTuple):
    """Causal attention and a gated perceptron, each on normalised tokens and added to them."""

    attention_scale: Float[Array, " d"]
    query: Float[Array, "d d"]
    key: Float[Array, "d d"]
    value: Float[Array, "d d"]
    output: Float[Array, "d d"]
    perceptron_scale: Float[Array, " d"]
    gate: Float[Array, "d e"]
    up: Float[Array, "d e"]
    down: Float[Array, "e d"]


class Decoder(NamedTuple):
    """The network's parameters."""

    embedding: Float[Array, "v d"]
    blocks: tuple[Block, ...]
    scale: Float[Array, " d"]
    head: Float[Array, "d v"]


def character_decoder(load: Callable[[], str], settings: CharacterDecoderSettings, seed: int) -> Problem:
    """A decoder trained on the mean cross entropy of the next character, in nats.

    Args:
        load: the text.
        settings: of the network.
        seed: of the initial weights and of the windows.

    Returns:
        A problem with the metric `validation_loss`, in nats per character, on windows that are the same for all seeds.

    Raises:
        ExperimentError: the text is not to be had or too short, or a setting is out of its range.
    """
    sizes = (settings.width, settings.heads, settings.depth, settings.hidden)
    if min(sizes) < 1 or settings.width % (2 * settings.heads):
        raise ExperimentError(f"sizes must be positive and `width` an even multiple of `heads`, got {settings}.")
    return next_character(
        load(),
        settings,
        seed,
        init=lambda key, vocabulary: init_decoder(key, vocabulary, settings),
        apply=lambda params, characters: apply_decoder(params, characters, settings.heads),
    )


def init_decoder(key: Array, vocabulary: int, settings: CharacterDecoderSettings) -> Decoder:
    """The initial parameters: Glorot normal weights, those that write into the tokens divided by sqrt(2 depth)."""
    width, hidden = settings.width, settings.hidden
    embedding_key, head_key, *block_keys = jax.random.split(key, 2 + settings.depth)
    share = (2 * settings.depth) ** -0.5

    def draw_block(key: Array) -> Block:
        keys = jax.random.split(key, 7)
        query, key, value, output = (init_dense(each, width, width).weight for each in keys[:4])
        gate, up = (init_dense(each, width, hidden).weight for each in keys[4:6])
        down = init_dense(keys[6], hidden, width).weight
        ones = jnp.ones(width, jnp.float32)
        return Block(ones, query, key, value, share * output, ones, gate, up, share * down)

    return Decoder(
        embedding=jax.random.normal(embedding_key, (vocabulary, width)),
        blocks=tuple(map(draw_block, block_keys)),
        scale=jnp.ones(width, jnp.float32),
        head=init_dense(head_key, width, vocabulary).weight,
    )


def apply_decoder(params: Decoder, characters: Int[Array, "n t"], heads: int) -> Float[Array, "n t v"]:
    """The logits of each next character."""
    x = params.embedding[characters]  # [n, t, d]
    for block in params.blocks:
        x = x + _attend(block, _normalise(x) * block.attention_scale, heads)
        normalised = _normalise(x) * block.perceptron_scale
        x = x + (jax.nn.silu(normalised @ block.gate) * (normalised @ block.up)) @ block.down
    return (_normalise(x) * params.scale) @ params.head


def _attend(block: Block, x: Float[Array, "n t d"], heads: int) -> Float[Array, "n t d"]:
    count, length, width = x.shape
    query, key, value = (
        (x @ weight).reshape(count, length, heads, -1)  # [n, t, d] -> [n, t, h, c]
        for weight in (block.query, block.key, block.value)
    )
    scores = jnp.einsum("nqhc,nkhc->nhqk", _rotate(query), _rotate(key)) / (width // heads) ** 0.5
    causal = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
    return jnp.einsum("nhqk,nkhc->nqhc", weights, value).reshape(x.shape) @ block.output  # [n, t, h, c] -> [n, t, d]


def _rotate(x: Float[Array, "n t h c"]) -> Float[Array, "n t h c"]:
    """Turn each pair of channels, one of either half, by an angle that grows with the place."""
    half = x.shape[-1] // 2
    frequencies = _SLOWEST ** (-jnp.arange(half, dtype=x.dtype) / half)
    angles = (jnp.arange(x.shape[1], dtype=x.dtype)[:, None] * frequencies)[:, None, :]  # [t, 1, c / 2]
    one, other = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([one * cos - other * sin, one * sin + other * cos], axis=-1)


def _normalise(x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)
