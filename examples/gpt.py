"""A transformer like GPT-2, in Flax NNX: its output layer is its embedding.

Source: Radford et al. (2019), Language Models are Unsupervised Multitask Learners.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from _data import ASCII, make_tokens, text_batches
from _train import Network, train
from flax import nnx
from jaxtyping import Array, Float, Int


class Block(nnx.Module):
    """Causal attention and a perceptron, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int, dropout: float, rngs: nnx.Rngs) -> None:
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, width, dropout_rate=dropout, decode=False, deterministic=False, rngs=rngs
        )
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, rngs=rngs)
        self.contract = nnx.Linear(4 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: Float[Array, "n t d"], mask: Array) -> Float[Array, "n t d"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=mask))
        return x + self.dropout(self.contract(nnx.gelu(self.expand(self.mlp_norm(x)))))


class GPT(nnx.Module):
    """Tokens and positions through the blocks; the embedding gives the logits too."""

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        heads: int,
        depth: int,
        dropout: float,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
    ) -> None:
        self.token_embedding = nnx.Embed(vocabulary, width, dtype=dtype, rngs=rngs)
        self.position_embedding = nnx.Embed(length, width, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.blocks = nnx.List([Block(width, heads, dropout, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, tokens: Int[Array, "n t"]) -> Float[Array, "n t v"]:
        positions = jnp.arange(tokens.shape[1])
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        mask = nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.token_embedding.attend(self.norm(x))


def build(
    key: Array,
    *,
    batch: int = 16,
    length: int = 64,
    vocabulary: int = ASCII,
    width: int = 128,
    heads: int = 4,
    depth: int = 4,
    dtype: Any = jnp.float32,
) -> Network:
    """The network, the state of its dropout, and a batch for it; `dtype` is the embeddings' output."""
    model = GPT(vocabulary, length, width, heads, depth, 0.1, nnx.Rngs(key), dtype)
    graph, params, state = nnx.split(model, nnx.Param, ...)

    def loss_fn(params: nnx.State, state: nnx.State, tokens: Array) -> tuple[Array, Any]:
        model = nnx.merge(graph, params, state, copy=True)
        logits = model(tokens[:, :-1])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()
        return loss, nnx.split(model, nnx.Param, ...)[2]

    return Network(loss_fn, params, (state, make_tokens(key, batch, length + 1, vocabulary)), has_aux=True)


def main() -> None:
    """Train on the characters of Shakespeare's plays, if they are there."""
    key = jax.random.key(0)
    batches = ((tokens,) for tokens in text_batches(key, steps=100, batch=16, length=65))
    train(build(key), batches, learning_rate=0.02)


if __name__ == "__main__":
    main()
