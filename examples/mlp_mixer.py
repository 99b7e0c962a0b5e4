"""A score-based diffusion model with an MLP-Mixer, as in Equinox's tutorial.

Sources: Song et al. (2021), Score-Based Generative Modeling through Stochastic Differential Equations;
Tolstikhin et al. (2021), MLP-Mixer: An all-MLP Architecture for Vision.
"""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from _data import make_labelled_images
from _train import Network, train
from jaxtyping import Array, Float

END_TIME = 10.0


class MixerBlock(eqx.Module):
    """A perceptron over the patches, then one over the channels."""

    patch_mixer: eqx.nn.MLP
    hidden_mixer: eqx.nn.MLP
    norm1: eqx.nn.LayerNorm
    norm2: eqx.nn.LayerNorm

    def __init__(
        self, patches: int, hidden_size: int, mix_patch_size: int, mix_hidden_size: int, *, key: Array
    ) -> None:
        patch_key, hidden_key = jax.random.split(key)
        self.patch_mixer = eqx.nn.MLP(patches, patches, mix_patch_size, depth=1, key=patch_key)
        self.hidden_mixer = eqx.nn.MLP(hidden_size, hidden_size, mix_hidden_size, depth=1, key=hidden_key)
        self.norm1 = eqx.nn.LayerNorm((hidden_size, patches))
        self.norm2 = eqx.nn.LayerNorm((patches, hidden_size))

    def __call__(self, y: Float[Array, "c p"]) -> Float[Array, "c p"]:
        y = y + jax.vmap(self.patch_mixer)(self.norm1(y))
        y = y.T  # [p, c]
        y = y + jax.vmap(self.hidden_mixer)(self.norm2(y))
        return y.T  # [c, p]


class Mixer2d(eqx.Module):
    """The score of a noisy image at a time, which is a further channel of the image."""

    conv_in: eqx.nn.Conv2d
    conv_out: eqx.nn.ConvTranspose2d
    blocks: list[MixerBlock]
    norm: eqx.nn.LayerNorm

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        patch_size: int,
        hidden_size: int,
        mix_patch_size: int,
        mix_hidden_size: int,
        depth: int,
        *,
        key: Array,
    ) -> None:
        channels, height, width = image_shape
        patches = (height // patch_size) * (width // patch_size)
        in_key, out_key, *block_keys = jax.random.split(key, 2 + depth)
        self.conv_in = eqx.nn.Conv2d(channels + 1, hidden_size, patch_size, stride=patch_size, key=in_key)
        self.conv_out = eqx.nn.ConvTranspose2d(hidden_size, channels, patch_size, stride=patch_size, key=out_key)
        self.blocks = [
            MixerBlock(patches, hidden_size, mix_patch_size, mix_hidden_size, key=block_key) for block_key in block_keys
        ]
        self.norm = eqx.nn.LayerNorm((hidden_size, patches))

    def __call__(self, t: Float[Array, ""], y: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        _, height, width = y.shape
        time = jnp.broadcast_to(t / END_TIME, (1, height, width))
        y = self.conv_in(jnp.concatenate([y, time]))
        hidden_size, patch_height, patch_width = y.shape
        y = y.reshape(hidden_size, patch_height * patch_width)  # [c, p]
        for block in self.blocks:
            y = block(y)
        y = self.norm(y)
        return self.conv_out(y.reshape(hidden_size, patch_height, patch_width))


def single_loss_fn(model: Mixer2d, image: Float[Array, "c h w"], t: Float[Array, ""], key: Array) -> Array:
    """The weighted error of the score at one time, where the integral of the noise's rate is the time itself."""
    mean = image * jnp.exp(-0.5 * t)
    std = jnp.sqrt(jnp.maximum(1 - jnp.exp(-t), 1e-5))
    noise = jax.random.normal(key, image.shape)
    score = model(t, mean + std * noise)
    weight = 1 - jnp.exp(-t)
    return weight * jnp.mean(jnp.square(score + noise / std))


def batch_loss_fn(model: Mixer2d, images: Float[Array, "n c h w"], key: Array) -> Array:
    """The mean over the batch, with times spread over the whole interval to lower the variance."""
    batch = images.shape[0]
    time_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(time_key, (batch,), minval=0, maxval=END_TIME / batch)
    t = t + (END_TIME / batch) * jnp.arange(batch, dtype=t.dtype)
    return jnp.mean(jax.vmap(functools.partial(single_loss_fn, model))(images, t, jax.random.split(noise_key, batch)))


def make_batch(key: Array, *, batch: int = 64, size: int = 28) -> tuple[Array, Array]:
    """Images, and the key of the times and of the noise."""
    data_key, noise_key = jax.random.split(key)
    images, _ = make_labelled_images(data_key, batch, 1, size, 10)
    return images, noise_key


def build(
    key: Array,
    *,
    batch: int = 64,
    size: int = 28,
    patch_size: int = 4,
    hidden_size: int = 64,
    mix_patch_size: int = 128,
    mix_hidden_size: int = 64,
    depth: int = 4,
) -> Network:
    """The network and a batch for it."""
    model = Mixer2d((1, size, size), patch_size, hidden_size, mix_patch_size, mix_hidden_size, depth, key=key)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params: Mixer2d, images: Array, noise_key: Array) -> Array:
        return batch_loss_fn(eqx.combine(params, static), images, noise_key)

    return Network(loss_fn, params, make_batch(key, batch=batch, size=size))


def main() -> None:
    """Train on images of stripes."""
    key = jax.random.key(0)
    train(build(key), map(make_batch, jax.random.split(key, 100)), learning_rate=0.02)


if __name__ == "__main__":
    main()
