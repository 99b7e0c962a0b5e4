"""Regression on correlated features of very different scales, as a table of raw measurements has them.

    z ~ N(0, C),   x_i = s_i z_i,   y = teacher(z) + noise

The scales s go from 0.01 to 100, the correlations C are those of a few common factors, and the teacher is a tanh
network of the features without their scales, its outputs standardised. The network sees x as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import shuffled_batches
from lnb_experiments.runs._training import Problem
from lnb_experiments.tasks._networks import Dense, apply_mlp, init_mlp

if TYPE_CHECKING:
    from jaxtyping import Float

# The data is the same for all seeds of a run, which change its weights and batches.
_DATA_SEED = 0


@dataclass(frozen=True)
class RegressionSettings:
    """Hyper-parameters of the data and of the network."""

    features: int = 40
    """Length of x."""
    factors: int = 5
    """Common factors that the features are correlated by."""
    smallest_scale: float = 1e-2
    """Standard deviation of the smallest feature; those of the others grow geometrically."""
    largest_scale: float = 1e2
    """Standard deviation of the largest feature."""
    teacher: int = 20
    """Width of the teacher's hidden layer."""
    noise: float = 0.1
    """Standard deviation of the noise, where the teacher's outputs have 1."""
    hidden: tuple[int, ...] = (256, 256)
    """Width of each hidden layer of the network."""
    examples: int = 25_600
    """Examples to train on."""
    validation_examples: int = 4096
    """Examples that measure a run."""
    batch_size: int = 256
    """Examples in a batch."""


class Batch(NamedTuple):
    """Examples."""

    x: Float[Array, "n i"]
    y: Float[Array, " n"]


def regression(settings: RegressionSettings, seed: int) -> Problem:
    """A ReLU network trained on the mean squared error.

    Args:
        settings: of the data and of the network.
        seed: of the initial weights and of the order of the examples.

    Returns:
        A problem with the metric `validation_loss`, the mean squared error on other examples. The teacher itself has
        the square of `noise`.

    Raises:
        ExperimentError: a setting is out of its range.
    """
    _check(settings)
    train, validation = _draw(settings)
    measure = jax.jit(_loss_fn)

    def evaluate(params: tuple[Dense, ...]) -> Mapping[str, float]:
        return {"validation_loss": float(measure(params, validation))}

    batches = shuffled_batches(train, settings.batch_size, seed)
    params = init_mlp(jax.random.key(seed), (settings.features, *settings.hidden, 1))
    return Problem(params, _loss_fn, batches.epoch, batches.steps_per_epoch, evaluate)


def _loss_fn(params: tuple[Dense, ...], batch: Batch) -> Array:
    outputs = apply_mlp(params, batch.x, jax.nn.relu)[:, 0]
    return jnp.square(outputs - batch.y).mean()


def _draw(settings: RegressionSettings) -> tuple[Batch, Batch]:
    """The examples to train on and those that measure a run."""
    random = np.random.default_rng(_DATA_SEED)
    count = settings.examples + settings.validation_examples
    loadings = random.standard_normal((settings.factors, settings.features))
    z = random.standard_normal((count, settings.factors)) @ loadings
    z += random.standard_normal(z.shape)
    z /= np.sqrt(1 + np.square(loadings).sum(axis=0))  # [n, i], each of variance 1
    scales = np.geomspace(settings.smallest_scale, settings.largest_scale, settings.features)
    x = random.permutation(scales) * z

    weights = random.standard_normal((settings.features, settings.teacher)) / np.sqrt(settings.features)
    outputs = np.tanh(2 * z @ weights) @ random.standard_normal(settings.teacher)
    y = (outputs - outputs.mean()) / outputs.std() + settings.noise * random.standard_normal(count)
    examples = [jnp.asarray(array, jnp.float32) for array in (x, y)]
    return (
        Batch(*(array[: settings.examples] for array in examples)),
        Batch(*(array[settings.examples :] for array in examples)),
    )


def _check(settings: RegressionSettings) -> None:
    sizes = (settings.features, settings.factors, settings.teacher, settings.examples, settings.validation_examples)
    if min(*sizes, *settings.hidden) < 1:
        raise ExperimentError(f"sizes must be positive, got {settings}.")
    if not 0 < settings.smallest_scale <= settings.largest_scale:
        raise ExperimentError(
            "`smallest_scale` must be positive and at most `largest_scale`, "
            f"got {settings.smallest_scale} and {settings.largest_scale}."
        )
    if settings.noise < 0:
        raise ExperimentError(f"`noise` must not be negative, got {settings.noise}.")
