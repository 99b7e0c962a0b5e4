"""A decoder like GPT-2 that predicts the next character of a text; its output layer is its embedding.

As nanoGPT has it: no biases, normalisations that learn a scale, weights from N(0, 0.02^2) with those that write into
the residual stream divided by sqrt(2 depth), and dropout on the embedding, the attention's weights and what each layer
writes. The first nine tenths of the text train the network and the rest measures it.

Source: Karpathy, nanoGPT, model.py and config/train_shakespeare_char.py.
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
from lnb_experiments.data._text import encode_text, held_out_windows
from lnb_experiments.runs._training import Problem

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Key

_DEVIATION = 0.02  # of the initial weights
_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class CharacterTransformerSettings:
    """Hyper-parameters of a decoder."""

    width: int = 384
    """Length of a token."""
    heads: int = 6
    """Attention heads of each block."""
    depth: int = 6
    """Blocks."""
    context: int = 256
    """Characters that a prediction sees at most."""
    dropout: float = 0.2
    """Share of the values that are left out in training."""
    batch_size: int = 64
    """Windows of the text in a batch."""
    validation_windows: int | None = None
    """How many windows of the held-out text measure a run, evenly spaced; None for all that fit side by side."""


class Block(NamedTuple):
    """Causal attention and a perceptron, each on normalised tokens and added to them."""

    attention_scale: Float[Array, " d"]
    query: Float[Array, "d d"]
    key: Float[Array, "d d"]
    value: Float[Array, "d d"]
    output: Float[Array, "d d"]
    perceptron_scale: Float[Array, " d"]
    expand: Float[Array, "d e"]
    contract: Float[Array, "e d"]


class Decoder(NamedTuple):
    """The network's parameters."""

    embedding: Float[Array, "v d"]
    positions: Float[Array, "t d"]
    blocks: tuple[Block, ...]
    scale: Float[Array, " d"]


class Batch(NamedTuple):
    """Windows of a text, each with the character that follows it, and the random key of the dropout."""

    characters: Int[Array, "n t+1"]
    key: Key[Array, ""]


def character_transformer(load: Callable[[], str], settings: CharacterTransformerSettings, seed: int) -> Problem:
    """A decoder trained on the mean cross entropy of the next character, in nats.

    An epoch has as many windows as fit into the training text side by side, and moves each of them on by a random
    part of its length.

    Args:
        load: the text.
        settings: of the network.
        seed: of the initial weights, the order of the windows, where they begin, and the dropout.

    Returns:
        A problem with the metric `validation_loss`, in nats per character, on windows that are the same for all seeds.

    Raises:
        ExperimentError: the text is not to be had or too short, or a setting is out of its range.
    """
    _check(settings)
    text = encode_text(load())
    training, context = jnp.asarray(text.training), settings.context
    windows = jnp.asarray(held_out_windows(text, context, settings.validation_windows))  # [m, t + 1]

    def cut_windows(starts: Int[Array, " n"], key: Array) -> Batch:
        shift_key, dropout_key = jax.random.split(key)
        starts = starts + jax.random.randint(shift_key, starts.shape, 0, context, starts.dtype)
        return Batch(training[starts[:, None] + jnp.arange(context + 1)], dropout_key)

    def loss_fn(params: Decoder, batch: Batch) -> Array:
        return _cross_entropy(params, batch.characters, settings, batch.key)

    def logits(params: Decoder, batch: Batch) -> tuple[Array, None]:
        return apply_decoder(params, batch.characters[:, :-1], settings, batch.key), None

    measure = jax.jit(lambda params, part: _cross_entropy(params, part, settings, None))

    def evaluate(params: Decoder) -> Mapping[str, float]:
        parts = [windows[start : start + _EVALUATION_BATCH] for start in range(0, len(windows), _EVALUATION_BATCH)]
        total = sum(float(measure(params, part)) * len(part) for part in parts)
        return {"validation_loss": total / len(windows)}

    # A window is moved on by less than its length, and is followed by one more character.
    starts = jnp.arange(0, len(training) - 2 * context, context)
    if len(starts) < settings.batch_size:
        raise ExperimentError(
            f"`batch_size` must be at most the number of windows in the training text, {len(starts)}; "
            f"got {settings.batch_size}."
        )
    batches = shuffled_batches(starts, settings.batch_size, seed, cut_windows)
    params = init_decoder(jax.random.key(seed), text.vocabulary, settings)
    return Problem(params, loss_fn, batches.epoch, batches.steps_per_epoch, evaluate, logits=logits)


def init_decoder(key: Array, vocabulary: int, settings: CharacterTransformerSettings) -> Decoder:
    """The initial parameters."""
    width = settings.width
    embedding_key, position_key, *block_keys = jax.random.split(key, 2 + settings.depth)
    residual = _DEVIATION / (2 * settings.depth) ** 0.5

    def draw(key: Array, inputs: int, outputs: int, deviation: float = _DEVIATION) -> Float[Array, "i o"]:
        return deviation * jax.random.normal(key, (inputs, outputs))

    def draw_block(key: Array) -> Block:
        keys = jax.random.split(key, 6)
        return Block(
            attention_scale=jnp.ones(width),
            query=draw(keys[0], width, width),
            key=draw(keys[1], width, width),
            value=draw(keys[2], width, width),
            output=draw(keys[3], width, width, residual),
            perceptron_scale=jnp.ones(width),
            expand=draw(keys[4], width, 4 * width),
            contract=draw(keys[5], 4 * width, width, residual),
        )

    return Decoder(
        embedding=draw(embedding_key, vocabulary, width),
        positions=draw(position_key, settings.context, width),
        blocks=tuple(map(draw_block, block_keys)),
        scale=jnp.ones(width),
    )


def apply_decoder(
    params: Decoder, characters: Int[Array, "n t"], settings: CharacterTransformerSettings, key: Array | None
) -> Float[Array, "n t v"]:
    """The logits of each next character; `key` is None outside of training."""
    keys = [None] * (1 + len(params.blocks)) if key is None else jax.random.split(key, 1 + len(params.blocks))
    x = params.embedding[characters] + params.positions[: characters.shape[1]]  # [n, t, d]
    x = _drop(x, settings.dropout, keys[0])
    for block, block_key in zip(params.blocks, keys[1:], strict=True):
        x = _apply_block(block, x, settings, block_key)
    return (_normalise(x) * params.scale) @ params.embedding.T


def _apply_block(
    block: Block, x: Float[Array, "n t d"], settings: CharacterTransformerSettings, key: Array | None
) -> Float[Array, "n t d"]:
    count, length, width = x.shape
    weight_key, attention_key, perceptron_key = [None] * 3 if key is None else jax.random.split(key, 3)
    normalised = _normalise(x) * block.attention_scale
    query, keys, value = (
        (normalised @ weight).reshape(count, length, settings.heads, -1)  # [n, t, d] -> [n, t, h, c]
        for weight in (block.query, block.key, block.value)
    )
    scores = jnp.einsum("nqhc,nkhc->nhqk", query, keys) / (width // settings.heads) ** 0.5
    causal = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
    weights = _drop(weights, settings.dropout, weight_key)
    mixed = jnp.einsum("nhqk,nkhc->nqhc", weights, value).reshape(x.shape)  # [n, t, h, c] -> [n, t, d]
    x = x + _drop(mixed @ block.output, settings.dropout, attention_key)
    hidden = jax.nn.gelu((_normalise(x) * block.perceptron_scale) @ block.expand, approximate=False)  # [n, t, e]
    return x + _drop(hidden @ block.contract, settings.dropout, perceptron_key)


def _normalise(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)


def _drop(x: Float[Array, "*n"], share: float, key: Array | None) -> Float[Array, "*n"]:
    if key is None or share == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - share, x.shape), x / (1 - share), 0)


def _cross_entropy(
    params: Decoder, characters: Int[Array, "n t+1"], settings: CharacterTransformerSettings, key: Array | None
) -> Array:
    logits = apply_decoder(params, characters[:, :-1], settings, key)
    return optax.softmax_cross_entropy_with_integer_labels(logits, characters[:, 1:]).mean()


def _check(settings: CharacterTransformerSettings) -> None:
    sizes = (settings.width, settings.heads, settings.depth, settings.context, settings.batch_size)
    if min(sizes) < 1 or settings.width % settings.heads:
        raise ExperimentError(f"sizes must be positive and `width` a multiple of `heads`, got {settings}.")
    if not 0 <= settings.dropout < 1:
        raise ExperimentError(f"`dropout` must be from 0 to below 1, got {settings.dropout}.")
