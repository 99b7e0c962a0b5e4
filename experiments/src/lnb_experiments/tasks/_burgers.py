"""Burgers' equation, solved by a network whose loss has the network's own derivatives, by reverse mode.

    u_t + u u_x = nu u_xx  on  0 < t < 1, -1 < x < 1,   u(0, x) = -sin(pi x),   u(t, -1) = u(t, 1) = 0
    loss = mean (u_t + u u_x - nu u_xx)^2 + mean (u(0, x) + sin(pi x))^2 + mean u(t, -1)^2 + u(t, 1)^2

The exact solution comes from the heat equation, by the Cole-Hopf transformation.

Sources: Raissi, Perdikaris and Karniadakis (2019), Physics-informed neural networks; Basdevant et al. (1986), Spectral
and finite difference solutions of the Burgers equation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

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

# The grid that the solution is measured on, and the one that Cole and Hopf's integrals are taken on.
_TIMES, _PLACES, _SHIFTS = 10, 101, 4001


@dataclass(frozen=True)
class BurgersSettings:
    """Hyper-parameters of the equation and of the network."""

    viscosity: float = 0.01 / math.pi
    """The factor nu of the second derivative."""
    hidden: tuple[int, ...] = (64, 64, 64)
    """Width of each hidden layer."""
    points: int = 1000
    """Points of the equation in a batch."""
    edge_points: int = 100
    """Places of the initial condition in a batch, and times of the boundary conditions."""


class Batch(NamedTuple):
    """Where the equation and its conditions are asked for."""

    points: Float[Array, "n 2"]  # t and x
    places: Float[Array, " m"]  # x at t = 0
    times: Float[Array, " m"]  # t at both ends


def burgers(settings: BurgersSettings, seed: int) -> Problem:
    """A tanh network u(t, x), trained on new points at each step.

    Args:
        settings: of the equation and of the network.
        seed: of the initial weights and of the points.

    Returns:
        A problem with the metric `relative_error`: the norm of u's error on a grid over that of the solution.

    Raises:
        ExperimentError: a setting is out of its range.
    """
    if min(*settings.hidden, settings.points, settings.edge_points) < 1:
        raise ExperimentError(f"sizes must be positive, got {settings}.")
    if not settings.viscosity > 0:
        raise ExperimentError(f"`viscosity` must be positive, got {settings.viscosity}.")
    t, x = np.meshgrid(np.linspace(0.1, 1.0, _TIMES), np.linspace(-1.0, 1.0, _PLACES), indexing="ij")
    grid = jnp.asarray(np.stack([t, x], axis=-1).reshape(-1, 2), jnp.float32)
    solution = exact_solution(t, x, settings.viscosity).reshape(-1)
    measure = jax.jit(lambda params: apply_mlp(params, grid)[:, 0])

    def evaluate(params: tuple[Dense, ...]) -> Mapping[str, float]:
        error = np.asarray(measure(params), np.float64) - solution
        return {"relative_error": float(np.linalg.norm(error) / np.linalg.norm(solution))}

    def draw(key: Array) -> Batch:
        point_key, place_key, time_key = jax.random.split(key, 3)
        low, high = jnp.asarray([0.0, -1.0]), jnp.asarray([1.0, 1.0])
        return Batch(
            points=jax.random.uniform(point_key, (settings.points, 2), minval=low, maxval=high),
            places=jax.random.uniform(place_key, (settings.edge_points,), minval=-1.0, maxval=1.0),
            times=jax.random.uniform(time_key, (settings.edge_points,)),
        )

    batches = drawn_batches(draw, seed)
    params = init_mlp(jax.random.key(seed), (2, *settings.hidden, 1))
    loss_fn = partial(_loss_fn, settings.viscosity)
    return Problem(params, loss_fn, batches.epoch, batches.steps_per_epoch, evaluate)


def exact_solution(t: Float[np.ndarray, "*n"], x: Float[np.ndarray, "*n"], viscosity: float) -> Float[np.ndarray, "*n"]:
    """The solution for positive times.

    u = -∫ sin(pi y) w(y) dy / ∫ w(y) dy,   w(y) = exp(-cos(pi y) / (2 pi nu) - (x - y)^2 / (4 nu t))

    >>> bool(abs(exact_solution(np.asarray(0.5), np.asarray(0.0), 0.1)) < 1e-12)
    True
    """
    # Far enough for the Gaussian to outweigh the rest of the exponent; the integrand falls to nothing at both ends.
    reach = 2 * np.sqrt(viscosity * t * (1 / (math.pi * viscosity) + 40))[..., None]
    y = x[..., None] - reach * np.linspace(-1.0, 1.0, _SHIFTS)  # [*n, shifts]
    exponent = -np.cos(math.pi * y) / (2 * math.pi * viscosity) - np.square(x[..., None] - y) / (
        4 * viscosity * t[..., None]
    )
    weights = np.exp(exponent - exponent.max(axis=-1, keepdims=True))
    return -(np.sin(math.pi * y) * weights).sum(axis=-1) / weights.sum(axis=-1)


def _loss_fn(viscosity: float, params: tuple[Dense, ...], batch: Batch) -> Array:
    def u(t: Float[Array, ""], x: Float[Array, ""]) -> Float[Array, ""]:
        return apply_mlp(params, jnp.stack([t, x]))[0]

    def residual(point: Float[Array, " 2"]) -> Float[Array, ""]:
        t, x = point
        u_x = jax.grad(u, argnums=1)
        return jax.grad(u)(t, x) + u(t, x) * u_x(t, x) - viscosity * jax.grad(u_x, argnums=1)(t, x)

    equation = jax.vmap(residual)(batch.points)
    initial = jax.vmap(u, (None, 0))(jnp.zeros(()), batch.places) + jnp.sin(jnp.pi * batch.places)
    left, right = (jax.vmap(u, (0, None))(batch.times, jnp.asarray(end)) for end in (-1.0, 1.0))
    return jnp.square(equation).mean() + jnp.square(initial).mean() + (jnp.square(left) + jnp.square(right)).mean()
