"""Keras's applications and networks of its examples, with the JAX backend.

Batch normalisation uses the batch's statistics, and dropout keeps one mask. The running statistics and the seeds are
constants.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from public_models import data
from public_models.losses import classification, squares
from public_models.trial import Trial, model


def _keras() -> Any:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    keras.utils.set_random_seed(0)
    return keras


def _trial(network: Any, loss: Callable[..., Any], batch: data.Batch) -> Trial:
    """The trial of a Keras model and `loss(outputs of a call, *batch)`."""
    names = [variable.path for variable in network.trainable_variables]
    params = {variable.path: variable.value for variable in network.trainable_variables}
    if len(params) != len(names):
        raise ValueError("two variables have one path")
    others = [variable.value for variable in network.non_trainable_variables]

    def loss_fn(params: Any, *batch: Any) -> Any:
        def call(x: Any) -> Any:
            return network.stateless_call([params[name] for name in names], others, x, training=True)[0]

        return loss(call, *batch)

    return Trial(loss_fn, params, batch)


def _classify(call: Callable[[Any], Any], x: Any, labels: Any) -> Any:
    return classification(call(x), labels)


def _classify_pixels(call: Callable[[Any], Any], x: Any, labels: Any) -> Any:
    """For a network that scales pixels between 0 and 255 itself."""
    return classification(call(128 + 64 * x), labels)


def _predict_next(call: Callable[[Any], Any], tokens: Any) -> Any:
    """The next token, at every position."""
    return classification(call(tokens[:, :-1]), tokens[:, 1:])


def _predict_last(call: Callable[[Any], Any], tokens: Any) -> Any:
    """The last token, as the class of those before it."""
    return classification(call(tokens[:, :-1]), tokens[:, -1])


def _images(network: Any) -> Trial:
    return _trial(network, _classify, data.images(32))


def _settings() -> dict[str, Any]:
    return {"input_shape": (32, 32, 3), "weights": None, "classes": 10, "classifier_activation": None}


@model("Keras", "EfficientNet", "keras")
def efficientnet() -> Trial:
    _keras()
    from keras.src.applications.efficientnet import EfficientNet

    network = EfficientNet(0.25, 0.25, 32, **_settings())  # EfficientNetB0 has width and depth 1
    return _trial(network, _classify_pixels, data.images(32))


@model("Keras", "MobileNet", "keras")
def mobilenet() -> Trial:
    return _images(_keras().applications.MobileNet(alpha=0.25, dropout=0.0, **_settings()))


@model("Keras", "MobileNetV2", "keras")
def mobilenet_v2() -> Trial:
    return _images(_keras().applications.MobileNetV2(alpha=0.35, **_settings()))


@model("Keras", "MobileNetV3Small", "keras")
def mobilenet_v3() -> Trial:
    network = _keras().applications.MobileNetV3Small(alpha=0.5, include_preprocessing=False, **_settings())
    return _images(network)


@model("Keras", "ConvNeXt", "keras")
def convnext() -> Trial:
    _keras()
    from keras.src.applications.convnext import ConvNeXt

    network = ConvNeXt([1, 1, 1, 1], [16, 32, 48, 64], include_preprocessing=False, **_settings())
    return _images(network)


@model("Keras", "DenseNet", "keras")
def densenet() -> Trial:
    _keras()
    from keras.src.applications.densenet import DenseNet

    return _images(DenseNet([2, 2, 2, 2], **_settings()))


@model("Keras", "ResNet", "keras")
def resnet() -> Trial:
    _keras()
    from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1

    def stacks(x: Any) -> Any:
        x = stack_residual_blocks_v1(x, 16, 2, stride1=1, name="conv2")
        return stack_residual_blocks_v1(x, 32, 2, name="conv3")

    return _images(ResNet(stacks, preact=False, use_bias=True, **_settings()))


@model("Keras", "ResNetV2", "keras")
def resnet_v2() -> Trial:
    _keras()
    from keras.src.applications.resnet import ResNet, stack_residual_blocks_v2

    def stacks(x: Any) -> Any:
        x = stack_residual_blocks_v2(x, 16, 2, name="conv2")
        return stack_residual_blocks_v2(x, 32, 2, stride1=1, name="conv3")

    return _images(ResNet(stacks, preact=True, use_bias=True, **_settings()))


@model("Keras", "Text transformer", "keras")
def text_transformer() -> Trial:
    keras = _keras()
    vocabulary, length, width, heads = 64, 16, 32, 4

    class Embeddings(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__(name="embeddings")
            self.tokens = keras.layers.Embedding(vocabulary, width, name="tokens")
            self.positions = keras.layers.Embedding(length, width, name="positions")

        def call(self, tokens: Any) -> Any:
            return self.tokens(tokens) + self.positions(keras.ops.arange(length))

    tokens = keras.Input((length,), dtype="int32")
    x = Embeddings()(tokens)
    for block in range(2):
        attention = keras.layers.MultiHeadAttention(heads, width // heads, name=f"attention_{block}")
        x = keras.layers.LayerNormalization(name=f"norm_{block}_1")(x + attention(x, x, use_causal_mask=True))
        hidden = keras.layers.Dense(4 * width, activation="relu", name=f"hidden_{block}")(x)
        x = x + keras.layers.Dense(width, name=f"output_{block}")(hidden)
        x = keras.layers.LayerNormalization(name=f"norm_{block}_2")(x)
    network = keras.Model(tokens, keras.layers.Dense(vocabulary, name="head")(x))
    return _trial(network, _predict_next, data.tokens(vocabulary, length))


@model("Keras", "Bidirectional LSTM", "keras")
def bidirectional_lstm() -> Trial:
    keras = _keras()
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((16,), dtype="int32"),
            layers.Embedding(16, 24),
            layers.Bidirectional(layers.LSTM(24, return_sequences=True)),
            layers.Bidirectional(layers.LSTM(24)),
            layers.Dense(16),
        ]
    )
    return _trial(network, _predict_last, data.tokens(16, 16, count=32))


@model("Keras", "GRU", "keras")
def gru() -> Trial:
    keras = _keras()
    network = keras.Sequential([keras.Input((24, 4)), keras.layers.GRU(32), keras.layers.Dense(3)])
    return _trial(network, _classify, data.sequences(24, 4, 3))


@model("Keras", "ConvLSTM", "keras")
def conv_lstm() -> Trial:
    keras = _keras()
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((5, 8, 8, 3)),
            layers.ConvLSTM2D(8, 5, padding="same", return_sequences=True, activation="relu"),
            layers.BatchNormalization(),
            layers.ConvLSTM2D(8, 3, padding="same", return_sequences=True, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv3D(3, 3, padding="same"),
        ]
    )

    def loss(call: Callable[[Any], Any], x: Any, _: Any) -> Any:
        """Of the next frame, while the picture moves by a pixel a frame."""
        frames = jnp.stack([jnp.roll(x, shift, 1) for shift in range(6)], 1)
        return squares(call(frames[:, :-1]), frames[:, 1:]) / frames[0, 1:].size

    return _trial(network, loss, data.images(8, count=8))


@model("Keras", "Autoencoder", "keras")
def autoencoder() -> Trial:
    keras = _keras()
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(16, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(2, padding="same"),
            layers.Conv2D(16, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(2, padding="same"),
            layers.Conv2DTranspose(16, 3, strides=2, activation="relu", padding="same"),
            layers.Conv2DTranspose(16, 3, strides=2, activation="relu", padding="same"),
            layers.Conv2D(3, 3, padding="same"),
        ]
    )

    def loss(call: Callable[[Any], Any], x: Any, _: Any) -> Any:
        return squares(call(x), x) / x[0].size

    return _trial(network, loss, data.images(16))
