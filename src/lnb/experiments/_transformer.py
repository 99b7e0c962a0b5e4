"""The transformer's block, of the experiments with images and with text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import equinox as eqx
import jax
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


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
        self.attention_norm = plain_norm(width)
        self.attention = eqx.nn.MultiheadAttention(heads, width, key=attention_key)
        self.perceptron_norm = plain_norm(width)
        self.expand = eqx.nn.Linear(width, hidden, key=expand_key)
        self.contract = eqx.nn.Linear(hidden, width, key=contract_key)
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(
        self, x: Float[Array, "t d"], key: Array | None, mask: Bool[Array, "t t"] | None = None
    ) -> Float[Array, "t d"]:
        hidden_key, output_key = (None, None) if key is None else jax.random.split(key)
        normalised = jax.vmap(self.attention_norm)(x)
        x = x + self.attention(normalised, normalised, normalised, mask=mask)
        hidden = jax.nn.gelu(jax.vmap(self.expand)(jax.vmap(self.perceptron_norm)(x)))  # [t, hidden]
        hidden = self.dropout(hidden, key=hidden_key)
        return x + self.dropout(jax.vmap(self.contract)(hidden), key=output_key)


def plain_norm(width: int) -> eqx.nn.LayerNorm:
    """Normalisation to mean 0 and variance 1, with nothing learned."""
    return eqx.nn.LayerNorm(width, use_weight=False, use_bias=False)
