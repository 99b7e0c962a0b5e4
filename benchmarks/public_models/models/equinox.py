"""Networks of Equinox's own layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from public_models import data
from public_models.losses import classification, squares
from public_models.trial import Trial, model

KEY = jax.random.key(0)


@model("Equinox", "MLP", "equinox")
def mlp() -> Trial:
    import equinox as eqx

    params, static = eqx.partition(eqx.nn.MLP(8, 3, 64, 3, key=KEY), eqx.is_array)

    def loss_fn(params: Any, x: Any, y: Any) -> Any:
        return squares(jax.vmap(eqx.combine(params, static))(x), y)

    return Trial(loss_fn, params, data.regression((8,), (3,)))


@model("Equinox", "GRU classifier", "equinox")
def gru() -> Trial:
    import equinox as eqx

    cell, head = eqx.nn.GRUCell(4, 48, key=KEY), eqx.nn.Linear(48, 3, key=KEY)
    params, static = eqx.partition((cell, head), eqx.is_array)

    def loss_fn(params: Any, x: Any, labels: Any) -> Any:
        cell, head = eqx.combine(params, static)

        def logits(sequence: Any) -> Any:
            last, _ = jax.lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(48), sequence)
            return head(last)

        return classification(jax.vmap(logits)(x), labels)

    return Trial(loss_fn, params, data.sequences(24, 4, 3))
