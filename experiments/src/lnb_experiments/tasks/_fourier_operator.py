"""A Fourier neural operator in one dimension: from the start of Burgers' equation to its solution at time 1.

    u_t + u u_x = nu u_xx  on a circle of circumference 2 pi
    v_(l+1)(x) = gelu(W v_l(x) + b + F^-1(R F(v_l))(x)),   R complex for each of the lowest modes

The starts are random sums of the lowest waves, and the solutions come from a spectral method in 64 bits.

Source: Li et al. (2021), Fourier neural operator for parametric partial differential equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import shuffled_batches
from lnb_experiments.runs._training import Problem
from lnb_experiments.tasks._networks import Dense, apply_dense, apply_mlp, init_dense, init_mlp

if TYPE_CHECKING:
    from jaxtyping import Complex, Float

# The data is the same for all seeds of a run, which change its weights and batches.
_DATA_SEED = 0
_TIME_STEPS = 100


@dataclass(frozen=True)
class FourierOperatorSettings:
    """Hyper-parameters of the data and of the network."""

    points: int = 128
    """Points of the circle, an even number."""
    waves: int = 4
    """Waves that a start is the sum of."""
    viscosity: float = 0.1
    """The factor nu of the second derivative."""
    width: int = 32
    """Channels."""
    modes: int = 16
    """Lowest modes that a layer acts on."""
    depth: int = 4
    """Layers."""
    examples: int = 1000
    """Starts to train on."""
    validation_examples: int = 200
    """Other starts that measure a run."""
    batch_size: int = 20
    """Starts in a batch."""


class Batch(NamedTuple):
    """Starts and solutions."""

    start: Float[Array, "n x"]
    end: Float[Array, "n x"]


class Layer(NamedTuple):
    """A function of each point's channels, and a matrix for each mode, its real and its imaginary part."""

    point: Dense
    real: Float[Array, "m i o"]
    imaginary: Float[Array, "m i o"]


class FourierOperator(NamedTuple):
    """The network's parameters."""

    lift: Dense
    layers: tuple[Layer, ...]
    project: tuple[Dense, ...]


def fourier_operator(settings: FourierOperatorSettings, seed: int) -> Problem:
    """A Fourier neural operator trained on the mean relative error of a solution.

    Args:
        settings: of the data and of the network.
        seed: of the initial weights and of the order of the examples.

    Returns:
        A problem with the metric `validation_loss`, the mean of |error| / |solution| over other starts.

    Raises:
        ExperimentError: a setting is out of its range.
    """
    _check(settings)
    train, validation = _draw(settings)
    loss_fn = partial(_loss_fn, settings.modes)
    measure = jax.jit(loss_fn)

    def evaluate(params: FourierOperator) -> Mapping[str, float]:
        return {"validation_loss": float(measure(params, validation))}

    batches = shuffled_batches(train, settings.batch_size, seed)
    params = init_operator(jax.random.key(seed), settings)
    return Problem(params, loss_fn, batches.epoch, batches.steps_per_epoch, evaluate)


def init_operator(key: Array, settings: FourierOperatorSettings) -> FourierOperator:
    """The initial parameters."""
    lift_key, project_key, *layer_keys = jax.random.split(key, 2 + settings.depth)
    width = settings.width

    def draw_layer(key: Array) -> Layer:
        point_key, mode_key = jax.random.split(key)
        shape = (2, settings.modes, width, width)
        real, imaginary = jax.random.normal(mode_key, shape) / (2 * width) ** 0.5
        return Layer(init_dense(point_key, width, width), real, imaginary)

    return FourierOperator(
        lift=init_dense(lift_key, 3, width),
        layers=tuple(map(draw_layer, layer_keys)),
        project=init_mlp(project_key, (width, 2 * width, 1)),
    )


def apply_operator(params: FourierOperator, start: Float[Array, "n x"], modes: int) -> Float[Array, "n x"]:
    """The solution of each start; a network sees the start's values and the place on the circle."""
    angle = jnp.linspace(0, 2 * jnp.pi, start.shape[1], endpoint=False, dtype=start.dtype)
    places = jnp.broadcast_to(jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1), (*start.shape, 2))
    x = apply_dense(params.lift, jnp.concatenate([start[..., None], places], axis=-1))  # [n, x, c]
    for layer in params.layers:
        x = jax.nn.gelu(apply_dense(layer.point, x) + _convolve(layer, x, modes))
    return apply_mlp(params.project, x, jax.nn.gelu)[..., 0]


def _convolve(layer: Layer, x: Float[Array, "n x i"], modes: int) -> Float[Array, "n x o"]:
    spectrum = jnp.fft.rfft(x, axis=1)[:, :modes]  # [n, m, i]
    spectrum = jnp.einsum("nmi,mio->nmo", spectrum, jax.lax.complex(layer.real, layer.imaginary))
    return jnp.fft.irfft(spectrum, n=x.shape[1], axis=1)


def solve_burgers(
    start: Float[np.ndarray, "n x"], viscosity: float, time: float = 1.0, steps: int = _TIME_STEPS
) -> Float[np.ndarray, "n x"]:
    """The solution at a time, by Runge and Kutta's method for what is left of the modes after their diffusion.

    The highest third of the modes is left out of the product u u_x.
    """
    points = start.shape[1]
    wave = np.arange(points // 2 + 1)
    kept = wave <= points // 3
    step = time / steps
    half = np.exp(-viscosity * wave**2 * step / 2)

    def change(modes: Complex[np.ndarray, "n m"]) -> Complex[np.ndarray, "n m"]:
        return -0.5j * wave * kept * np.fft.rfft(np.square(np.fft.irfft(modes, points, axis=1)), axis=1)

    modes = np.fft.rfft(start, axis=1)
    for _ in range(steps):
        first = change(modes)
        second = change(half * (modes + step / 2 * first))
        third = change(half * modes + step / 2 * second)
        fourth = change(half**2 * modes + step * half * third)
        modes = half**2 * modes + step / 6 * (half**2 * first + 2 * half * (second + third) + fourth)
    return np.fft.irfft(modes, points, axis=1)


def _draw(settings: FourierOperatorSettings) -> tuple[Batch, Batch]:
    """The examples to train on and those that measure a run."""
    random = np.random.default_rng(_DATA_SEED)
    count = settings.examples + settings.validation_examples
    wave = np.arange(1, settings.waves + 1)
    angle = np.linspace(0, 2 * np.pi, settings.points, endpoint=False)
    amplitudes = random.standard_normal((2, count, settings.waves)) / np.sqrt(settings.waves)
    start = amplitudes[0] @ np.cos(wave[:, None] * angle) + amplitudes[1] @ np.sin(wave[:, None] * angle)  # [n, x]
    arrays = [jnp.asarray(array, jnp.float32) for array in (start, solve_burgers(start, settings.viscosity))]
    cut = settings.examples
    return Batch(*(array[:cut] for array in arrays)), Batch(*(array[cut:] for array in arrays))


def _loss_fn(modes: int, params: FourierOperator, batch: Batch) -> Array:
    error = apply_operator(params, batch.start, modes) - batch.end
    return (jnp.linalg.norm(error, axis=1) / jnp.linalg.norm(batch.end, axis=1)).mean()


def _check(settings: FourierOperatorSettings) -> None:
    sizes = (settings.waves, settings.width, settings.depth, settings.examples, settings.validation_examples)
    if min(sizes) < 1 or not settings.viscosity > 0:
        raise ExperimentError(f"sizes and `viscosity` must be positive, got {settings}.")
    if settings.points < 4 or settings.points % 2 or settings.waves > settings.points // 3:
        raise ExperimentError(
            f"`points` must be even and at least three times `waves`, got {settings.points} and {settings.waves}."
        )
    if not 1 <= settings.modes <= settings.points // 2 + 1:
        raise ExperimentError(f"`modes` must be from 1 to {settings.points // 2 + 1}, got {settings.modes}.")
