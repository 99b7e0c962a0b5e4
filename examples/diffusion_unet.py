"""A denoising diffusion model with a U-Net, in Flax Linen: the time enters every block.

Source: Ho et al. (2020), Denoising Diffusion Probabilistic Models.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from _data import make_discs
from _train import Network, train
from jaxtyping import Array, Float

TIMES = 1000
"""The steps of the diffusion."""


def time_features(t: Float[Array, " n"], width: int) -> Float[Array, "n d"]:
    """Sines and cosines of the time, at frequencies from 1 to 1 / 10,000."""
    frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.linspace(0.0, 1.0, width // 2))
    angles = t[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class ResidualBlock(nn.Module):
    """Two convolutions of normalised activations, the time between them, added to what came in."""

    width: int
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], time: Float[Array, "n d"]) -> Float[Array, "n h w e"]:
        h = nn.Conv(self.width, (3, 3))(nn.swish(nn.GroupNorm(self.groups)(x)))
        h = h + nn.Dense(self.width)(nn.swish(time))[:, None, None, :]
        h = nn.Conv(self.width, (3, 3))(nn.swish(nn.GroupNorm(self.groups)(h)))
        if x.shape[-1] != self.width:
            x = nn.Conv(self.width, (1, 1))(x)
        return x + h


class AttentionBlock(nn.Module):
    """Attention between all pixels."""

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        pixels = nn.GroupNorm(self.groups)(x).reshape(x.shape[0], -1, x.shape[-1])  # [n, h * w, c]
        return x + nn.MultiHeadDotProductAttention(1)(pixels).reshape(x.shape)


class UNet(nn.Module):
    """The noise in a noisy image at a time."""

    width: int
    depth: int
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], t: Float[Array, " n"]) -> Float[Array, "n h w c"]:
        channels = x.shape[-1]
        time = nn.Dense(4 * self.width)(time_features(t, self.width))
        time = nn.Dense(4 * self.width)(nn.swish(time))

        x = nn.Conv(self.width, (3, 3))(x)
        skips = [x]
        for level in range(self.depth):
            x = ResidualBlock(self.width * 2**level, self.groups)(x, time)
            skips.append(x)
            x = nn.Conv(x.shape[-1], (3, 3), strides=(2, 2))(x)
        x = ResidualBlock(x.shape[-1], self.groups)(x, time)
        x = AttentionBlock(self.groups)(x)
        x = ResidualBlock(x.shape[-1], self.groups)(x, time)
        for level in reversed(range(self.depth)):
            batch, height, width, features = x.shape
            x = jax.image.resize(x, (batch, 2 * height, 2 * width, features), "nearest")
            x = nn.Conv(features, (3, 3))(x)
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = ResidualBlock(self.width * 2**level, self.groups)(x, time)
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        return nn.Conv(channels, (3, 3))(nn.swish(nn.GroupNorm(self.groups)(x)))


def make_batch(key: Array, *, batch: int = 16, size: int = 32) -> tuple[Array, Array, Array]:
    """Images, times and noise."""
    image_key, time_key, noise_key = jax.random.split(key, 3)
    images, _ = make_discs(image_key, batch, 1, size)
    return images, jax.random.randint(time_key, (batch,), 0, TIMES), jax.random.normal(noise_key, images.shape)


def build(key: Array, *, batch: int = 16, size: int = 32, width: int = 32, depth: int = 2, groups: int = 4) -> Network:
    """The network and a batch for it."""
    model = UNet(width, depth, groups)
    images, times, noise = make_batch(key, batch=batch, size=size)
    params = jax.jit(model.init)(key, images, times.astype(images.dtype))["params"]

    def loss_fn(params: Any, images: Array, times: Array, noise: Array) -> Array:
        kept = jnp.cumprod(1 - jnp.linspace(1e-4, 0.02, TIMES))[times][:, None, None, None]
        noisy = jnp.sqrt(kept) * images + jnp.sqrt(1 - kept) * noise
        predicted = jnp.asarray(model.apply({"params": params}, noisy, times.astype(images.dtype)))
        return jnp.mean(jnp.square(predicted - noise))

    return Network(loss_fn, params, (images, times, noise))


def main() -> None:
    """Train on images of discs."""
    key = jax.random.key(0)
    train(build(key), map(make_batch, jax.random.split(key, 50)), learning_rate=0.02)


if __name__ == "__main__":
    main()
