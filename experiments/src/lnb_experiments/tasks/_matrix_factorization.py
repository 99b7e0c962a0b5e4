"""Section 5.1 of the paper: a two-layer linear network that fits a badly conditioned matrix.

    loss = 1/n sum_i |W1 W2 x_i - y_i|^2,   y_i = A x_i

The paper sums over the n samples; the mean differs by the constant n, which no optimizer here but
plain gradient descent can tell, and keeps gradients within the range of 32 bits. Every step sees all
samples. The sizes are the paper's, ten times those of Recht's notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.runs._training import Problem

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class MatrixFactorizationSettings:
    """Sizes of the problem."""

    samples: int = 10_000
    """Number of samples, all of them in every batch."""
    inputs: int = 60
    """Length of x."""
    hidden: int = 60
    """Length of W2 x."""
    outputs: int = 100
    """Length of y."""
    condition: float = 1e5
    """Ratio of the largest to the smallest row scale, or singular value, of A."""


class Factors(NamedTuple):
    """The network's parameters."""

    first: Float[Array, "hidden inputs"]  # W2
    second: Float[Array, "outputs hidden"]  # W1


class Batch(NamedTuple):
    """The samples."""

    x: Float[Array, "n inputs"]
    y: Float[Array, "n outputs"]


def matrix_factorization(
    draw: Callable[[np.random.Generator, MatrixFactorizationSettings], np.ndarray],
    settings: MatrixFactorizationSettings,
    seed: int,
) -> Problem:
    """The problem for a matrix A that `draw` gives, [outputs, inputs].

    Args:
        draw: `row_scaled` or `singular_values_scaled`.
        settings: the sizes.
        seed: of A, the samples and the initial weights.

    Returns:
        A problem with the metric `relative_loss`, the loss in units of its initial value.

    Raises:
        ExperimentError: a size is not positive, or the condition is below 1.

    Source: Recht (2017), Gradient descent doesn't find a local minimum in a two layer linear net.
    """
    sizes = (settings.samples, settings.inputs, settings.hidden, settings.outputs)
    if min(sizes) < 1 or settings.condition < 1:
        raise ExperimentError(f"sizes must be positive and `condition` at least 1, got {settings}.")
    random = np.random.default_rng(seed)
    matrix = draw(random, settings)
    x = random.standard_normal((settings.samples, settings.inputs))
    batch = Batch(*(jnp.asarray(array, jnp.float32) for array in (x, x @ matrix.T)))
    params = Factors(
        jnp.asarray(random.standard_normal((settings.hidden, settings.inputs)), jnp.float32),
        jnp.asarray(random.standard_normal((settings.outputs, settings.hidden)), jnp.float32),
    )
    measure = jax.jit(_loss_fn)
    initial = float(measure(params, batch))

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        del epoch
        if start == 0:
            yield batch

    def evaluate(params: Factors) -> Mapping[str, float]:
        return {"relative_loss": float(measure(params, batch)) / initial}

    return Problem(params, _loss_fn, batches, 1, evaluate, _residuals)


def row_scaled(
    random: np.random.Generator, settings: MatrixFactorizationSettings
) -> Float[np.ndarray, "outputs inputs"]:
    """Recht's matrix: entries uniform in [0, 1), rows scaled evenly from 1 to 1 / condition.

    Its condition number is that of its rows' scales only in name: about 100 for these sizes.
    """
    scales = np.linspace(1, 1 / settings.condition, settings.outputs)
    return scales[:, None] * random.random((settings.outputs, settings.inputs))


def singular_values_scaled(
    random: np.random.Generator, settings: MatrixFactorizationSettings
) -> Float[np.ndarray, "outputs inputs"]:
    """A matrix that has the condition number: singular values fall geometrically from 1.

    Its norm is that which `row_scaled` has on average, so that the initial losses are alike.
    """
    rank = min(settings.outputs, settings.inputs)
    left, right = (
        np.linalg.qr(random.standard_normal((size, rank)))[0] for size in (settings.outputs, settings.inputs)
    )
    values = np.geomspace(1, 1 / settings.condition, rank)
    norm = np.sqrt(settings.outputs * settings.inputs) / 3  # E[scale^2] E[entry^2] is 1/9
    return (left * (values * norm / np.linalg.norm(values))) @ right.T


def _loss_fn(params: Factors, batch: Batch) -> Array:
    return jnp.sum(jnp.square(_residuals(params, batch)), axis=1).mean()


def _residuals(params: Factors, batch: Batch) -> Float[Array, "n outputs"]:
    return (batch.x @ params.first.T) @ params.second.T - batch.y
