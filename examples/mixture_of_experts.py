"""A transformer whose perceptrons are mixtures of experts, in Flax Linen: each token goes to two experts of its own.

Tokens are sent to the experts, and brought back, by products with arrays of zeros and ones, as on accelerators.

Sources: Shazeer et al. (2017), Outrageously Large Neural Networks; Lepikhin et al. (2021), GShard.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from _data import ASCII, make_tokens, text_batches
from _train import Network, train
from jaxtyping import Array, Float, Int

BALANCE_WEIGHT = 1e-2
"""How much the loss asks for tokens to be spread over the experts."""


class MixtureOfExperts(nn.Module):
    """Perceptrons, of which a router chooses some for each token; what is beyond an expert's capacity is dropped."""

    experts: int
    hidden: int
    chosen: int = 2
    capacity_factor: float = 1.5

    @nn.compact
    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        width = x.shape[-1]
        tokens = x.reshape(-1, width)  # [s, d]
        count = tokens.shape[0]
        capacity = int(self.capacity_factor * self.chosen * count / self.experts)

        probabilities = nn.softmax(nn.Dense(self.experts, use_bias=False, name="router")(tokens))  # [s, e]
        gates, index = jax.lax.top_k(probabilities, self.chosen)  # [s, k]
        gates = gates / gates.sum(axis=-1, keepdims=True)
        choice = jax.nn.one_hot(index, self.experts)  # [s, k, e]
        self.sow("losses", "balance", self.experts * jnp.vdot(choice.mean((0, 1)), probabilities.mean(0)))

        # First choices take their places before second choices do.
        order = choice.transpose(1, 0, 2).reshape(-1, self.experts)  # [k * s, e]
        place = (jnp.cumsum(order, axis=0) - order).reshape(self.chosen, count, self.experts)  # [k, s, e]
        place = jnp.einsum("kse,ske->sk", place, choice).astype(jnp.int32)
        slot = jax.nn.one_hot(place, capacity)  # [s, k, c], zero beyond the capacity
        dispatch = jnp.einsum("ske,skc->sec", choice, slot)
        combine = jnp.einsum("sk,ske,skc->sec", gates, choice, slot)

        kernel = nn.initializers.lecun_normal(batch_axis=0)
        w_in = self.param("w_in", kernel, (self.experts, width, self.hidden))
        b_in = self.param("b_in", nn.initializers.zeros, (self.experts, 1, self.hidden))
        w_out = self.param("w_out", kernel, (self.experts, self.hidden, width))
        b_out = self.param("b_out", nn.initializers.zeros, (self.experts, 1, width))
        h = jnp.einsum("sec,sd->ecd", dispatch, tokens)
        h = nn.gelu(jnp.einsum("ecd,edf->ecf", h, w_in) + b_in)
        h = jnp.einsum("ecf,efd->ecd", h, w_out) + b_out
        return jnp.einsum("sec,ecd->sd", combine, h).reshape(x.shape)


class Block(nn.Module):
    """Causal attention and a mixture of experts, each on normalised tokens and added to them."""

    heads: int
    experts: int

    @nn.compact
    def __call__(self, x: Float[Array, "n t d"], mask: Array) -> Float[Array, "n t d"]:
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
        return x + MixtureOfExperts(self.experts, 4 * x.shape[-1])(nn.LayerNorm()(x))


class Transformer(nn.Module):
    """Tokens and positions through the blocks."""

    vocabulary: int
    width: int
    heads: int
    depth: int
    experts: int

    @nn.compact
    def __call__(self, tokens: Int[Array, "n t"]) -> Float[Array, "n t v"]:
        positions = self.param("positions", nn.initializers.normal(0.02), (tokens.shape[1], self.width))
        x = nn.Embed(self.vocabulary, self.width)(tokens) + positions
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.depth):
            x = Block(self.heads, self.experts)(x, mask)
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))


def build(
    key: Array,
    *,
    batch: int = 16,
    length: int = 64,
    vocabulary: int = ASCII,
    width: int = 64,
    heads: int = 4,
    depth: int = 2,
    experts: int = 8,
) -> Network:
    """The network and a batch for it."""
    model = Transformer(vocabulary, width, heads, depth, experts)
    tokens = make_tokens(key, batch, length + 1, vocabulary)
    params = jax.jit(model.init)(key, tokens[:, :-1])["params"]

    def loss_fn(params: Any, tokens: Array) -> Array:
        logits, sown = model.apply({"params": params}, tokens[:, :-1], mutable=["losses"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()
        return loss + BALANCE_WEIGHT * sum(jax.tree.leaves(sown))

    return Network(loss_fn, params, (tokens,))


def main() -> None:
    """Train on the characters of Shakespeare's plays, if they are there."""
    key = jax.random.key(0)
    batches = ((tokens,) for tokens in text_batches(key, steps=100, batch=16, length=65))
    train(build(key), batches, learning_rate=0.02)


if __name__ == "__main__":
    main()
