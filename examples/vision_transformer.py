"""A vision transformer, as in Equinox's tutorial: one image at a time, and the loss over the batch by `vmap`.

Source: Dosovitskiy et al. (2021), An Image is Worth 16x16 Words.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _data import make_labelled_images
from _train import Network, train
from jaxtyping import Array, Float


class PatchEmbedding(eqx.Module):
    """A linear function of each patch of the image."""

    linear: eqx.nn.Linear
    patch_size: int = eqx.field(static=True)

    def __init__(self, channels: int, width: int, patch_size: int, key: Array) -> None:
        self.patch_size = patch_size
        self.linear = eqx.nn.Linear(patch_size**2 * channels, width, key=key)

    def __call__(self, image: Float[Array, "c h w"]) -> Float[Array, "t d"]:
        channels, height, width = image.shape
        size = self.patch_size
        patches = image.reshape(channels, height // size, size, width // size, size)  # [c, i, p, j, q]
        patches = patches.transpose(1, 3, 0, 2, 4).reshape(-1, channels * size**2)  # [i * j, c * p * q]
        return jax.vmap(self.linear)(patches)


class AttentionBlock(eqx.Module):
    """Attention and a perceptron, each on normalised tokens and added to them."""

    layer_norm1: eqx.nn.LayerNorm
    layer_norm2: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    linear1: eqx.nn.Linear
    linear2: eqx.nn.Linear
    dropout1: eqx.nn.Dropout
    dropout2: eqx.nn.Dropout

    def __init__(self, width: int, hidden: int, heads: int, dropout: float, key: Array) -> None:
        key1, key2, key3 = jax.random.split(key, 3)
        self.layer_norm1 = eqx.nn.LayerNorm(width)
        self.layer_norm2 = eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(heads, width, key=key1)
        self.linear1 = eqx.nn.Linear(width, hidden, key=key2)
        self.linear2 = eqx.nn.Linear(hidden, width, key=key3)
        self.dropout1 = eqx.nn.Dropout(dropout)
        self.dropout2 = eqx.nn.Dropout(dropout)

    def __call__(self, x: Float[Array, "t d"], key: Array) -> Float[Array, "t d"]:
        key1, key2 = jax.random.split(key)
        normalised = jax.vmap(self.layer_norm1)(x)
        x = x + self.attention(normalised, normalised, normalised)
        h = jax.vmap(self.linear1)(jax.vmap(self.layer_norm2)(x))
        h = self.dropout1(jax.nn.gelu(h), key=key1)
        h = self.dropout2(jax.vmap(self.linear2)(h), key=key2)
        return x + h


class VisionTransformer(eqx.Module):
    """Patches with a class token and positions through attention blocks; the class token gives the logits."""

    patch_embedding: PatchEmbedding
    positional_embedding: Array
    cls_token: Array
    attention_blocks: list[AttentionBlock]
    dropout: eqx.nn.Dropout
    mlp: eqx.nn.Sequential

    def __init__(
        self,
        *,
        channels: int,
        patches: int,
        patch_size: int,
        width: int,
        hidden: int,
        heads: int,
        depth: int,
        classes: int,
        dropout: float,
        key: Array,
    ) -> None:
        key1, key2, key3, key4, key5 = jax.random.split(key, 5)
        self.patch_embedding = PatchEmbedding(channels, width, patch_size, key1)
        self.positional_embedding = jax.random.normal(key2, (patches + 1, width))
        self.cls_token = jax.random.normal(key3, (1, width))
        self.attention_blocks = [
            AttentionBlock(width, hidden, heads, dropout, block_key) for block_key in jax.random.split(key4, depth)
        ]
        self.dropout = eqx.nn.Dropout(dropout)
        self.mlp = eqx.nn.Sequential([eqx.nn.LayerNorm(width), eqx.nn.Linear(width, classes, key=key5)])

    def __call__(self, image: Float[Array, "c h w"], key: Array) -> Float[Array, " k"]:
        dropout_key, *block_keys = jax.random.split(key, 1 + len(self.attention_blocks))
        x = self.patch_embedding(image)
        x = jnp.concatenate([self.cls_token, x], axis=0)
        x = x + self.positional_embedding[: x.shape[0]]
        x = self.dropout(x, key=dropout_key)
        for block, block_key in zip(self.attention_blocks, block_keys, strict=True):
            x = block(x, block_key)
        return self.mlp(x[0])


def make_batch(
    key: Array, *, batch: int = 64, channels: int = 3, size: int = 32, classes: int = 10
) -> tuple[Array, Array, Array]:
    """Images, labels, and a dropout key for each image."""
    data_key, dropout_key = jax.random.split(key)
    images, labels = make_labelled_images(data_key, batch, channels, size, classes)
    return images, labels, jax.random.split(dropout_key, batch)


def build(
    key: Array,
    *,
    batch: int = 64,
    channels: int = 3,
    size: int = 32,
    patch_size: int = 4,
    width: int = 64,
    heads: int = 4,
    depth: int = 4,
    mlp_ratio: int = 2,
    classes: int = 10,
) -> Network:
    """The network, at a width of `width`, and a batch for it."""
    model = VisionTransformer(
        channels=channels,
        patches=(size // patch_size) ** 2,
        patch_size=patch_size,
        width=width,
        hidden=mlp_ratio * width,
        heads=heads,
        depth=depth,
        classes=classes,
        dropout=0.1,
        key=key,
    )
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params: VisionTransformer, images: Array, labels: Array, keys: Array) -> Array:
        model = eqx.combine(params, static)
        logits = jax.vmap(model)(images, keys)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Network(loss_fn, params, make_batch(key, batch=batch, channels=channels, size=size, classes=classes))


def main() -> None:
    """Train on stripes of ten directions."""
    key = jax.random.key(0)
    train(build(key), map(make_batch, jax.random.split(key, 100)), learning_rate=0.02)


if __name__ == "__main__":
    main()
