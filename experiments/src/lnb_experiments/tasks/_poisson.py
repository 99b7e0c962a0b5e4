"""Poisson's equation, solved by a network whose loss has the network's own derivatives, by forward mode.

    -Δu = f  on  0 < x, y < 1,   u = 0 on the boundary
    loss = mean (Δu + f)^2 + weight mean u(boundary)^2

f is that of u(x, y) = sin(pi x) sin(pi y) + sin(3 pi x) sin(2 pi y) / 4.

Source: Raissi, Perdikaris and Karniadakis (2019), Physics-informed neural networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import drawn_batches
from lnb_experiments.runs._training import Problem
from lnb_experiments.tasks._networks import Dense, apply_mlp, init_mlp

if TYPE_CHECKING:
    from jaxtyping import Float

# Amplitude and half waves along x and y of each part of the solution.
_WAVES = ((1.0, 1, 1), (0.25, 3, 2))
_GRID = 51


@dataclass(frozen=True)
class PoissonSettings:
    """Hyper-parameters of the loss and of the network."""

    hidden: tuple[int, ...] = (64, 64, 64)
    """Width of each hidden layer."""
    points: int = 1000
    """Points of the equation in a batch."""
    edge_points: int = 100
    """Points on each side of the boundary in a batch."""
    boundary_weight: float = 100.0
    """Weight of the boundary's part of the loss."""


class Batch(NamedTuple):
    """Where the equation and its condition are asked for."""

    points: Float[Array, "n 2"]
    boundary: Float[Array, "m 2"]


def poisson(settings: PoissonSettings, seed: int) -> Problem:
    """A tanh network u(x, y), trained on new points at each step.

    Args:
        settings: of the loss and of the network.
        seed: of the initial weights and of the points.

    Returns:
        A problem with the metric `relative_error`: the norm of u's error on a grid over that of the solution.

    Raises:
        ExperimentError: a setting is out of its range.
    """
    if min(*settings.hidden, settings.points, settings.edge_points) < 1 or settings.boundary_weight < 0:
        raise ExperimentError(f"sizes must be positive and `boundary_weight` not negative, got {settings}.")
    ticks = np.linspace(0.0, 1.0, _GRID)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    solution = _waves(grid, lambda m, n: 1.0)
    points = jnp.asarray(grid, jnp.float32)
    measure = jax.jit(lambda params: apply_mlp(params, points)[:, 0])

    def evaluate(params: tuple[Dense, ...]) -> Mapping[str, float]:
        error = np.asarray(measure(params), np.float64) - solution
        return {"relative_error": float(np.linalg.norm(error) / np.linalg.norm(solution))}

    def draw(key: Array) -> Batch:
        point_key, edge_key = jax.random.split(key)
        along = jax.random.uniform(edge_key, (4, settings.edge_points))
        zero, one = jnp.zeros_like(along[0]), jnp.ones_like(along[0])
        x = jnp.concatenate([zero, one, along[2], along[3]])
        y = jnp.concatenate([along[0], along[1], zero, one])
        return Batch(jax.random.uniform(point_key, (settings.points, 2)), jnp.stack([x, y], axis=1))

    batches = drawn_batches(draw, seed)
    params = init_mlp(jax.random.key(seed), (2, *settings.hidden, 1))
    loss_fn = partial(_loss_fn, settings.boundary_weight)
    return Problem(params, loss_fn, batches.epoch, batches.steps_per_epoch, evaluate)


def _loss_fn(boundary_weight: float, params: tuple[Dense, ...], batch: Batch) -> Array:
    def u(point: Float[Array, " 2"]) -> Float[Array, ""]:
        return apply_mlp(params, point)[0]

    def laplacian(point: Float[Array, " 2"]) -> Float[Array, ""]:
        def second_derivative(direction: Float[Array, " 2"]) -> Float[Array, ""]:
            def derivative(point: Float[Array, " 2"]) -> Float[Array, ""]:
                return jax.jvp(u, (point,), (direction,))[1]

            return jax.jvp(derivative, (point,), (direction,))[1]

        return sum(map(second_derivative, jnp.eye(2)), jnp.zeros(()))

    force = _waves(batch.points, lambda m, n: math.pi**2 * (m**2 + n**2))
    equation = jax.vmap(laplacian)(batch.points) + force
    return jnp.square(equation).mean() + boundary_weight * jnp.square(jax.vmap(u)(batch.boundary)).mean()


def _waves(points: Any, factor: Callable[[int, int], float]) -> Any:
    """The parts of the solution at the points, each times a factor that its half waves determine; NumPy's or JAX's."""
    sin = np.sin if isinstance(points, np.ndarray) else jnp.sin
    x, y = points[:, 0], points[:, 1]
    return sum(scale * factor(m, n) * sin(m * math.pi * x) * sin(n * math.pi * y) for scale, m, n in _WAVES)
