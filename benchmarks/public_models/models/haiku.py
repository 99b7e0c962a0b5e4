"""Haiku's networks, and networks of its layers.

Batch normalisation uses the batch's statistics; the running ones are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from public_models import data
from public_models.losses import classification, squares
from public_models.trial import Trial, model

KEY = jax.random.key(0)


def _trial(loss: Callable[..., Any], batch: data.Batch) -> Trial:
    """The trial of a loss that calls Haiku's modules."""
    import haiku as hk

    network = hk.without_apply_rng(hk.transform_with_state(loss))
    params, state = network.init(KEY, *map(jnp.asarray, batch(0)))
    return Trial(lambda params, *batch: network.apply(params, state, *batch)[0], params, batch)


@model("Haiku", "MLP", "dm-haiku")
def mlp() -> Trial:
    import haiku as hk

    return _trial(lambda x, y: squares(hk.nets.MLP([64, 64, 3])(x), y), data.regression((8,), (3,)))


@model("Haiku", "ResNet", "dm-haiku")
def resnet() -> Trial:
    import haiku as hk

    def loss(x: Any, labels: Any) -> Any:
        network = hk.nets.ResNet(
            (1, 1, 1, 1),
            10,
            bottleneck=False,
            channels_per_group=(16, 16, 32, 32),
        )
        return classification(network(x, is_training=True), labels)

    return _trial(loss, data.images(32))


@model("Haiku", "ResNetV2", "dm-haiku")
def resnet_v2() -> Trial:
    import haiku as hk

    def loss(x: Any, labels: Any) -> Any:
        network = hk.nets.ResNet((1, 1, 1, 1), 10, resnet_v2=True, channels_per_group=(16, 16, 32, 32))
        return classification(network(x, is_training=True), labels)

    return _trial(loss, data.images(32))


@model("Haiku", "MobileNetV1", "dm-haiku")
def mobilenet() -> Trial:
    import haiku as hk

    def loss(x: Any, labels: Any) -> Any:
        network = hk.nets.MobileNetV1((1, 2, 1, 2, 1), (16, 32, 32, 64, 64), 10)
        return classification(network(x, is_training=True), labels)

    return _trial(loss, data.images(32))


@model("Haiku", "VQ-VAE", "dm-haiku", note="the codebook's part of the loss grows as more codes are used")
def vq_vae() -> Trial:
    import haiku as hk

    def loss(x: Any, _: Any) -> Any:
        hidden = jax.nn.relu(hk.Conv2D(16, 4, stride=2)(x))
        hidden = jax.nn.relu(hk.Conv2D(32, 4, stride=2)(hidden))
        coded = hk.nets.VectorQuantizer(8, 32, commitment_cost=0.25)(hk.Conv2D(8, 1)(hidden), is_training=True)
        hidden = jax.nn.relu(hk.Conv2D(32, 3)(coded["quantize"]))
        hidden = jax.nn.relu(hk.Conv2DTranspose(16, 4, stride=2)(hidden))
        return squares(hk.Conv2DTranspose(3, 4, stride=2)(hidden), x) / x[0].size + coded["loss"]

    return _trial(loss, data.images(16))


def _recurrent(core: Callable[[], Any]) -> Trial:
    import haiku as hk

    def loss(x: Any, labels: Any) -> Any:
        cell = core()
        outputs, _ = hk.dynamic_unroll(cell, x, cell.initial_state(len(x)), time_major=False)
        return classification(hk.Linear(3)(outputs[:, -1]), labels)

    return _trial(loss, data.sequences(24, 4, 3))


@model("Haiku", "LSTM", "dm-haiku")
def lstm() -> Trial:
    import haiku as hk

    return _recurrent(lambda: hk.LSTM(32))


@model("Haiku", "GRU", "dm-haiku")
def gru() -> Trial:
    import haiku as hk

    return _recurrent(lambda: hk.GRU(32))


@model("Haiku", "Conv2DLSTM", "dm-haiku")
def conv_lstm() -> Trial:
    import haiku as hk

    def loss(x: Any, _: Any) -> Any:
        """Of the next frame, while the picture moves by a pixel a frame."""
        frames = jnp.stack([jnp.roll(x, shift, 1) for shift in range(6)])
        core = hk.Conv2DLSTM(x.shape[1:3], 8, 3)
        outputs, _ = hk.dynamic_unroll(core, frames[:-1], core.initial_state(len(x)))
        predicted = hk.BatchApply(hk.Conv2D(3, 3))(outputs)
        return squares(predicted, frames[1:]) / frames[0].size

    return _trial(loss, data.images(8, count=8))


@model("Haiku", "Transformer", "dm-haiku")
def transformer() -> Trial:
    import haiku as hk

    vocabulary, length, width, heads = 64, 16, 32, 4
    initialiser = hk.initializers.VarianceScaling(1.0)

    def norm(x: Any) -> Any:
        return hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)(x)

    def loss(tokens: Any) -> Any:
        mask = jnp.tril(jnp.ones((1, 1, length, length)))
        positions = hk.get_parameter("positions", (length, width), init=hk.initializers.TruncatedNormal(0.02))
        x = hk.Embed(vocabulary, width)(tokens[:, :-1]) + positions
        for _ in range(2):
            attention = hk.MultiHeadAttention(heads, width // heads, w_init=initialiser, model_size=width)
            y = norm(x)
            x = x + attention(y, y, y, mask=mask)
            x = x + hk.Linear(width)(jax.nn.gelu(hk.Linear(4 * width)(norm(x))))
        return classification(hk.Linear(vocabulary)(norm(x)), tokens[:, 1:])

    return _trial(loss, data.tokens(vocabulary, length))
