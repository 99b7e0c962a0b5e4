"""The networks whose steps are timed: two multilayer perceptrons, and four of the examples at a working size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gpt
import jax
import optax
import resnet
import unet_segmentation
import vision_transformer
from _train import Network
from jax import Array

from lnb_experiments import Dense, apply_mlp, init_mlp


def perceptron(sizes: Sequence[int], batch: int) -> Network:
    """Dense layers with tanh between them, a softmax, and random data."""
    weights, inputs, classes = jax.random.split(jax.random.key(0), 3)

    def loss_fn(layers: Sequence[Dense], x: Array, labels: Array) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(apply_mlp(layers, x), labels).mean()

    x = jax.random.uniform(inputs, (batch, sizes[0]))
    labels = jax.random.randint(classes, (batch,), 0, sizes[-1])
    return Network(loss_fn, init_mlp(weights, sizes), (x, labels))


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "mnist-mlp": partial(perceptron, (784, 800, 10), 1000),
    "wide-mlp": partial(perceptron, (3072, 2048, 2048, 10), 256),
    "vit": lambda: vision_transformer.build(jax.random.key(0), width=192, heads=6, depth=6, batch=64),
    "unet": lambda: unet_segmentation.build(jax.random.key(0), size=96, batch=16),
    "gpt": lambda: gpt.build(jax.random.key(0), width=256, heads=8, depth=6, length=256, batch=8),
    "resnet": lambda: resnet.build(jax.random.key(0), batch=32),
}
"""By name, what builds each."""

Logits = Callable[[Any, Any], tuple[Array, None]]
"""From parameters and batch to the logits, without a mask."""

LOGITS: Mapping[str, Logits] = dict.fromkeys(
    ("mnist-mlp", "wide-mlp"), lambda params, batch: (apply_mlp(params, batch[0]), None)
)
"""The logits of the networks that K-FAC runs on."""
