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

    params, static = eqx.partition(eqx.nn.MLP(8, 3, 64, 3, key=KEY), eqx.is_inexact_array)

    def loss_fn(params: Any, x: Any, y: Any) -> Any:
        return squares(jax.vmap(eqx.combine(params, static))(x), y)

    return Trial(loss_fn, params, data.regression((8,), (3,)))


def _recurrent(cell: Any, initial: Any, output_of: Any) -> Trial:
    import equinox as eqx

    params, static = eqx.partition((cell, eqx.nn.Linear(48, 3, key=KEY)), eqx.is_inexact_array)

    def loss_fn(params: Any, x: Any, labels: Any) -> Any:
        cell, head = eqx.combine(params, static)

        def logits(sequence: Any) -> Any:
            last, _ = jax.lax.scan(lambda state, x: (cell(x, state), None), initial, sequence)
            return head(output_of(last))

        return classification(jax.vmap(logits)(x), labels)

    return Trial(loss_fn, params, data.sequences(24, 4, 3))


@model("Equinox", "GRUCell, classifier", "equinox")
def gru() -> Trial:
    import equinox as eqx

    return _recurrent(eqx.nn.GRUCell(4, 48, key=KEY), jnp.zeros(48), lambda state: state)


@model("Equinox", "LSTMCell, classifier", "equinox")
def lstm() -> Trial:
    import equinox as eqx

    return _recurrent(eqx.nn.LSTMCell(4, 48, key=KEY), (jnp.zeros(48),) * 2, lambda state: state[0])


@model("Equinox", "MultiheadAttention, classifier", "equinox")
def attention() -> Trial:
    import equinox as eqx

    keys = jax.random.split(KEY, 4)
    layers = (
        eqx.nn.Linear(5, 32, key=keys[0]),
        eqx.nn.MultiheadAttention(4, 32, key=keys[1]),
        eqx.nn.LayerNorm(32),
        eqx.nn.MLP(32, 32, 64, 1, key=keys[2]),
        eqx.nn.Linear(32, 3, key=keys[3]),
    )
    params, static = eqx.partition(layers, eqx.is_inexact_array)

    def loss_fn(params: Any, x: Any, labels: Any) -> Any:
        embed, attend, norm, mlp, head = eqx.combine(params, static)

        def logits(sequence: Any) -> Any:
            positions = jnp.linspace(-1, 1, len(sequence))[:, None]
            h = jax.vmap(embed)(jnp.concatenate([sequence, positions], 1))
            normal = jax.vmap(norm)(h)
            h = h + attend(normal, normal, normal)
            return head((h + jax.vmap(mlp)(h)).mean(0))

        return classification(jax.vmap(logits)(x), labels)

    return Trial(loss_fn, params, data.sequences(24, 4, 3))


@model("Equinox", "Conv2d and ConvTranspose2d, autoencoder", "equinox")
def autoencoder() -> Trial:
    import equinox as eqx

    keys = jax.random.split(KEY, 4)
    network = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 16, 3, 2, 1, key=keys[0]),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.Conv2d(16, 8, 3, 2, 1, key=keys[1]),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.ConvTranspose2d(8, 16, 4, 2, padding=1, key=keys[2]),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.ConvTranspose2d(16, 3, 4, 2, padding=1, key=keys[3]),
        ]
    )
    params, static = eqx.partition(network, eqx.is_inexact_array)

    def loss_fn(params: Any, x: Any, _: Any) -> Any:
        return squares(jax.vmap(eqx.combine(params, static))(x), x)

    return Trial(loss_fn, params, data.images(32, channels_first=True))


@model("Equinox", "SpectralNorm and GroupNorm, classifier", "equinox")
def spectral_norm() -> Trial:
    import equinox as eqx

    keys = jax.random.split(KEY, 4)
    layer = eqx.nn.SpectralNorm(eqx.nn.Linear(4, 64, key=keys[0]), "weight", key=keys[1])
    norm, head = eqx.nn.GroupNorm(4, 64), eqx.nn.Linear(64, 3, key=keys[2])
    (trained, state), static = eqx.partition(((layer, norm, head), eqx.nn.State((layer, norm))), eqx.is_inexact_array)

    def loss_fn(params: Any, x: Any, labels: Any) -> Any:
        (layer, norm, head), states = eqx.combine((params, state), static)

        def logits(sequence: Any) -> Any:
            h = jax.vmap(lambda x: layer(x, states, inference=True)[0])(sequence)
            return head(jax.vmap(norm)(jax.nn.gelu(h)).mean(0))

        return classification(jax.vmap(logits)(x), labels)

    return Trial(loss_fn, trained, data.sequences(24, 4, 3))
