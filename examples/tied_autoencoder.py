"""An autoencoder with tied weights, in plain JAX: each layer of the decoder is the transpose of one of the encoder.

Source: Vincent et al. (2010), Stacked Denoising Autoencoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from _data import make_labelled_images
from _train import Network, train
from jaxtyping import Array, Float


def apply_model(params: Any, x: Float[Array, "n i"]) -> Float[Array, "n i"]:
    """Encode by each layer's weight, decode by its transpose; the code and the result are not bounded."""
    last = len(params) - 1
    for k, layer in enumerate(params):
        x = x @ layer["weight"] + layer["encoder_bias"]
        x = x if k == last else jnp.tanh(x)
    for k, layer in reversed(list(enumerate(params))):
        x = x @ layer["weight"].T + layer["decoder_bias"]
        x = x if k == 0 else jnp.tanh(x)
    return x


def loss_fn(params: Any, noisy: Float[Array, "n i"], clean: Float[Array, "n i"]) -> Array:
    """Mean squared error of the denoised images."""
    return jnp.mean(jnp.square(apply_model(params, noisy) - clean))


def make_batch(key: Array, *, batch: int = 128, size: int = 16) -> tuple[Array, Array]:
    """Images with some of their pixels zeroed, and the images."""
    image_key, mask_key = jax.random.split(key)
    images, _ = make_labelled_images(image_key, batch, 1, size, 4)
    clean = images.reshape(batch, -1)  # [n, h * w]
    return jnp.where(jax.random.bernoulli(mask_key, 0.1, clean.shape), 0.0, clean), clean


def build(key: Array, *, batch: int = 128, size: int = 16, widths: Sequence[int] = (128, 32)) -> Network:
    """The network and a batch for it."""
    sizes = (size**2, *widths)
    params = [
        {
            "weight": jax.random.normal(k, (i, o)) * i**-0.5,
            "encoder_bias": jnp.zeros(o),
            "decoder_bias": jnp.zeros(i),
        }
        for k, i, o in zip(jax.random.split(key, len(widths)), sizes[:-1], sizes[1:], strict=True)
    ]
    return Network(loss_fn, params, make_batch(key, batch=batch, size=size))


def main() -> None:
    """Train on images of stripes."""
    key = jax.random.key(0)
    train(build(key), map(make_batch, jax.random.split(key, 200)), learning_rate=0.01)


if __name__ == "__main__":
    main()
