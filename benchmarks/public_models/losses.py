"""The losses that most models are trained with."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jax import Array


def classification(logits: Array, labels: Array) -> Array:
    """The mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


def squares(outputs: Array, targets: Array) -> Array:
    """Half the mean square of the residual, summed over outputs."""
    return 0.5 * jnp.mean(jnp.sum(jnp.square(outputs - targets).reshape(outputs.shape[0], -1), -1))
