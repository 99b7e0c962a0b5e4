"""A physics-informed network for Burgers' equation, in Equinox: the loss holds the network's own derivatives.

    u_t + u u_x = nu u_xx on [0, 1] x [-1, 1],   u(0, x) = -sin(pi x),   u(t, -1) = u(t, 1) = 0

Source: Raissi et al. (2019), Physics-informed neural networks.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _train import Network, train
from jaxtyping import Array, Float

VISCOSITY = 0.01 / jnp.pi


def residual(model: eqx.nn.MLP, t: Float[Array, ""], x: Float[Array, ""]) -> Float[Array, ""]:
    """How far the network is from Burgers' equation at a point."""

    def u(t: Array, x: Array) -> Array:
        return model(jnp.stack([t, x]))

    u_x = jax.grad(u, argnums=1)
    return jax.grad(u)(t, x) + u(t, x) * u_x(t, x) - VISCOSITY * jax.grad(u_x, argnums=1)(t, x)


def make_batch(key: Array, *, interior: int = 1024, boundary: int = 128) -> tuple[Array, Array, Array]:
    """Points inside, as (t, x); places x of the initial condition; times t of the boundary conditions."""
    interior_key, initial_key, boundary_key = jax.random.split(key, 3)
    points = jax.random.uniform(interior_key, (interior, 2)) * jnp.array([1.0, 2.0]) - jnp.array([0.0, 1.0])
    places = jax.random.uniform(initial_key, (boundary,), minval=-1.0, maxval=1.0)
    return points, places, jax.random.uniform(boundary_key, (boundary,))


def build(key: Array, *, interior: int = 1024, boundary: int = 128, width: int = 32, depth: int = 4) -> Network:
    """The network and points for it."""
    model = eqx.nn.MLP(2, "scalar", width, depth, activation=jnp.tanh, key=key)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params: eqx.nn.MLP, points: Array, places: Array, times: Array) -> Array:
        model = eqx.combine(params, static)
        equation = jax.vmap(lambda point: residual(model, point[0], point[1]))(points)
        initial = jax.vmap(lambda x: model(jnp.stack([jnp.zeros_like(x), x])))(places) + jnp.sin(jnp.pi * places)
        sides = jax.vmap(lambda t: jnp.stack([model(jnp.stack([t, side])) for side in (-jnp.ones(()), jnp.ones(()))]))
        return jnp.mean(jnp.square(equation)) + jnp.mean(jnp.square(initial)) + jnp.mean(jnp.square(sides(times)))

    return Network(loss_fn, params, make_batch(key, interior=interior, boundary=boundary))


def main() -> None:
    """Train on new points at each step."""
    key = jax.random.key(0)
    train(build(key), map(make_batch, jax.random.split(key, 200)), learning_rate=optax.linear_schedule(0.02, 0.0, 200))


if __name__ == "__main__":
    main()
