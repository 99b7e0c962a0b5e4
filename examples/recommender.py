"""A deep learning recommendation model, in plain JAX: tables, two perceptrons, and products of what they give.

Source: Naumov et al. (2019), Deep Learning Recommendation Model for Personalization and Recommendation Systems.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from _train import Network, train
from jaxtyping import Array, Float, Int

TABLES = (1000, 200, 50, 10)
"""How many values each of the categories has."""

NUMBERS = 13
"""How many numbers are known of each user and item."""


def init_perceptron(key: Array, sizes: Sequence[int]) -> list[dict[str, Array]]:
    """Layers from `sizes[0]` inputs to `sizes[-1]` outputs."""
    return [
        {"weight": jax.random.normal(k, (i, o)) * (2 / i) ** 0.5, "bias": jnp.zeros(o)}
        for k, i, o in zip(jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True)
    ]


def apply_perceptron(layers: list[dict[str, Array]], x: Float[Array, "n i"]) -> Float[Array, "n o"]:
    """The layers with rectifiers between them."""
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["weight"] + layer["bias"])
    return x @ layers[-1]["weight"] + layers[-1]["bias"]


def apply_model(params: Any, numbers: Float[Array, "n i"], categories: Int[Array, "n k"]) -> Float[Array, " n"]:
    """The logit of a click."""
    dense = jax.nn.relu(apply_perceptron(params["bottom"], numbers))
    rows = [table[categories[:, k]] for k, table in enumerate(params["tables"])]
    vectors = jnp.stack([dense, *rows], axis=1)  # [n, k + 1, d]
    products = jnp.einsum("nid,njd->nij", vectors, vectors)
    first, second = jnp.triu_indices(vectors.shape[1], k=1)
    features = jnp.concatenate([dense, products[:, first, second]], axis=1)
    return apply_perceptron(params["top"], features)[:, 0]


def loss_fn(params: Any, numbers: Array, categories: Array, clicks: Array) -> Array:
    """Mean cross-entropy of the clicks."""
    return optax.sigmoid_binary_cross_entropy(apply_model(params, numbers, categories), clicks).mean()


def make_batch(
    key: Array, *, batch: int = 512, tables: Sequence[int] = TABLES
) -> tuple[Float[Array, "n i"], Int[Array, "n k"], Float[Array, " n"]]:
    """Numbers, categories, frequent ones first, and clicks that depend on both."""
    number_key, category_key, click_key = jax.random.split(key, 3)
    numbers = jnp.log1p(jax.random.exponential(number_key, (batch, NUMBERS)))
    skewed = jnp.square(jax.random.uniform(category_key, (batch, len(tables))))
    categories = (skewed * jnp.asarray(tables, skewed.dtype)).astype(jnp.int32)
    sign, shift = 1 - 2 * (categories[:, 0] % 2), categories[:, 1] % 3 - 1
    logit = 4 * (numbers[:, 0] - numbers[:, 1]) * sign.astype(numbers.dtype) + shift.astype(numbers.dtype)
    clicks = jax.random.uniform(click_key, (batch,)) < jax.nn.sigmoid(logit)
    return numbers, categories, clicks.astype(numbers.dtype)


def build(
    key: Array, *, batch: int = 512, tables: Sequence[int] = TABLES, width: int = 16, hidden: int = 64
) -> Network:
    """The network and a batch for it."""
    table_key, bottom_key, top_key = jax.random.split(key, 3)
    count = len(tables) + 1
    params = {
        "tables": [
            jax.random.uniform(k, (size, width), minval=-(size**-0.5), maxval=size**-0.5)
            for k, size in zip(jax.random.split(table_key, len(tables)), tables, strict=True)
        ],
        "bottom": init_perceptron(bottom_key, (NUMBERS, hidden, width)),
        "top": init_perceptron(top_key, (width + count * (count - 1) // 2, hidden, 1)),
    }
    return Network(loss_fn, params, make_batch(key, batch=batch, tables=tables))


def main() -> None:
    """Train on clicks."""
    key = jax.random.key(0)
    train(build(key), map(make_batch, jax.random.split(key, 200)), learning_rate=0.02)


if __name__ == "__main__":
    main()
