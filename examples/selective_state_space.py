"""A selective state space model like Mamba, in Equinox.

    h_t = exp(dt_t A) h_(t-1) + dt_t B_t x_t,   y_t = C_t h_t + D x_t,   A = -exp(A_log)

`A_log` enters through an exponential. It is no neuron's, and is trained with the identity metric.

Source: Gu and Dao (2023), Mamba: Linear-Time Sequence Modeling with Selective State Spaces.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _data import ASCII, make_tokens, text_batches
from _train import Network, train
from jaxtyping import Array, Float, Int

TAPS = 4
"""The length of the convolution before the state space."""


def combine(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """One affine function of the state after another."""
    return first[0] * second[0], second[0] * first[1] + second[1]


class SelectiveBlock(eqx.Module):
    """A state space whose time step, input and output depend on the token, and a gate."""

    norm: eqx.nn.RMSNorm
    in_proj: eqx.nn.Linear
    conv: eqx.nn.Conv1d
    x_proj: eqx.nn.Linear
    dt_proj: eqx.nn.Linear
    A_log: Array
    D: Array
    out_proj: eqx.nn.Linear
    rank: int = eqx.field(static=True)
    states: int = eqx.field(static=True)

    def __init__(self, width: int, states: int, *, key: Array) -> None:
        key1, key2, key3, key4, key5 = jax.random.split(key, 5)
        inner, self.rank, self.states = 2 * width, max(1, width // 16), states
        self.norm = eqx.nn.RMSNorm(width, use_bias=False)
        self.in_proj = eqx.nn.Linear(width, 2 * inner, use_bias=False, key=key1)
        self.conv = eqx.nn.Conv1d(inner, inner, TAPS, padding=((TAPS - 1, 0),), groups=inner, key=key2)
        self.x_proj = eqx.nn.Linear(inner, self.rank + 2 * states, use_bias=False, key=key3)
        self.dt_proj = eqx.nn.Linear(self.rank, inner, key=key4)
        self.A_log = jnp.log(jnp.tile(jnp.arange(1.0, states + 1), (inner, 1)))
        self.D = jnp.ones(inner)
        self.out_proj = eqx.nn.Linear(inner, width, use_bias=False, key=key5)

    def __call__(self, tokens: Float[Array, "t d"]) -> Float[Array, "t d"]:
        x, gate = jnp.split(jax.vmap(self.in_proj)(jax.vmap(self.norm)(tokens)), 2, axis=-1)
        x = jax.nn.silu(self.conv(x.T).T)  # [t, e]
        dt, b, c = jnp.split(jax.vmap(self.x_proj)(x), [self.rank, self.rank + self.states], axis=-1)
        dt = jax.nn.softplus(jax.vmap(self.dt_proj)(dt))  # [t, e]
        decay = jnp.exp(dt[:, :, None] * -jnp.exp(self.A_log))  # [t, e, s]
        entering = (dt * x)[:, :, None] * b[:, None, :]  # [t, e, s]
        _, h = jax.lax.associative_scan(combine, (decay, entering))
        y = jnp.einsum("tes,ts->te", h, c) + self.D * x
        return tokens + jax.vmap(self.out_proj)(y * jax.nn.silu(gate))


class LanguageModel(eqx.Module):
    """The next token's logits at each place of a sequence."""

    embedding: eqx.nn.Embedding
    blocks: list[SelectiveBlock]
    norm: eqx.nn.RMSNorm
    head: eqx.nn.Linear

    def __init__(self, vocabulary: int, width: int, states: int, depth: int, *, key: Array) -> None:
        embedding_key, head_key, *block_keys = jax.random.split(key, 2 + depth)
        self.embedding = eqx.nn.Embedding(vocabulary, width, key=embedding_key)
        self.blocks = [SelectiveBlock(width, states, key=block_key) for block_key in block_keys]
        self.norm = eqx.nn.RMSNorm(width, use_bias=False)
        self.head = eqx.nn.Linear(width, vocabulary, use_bias=False, key=head_key)

    def __call__(self, tokens: Int[Array, " t"]) -> Float[Array, "t v"]:
        x = jax.vmap(self.embedding)(tokens)
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x))


def build(
    key: Array,
    *,
    batch: int = 16,
    length: int = 64,
    vocabulary: int = ASCII,
    width: int = 64,
    states: int = 16,
    depth: int = 2,
) -> Network:
    """The network and a batch for it."""
    model = LanguageModel(vocabulary, width, states, depth, key=key)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params: LanguageModel, tokens: Array) -> Array:
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
