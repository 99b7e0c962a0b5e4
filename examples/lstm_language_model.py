"""A language model of characters with two layers of LSTM cells, in Equinox.

Source: Hochreiter and Schmidhuber (1997), Long Short-Term Memory.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _data import ASCII, make_tokens, text_batches
from _train import Network, train
from jaxtyping import Array, Float, Int


class LanguageModel(eqx.Module):
    """The next token's logits at each place of a sequence."""

    embedding: eqx.nn.Embedding
    cells: list[eqx.nn.LSTMCell]
    head: eqx.nn.Linear

    def __init__(self, vocabulary: int, width: int, depth: int, *, key: Array) -> None:
        embedding_key, head_key, *cell_keys = jax.random.split(key, 2 + depth)
        self.embedding = eqx.nn.Embedding(vocabulary, width, key=embedding_key)
        self.cells = [eqx.nn.LSTMCell(width, width, key=cell_key) for cell_key in cell_keys]
        self.head = eqx.nn.Linear(width, vocabulary, key=head_key)

    def __call__(self, tokens: Int[Array, " t"]) -> Float[Array, "t v"]:
        x = jax.vmap(self.embedding)(tokens)
        for cell in self.cells:

            def advance(
                state: tuple[Array, Array], x: Array, cell: eqx.nn.LSTMCell = cell
            ) -> tuple[tuple[Array, Array], Array]:
                state = cell(x, state)
                return state, state[0]

            start = jnp.zeros(cell.hidden_size), jnp.zeros(cell.hidden_size)
            _, x = jax.lax.scan(advance, start, x)
        return jax.vmap(self.head)(x)


def build(
    key: Array, *, batch: int = 32, length: int = 64, vocabulary: int = ASCII, width: int = 128, depth: int = 2
) -> Network:
    """The network and a batch for it."""
    model = LanguageModel(vocabulary, width, depth, key=key)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params: LanguageModel, tokens: Array) -> Array:
        model = eqx.combine(params, static)
        logits = jax.vmap(model)(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    return Network(loss_fn, params, (make_tokens(key, batch, length + 1, vocabulary),))


def main() -> None:
    """Train on the characters of Shakespeare's plays, if they are there."""
    key = jax.random.key(0)
    batches = ((tokens,) for tokens in text_batches(key, steps=100, batch=32, length=65))
    train(build(key), batches, learning_rate=0.02)


if __name__ == "__main__":
    main()
