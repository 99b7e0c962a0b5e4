"""An LSTM that predicts the next character of a text.

    i, f, g, o = x_t W + h_(t-1) R + b
    c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

The states start at zero in each window, and a forget gate's bias starts at 1.

Sources: Hochreiter and Schmidhuber (1997), Long short-term memory; Jozefowicz, Zaremba and Sutskever (2015), An
empirical exploration of recurrent network architectures.
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
from lnb_experiments.tasks._networks import Dense, apply_dense, init_dense

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class CharacterLSTMSettings:
    """Hyper-parameters of an LSTM."""

    width: int = 192
    """Length of the state."""
    embedding: int = 64
    """Length of an embedded character."""
    context: int = 64
    """Characters that a prediction sees at most."""
    batch_size: int = 32
    """Windows of the text in a batch."""
    validation_windows: int | None = 512
    """How many windows of the held-out text measure a run, evenly spaced; None for all that fit side by side."""


class LSTM(NamedTuple):
    """The network's parameters; the gates are write, forget, candidate and read, in this order."""

    embedding: Float[Array, "v d"]
    gates: Float[Array, "d 4*h"]
    recurrent: Float[Array, "h 4*h"]
    bias: Float[Array, " 4*h"]
    head: Dense


def character_lstm(load: Callable[[], str], settings: CharacterLSTMSettings, seed: int) -> Problem:
    """An LSTM trained on the mean cross entropy of the next character, in nats.

    Args:
        load: the text.
        settings: of the network.
        seed: of the initial weights and of the windows.

    Returns:
        A problem with the metric `validation_loss`, in nats per character, on windows that are the same for all seeds.

    Raises:
        ExperimentError: the text is not to be had or too short, or a setting is out of its range.
    """
    if min(settings.width, settings.embedding) < 1:
        raise ExperimentError(f"`width` and `embedding` must be positive, got {settings}.")
    return next_character(
        load(), settings, seed, lambda key, vocabulary: init_lstm(key, vocabulary, settings), apply_lstm
    )


def init_lstm(key: Array, vocabulary: int, settings: CharacterLSTMSettings) -> LSTM:
    """The initial parameters: Glorot normal weights for each gate, a forget gate that is open."""
    embedding_key, gates_key, recurrent_key, head_key = jax.random.split(key, 4)
    width, embedding = settings.width, settings.embedding

    def draw(key: Array, inputs: int) -> Float[Array, "i 4*h"]:
        gates = [init_dense(each, inputs, width).weight for each in jax.random.split(key, 4)]
        return jnp.concatenate(gates, axis=1)

    bias = jnp.zeros((4, width), jnp.float32).at[1].set(1.0)
    return LSTM(
        embedding=jax.random.normal(embedding_key, (vocabulary, embedding)),
        gates=draw(gates_key, embedding),
        recurrent=draw(recurrent_key, width),
        bias=bias.reshape(-1),  # [4, h] -> [4 * h]
        head=init_dense(head_key, width, vocabulary),
    )


def apply_lstm(params: LSTM, characters: Int[Array, "n t"]) -> Float[Array, "n t v"]:
    """The logits of each next character."""
    embedded = params.embedding[characters.T]  # [t, n, d]

    def advance(state: tuple[Array, Array], x: Float[Array, "n d"]) -> tuple[tuple[Array, Array], Array]:
        hidden, cell = state  # [n, h]
        gates = x @ params.gates + hidden @ params.recurrent + params.bias  # [n, 4 * h]
        write, forget, candidate, read = jnp.split(gates, 4, axis=1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(write) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(read) * jnp.tanh(cell)
        return (hidden, cell), hidden

    start = jnp.zeros((len(characters), len(params.recurrent)), embedded.dtype)
    _, hidden = jax.lax.scan(advance, (start, start), embedded)  # [t, n, h]
    return apply_dense(params.head, hidden.swapaxes(0, 1))
