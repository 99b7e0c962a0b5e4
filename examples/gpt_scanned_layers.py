"""A transformer whose layers are one stack of weights, in Equinox: a scan runs through them, and saves memory.

Equal layers compile once, and `jax.checkpoint` keeps only what enters each of them for the backward pass.

Source: Radford et al. (2019), Language Models are Unsupervised Multitask Learners.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _data import ASCII, make_tokens, text_batches
from _train import Network, train
from jaxtyping import Array, Float, Int


class Block(eqx.Module):
    """Causal attention and a perceptron, each on normalised tokens and added to them."""

    attention_norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    mlp_norm: eqx.nn.LayerNorm
    expand: eqx.nn.Linear
    contract: eqx.nn.Linear

    def __init__(self, width: int, heads: int, *, key: Array) -> None:
        key1, key2, key3 = jax.random.split(key, 3)
        self.attention_norm = eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(
            heads,
            width,
            use_query_bias=True,
            use_key_bias=True,
            use_value_bias=True,
            use_output_bias=True,
            key=key1,
        )
        self.mlp_norm = eqx.nn.LayerNorm(width)
        self.expand = eqx.nn.Linear(width, 4 * width, key=key2)
        self.contract = eqx.nn.Linear(4 * width, width, key=key3)

    def __call__(self, x: Float[Array, "t d"]) -> Float[Array, "t d"]:
        mask = jnp.tril(jnp.ones((x.shape[0], x.shape[0]), bool))
        normalised = jax.vmap(self.attention_norm)(x)
        x = x + self.attention(normalised, normalised, normalised, mask)
        hidden = jax.nn.gelu(jax.vmap(self.expand)(jax.vmap(self.mlp_norm)(x)))
        return x + jax.vmap(self.contract)(hidden)


class GPT(eqx.Module):
    """Tokens and positions through the stacked blocks; the embedding gives the logits too."""

    token_embedding: eqx.nn.Embedding
    position_embedding: Array
    blocks: Block
    norm: eqx.nn.LayerNorm

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, depth: int, *, key: Array) -> None:
        key1, key2, key3 = jax.random.split(key, 3)
        self.token_embedding = eqx.nn.Embedding(weight=0.02 * jax.random.normal(key1, (vocabulary, width)))
        self.position_embedding = 0.02 * jax.random.normal(key2, (length, width))
        self.blocks = eqx.filter_vmap(lambda key: Block(width, heads, key=key))(jax.random.split(key3, depth))
        self.norm = eqx.nn.LayerNorm(width)

    def __call__(self, tokens: Int[Array, " t"]) -> Float[Array, "t v"]:
        x = jax.vmap(self.token_embedding)(tokens) + self.position_embedding[: len(tokens)]
        weights, static = eqx.partition(self.blocks, eqx.is_array)

        @jax.checkpoint
        def advance(x: Array, weights: Block) -> tuple[Array, None]:
            return eqx.combine(weights, static)(x), None

        x, _ = jax.lax.scan(advance, x, weights)
        return jax.vmap(self.norm)(x) @ self.token_embedding.weight.T


def build(
    key: Array,
    *,
    batch: int = 16,
    length: int = 64,
    vocabulary: int = ASCII,
    width: int = 128,
    heads: int = 4,
    depth: int = 4,
) -> Network:
    """The network and a batch for it."""
    model = GPT(vocabulary, length, width, heads, depth, key=key)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params: GPT, tokens: Array) -> Array:
        model = eqx.combine(params, static)
        logits = jax.vmap(model)(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    return Network(loss_fn, params, (make_tokens(key, batch, length + 1, vocabulary),))


def main() -> None:
    """Train on the characters of Shakespeare's plays, if they are there."""
    key = jax.random.key(0)
    batches = ((tokens,) for tokens in text_batches(key, steps=100, batch=16, length=65))
    train(build(key), batches, learning_rate=0.02)


if __name__ == "__main__":
    main()
