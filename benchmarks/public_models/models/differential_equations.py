"""Networks inside the solvers of diffrax, optimistix and jaxopt, with each solver's defaults."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from public_models import data
from public_models.losses import classification, squares
from public_models.trial import Trial, model

KEY = jax.random.key(0)


@model("diffrax", "neural ODE, adaptive steps", "diffrax", "equinox")
def neural_ode() -> Trial:
    import diffrax
    import equinox as eqx

    params, static = eqx.partition(eqx.nn.MLP(4, 4, 32, 2, jax.nn.softplus, key=KEY), eqx.is_inexact_array)

    def loss_fn(params: Any, x: Any, y: Any) -> Any:
        term = diffrax.ODETerm(lambda t, y, args: eqx.combine(params, static)(y))

        def solve(start: Any) -> Any:
            controller = diffrax.PIDController(rtol=1e-3, atol=1e-5)
            return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, 0.1, start, stepsize_controller=controller).ys[
                -1
            ]

        return squares(jax.vmap(solve)(x), y)

    return Trial(loss_fn, params, data.regression((4,), (4,), 32))


@model("diffrax", "neural CDE", "diffrax", "equinox")
def neural_cde() -> Trial:
    import diffrax
    import equinox as eqx

    keys = jax.random.split(KEY, 3)
    layers = (
        eqx.nn.MLP(5, 8, 32, 1, key=keys[0]),
        eqx.nn.MLP(8, 40, 32, 1, jax.nn.softplus, jnp.tanh, key=keys[1]),
        eqx.nn.Linear(8, 3, key=keys[2]),
    )
    params, static = eqx.partition(layers, eqx.is_inexact_array)
    times = jnp.linspace(0.0, 1.0, 24)

    def loss_fn(params: Any, x: Any, labels: Any) -> Any:
        initial, field, head = eqx.combine(params, static)

        def logits(sequence: Any) -> Any:
            points = jnp.concatenate([times[:, None], sequence], 1)
            control = diffrax.CubicInterpolation(times, diffrax.backward_hermite_coefficients(times, points))
            term = diffrax.ControlTerm(lambda t, y, args: field(y).reshape(8, 5), control).to_ode()
            start = initial(control.evaluate(times[0]))
            solution = diffrax.diffeqsolve(
                term, diffrax.Tsit5(), 0.0, 1.0, None, start, stepsize_controller=diffrax.PIDController(1e-2, 1e-3)
            )
            return head(solution.ys[-1])

        return classification(jax.vmap(logits)(x), labels)

    return Trial(loss_fn, params, data.sequences(24, 4, 3, 8))


@model("diffrax", "neural SDE, fixed steps", "diffrax", "equinox")
def neural_sde() -> Trial:
    import diffrax
    import equinox as eqx

    keys = jax.random.split(KEY, 2)
    networks = tuple(eqx.nn.MLP(3, 3, 32, 1, final_activation=jnp.tanh, key=key) for key in keys)
    params, static = eqx.partition(networks, eqx.is_inexact_array)

    def loss_fn(params: Any, x: Any, y: Any) -> Any:
        drift, diffusion = eqx.combine(params, static)

        def solve(start: Any, key: Any) -> Any:
            motion = diffrax.VirtualBrownianTree(0.0, 1.0, 1e-2, (3,), key)
            terms = diffrax.MultiTerm(
                diffrax.ODETerm(lambda t, y, args: drift(y)),
                diffrax.ControlTerm(lambda t, y, args: 0.1 * jnp.diag(diffusion(y)), motion),
            )
            return diffrax.diffeqsolve(terms, diffrax.Heun(), 0.0, 1.0, 0.05, start).ys[-1]

        return squares(jax.vmap(solve)(x, jax.random.split(KEY, len(x))), y)

    return Trial(loss_fn, params, data.regression((3,), (3,), 32))


@model("diffrax", "continuous normalizing flow, exact trace", "diffrax", "equinox")
def normalizing_flow() -> Trial:
    import diffrax
    import equinox as eqx

    params, static = eqx.partition(eqx.nn.MLP(3, 2, 32, 2, jnp.tanh, key=KEY), eqx.is_inexact_array)

    def loss_fn(params: Any, x: Any) -> Any:
        network = eqx.combine(params, static)

        def field(t: Any, state: Any, args: Any) -> Any:
            def velocity(y: Any) -> Any:
                return network(jnp.append(y, t))

            return velocity(state[0]), jnp.trace(jax.jacfwd(velocity)(state[0]))

        def log_density(point: Any) -> Any:
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(field), diffrax.Tsit5(), 1.0, 0.0, -0.1, (point, jnp.zeros(()))
            )
            y, change = (values[-1] for values in solution.ys)
            return jax.scipy.stats.norm.logpdf(y).sum() + change

        return -jax.vmap(log_density)(x).mean()

    return Trial(loss_fn, params, data.two_moons(128))


def _equilibrium(fixed_point: Any) -> Trial:
    """z = tanh(W z + U x + b), read by a linear layer."""
    import equinox as eqx

    keys = jax.random.split(KEY, 3)
    hidden = eqx.nn.Linear(24, 24, key=keys[0])
    hidden = eqx.tree_at(lambda layer: layer.weight, hidden, 0.5 * hidden.weight)
    layers = (hidden, eqx.nn.Linear(6, 24, use_bias=False, key=keys[1]), eqx.nn.Linear(24, 3, key=keys[2]))
    params, static = eqx.partition(layers, eqx.is_inexact_array)

    def loss_fn(params: Any, x: Any, y: Any) -> Any:
        layers = eqx.combine(params, static)

        def function(z: Any, layers: Any, x: Any) -> Any:
            return jnp.tanh(layers[0](z) + layers[1](x))

        def outputs(x: Any) -> Any:
            return layers[2](fixed_point(function, jnp.zeros(24), layers, x))

        return squares(jax.vmap(outputs)(x), y)

    return Trial(loss_fn, params, data.regression((6,), (3,)))


@model("optimistix", "deep equilibrium, fixed_point", "optimistix", "equinox")
def optimistix_fixed_point() -> Trial:
    import optimistix

    def fixed_point(function: Any, start: Any, layers: Any, x: Any) -> Any:
        solver = optimistix.FixedPointIteration(rtol=1e-4, atol=1e-5)
        return optimistix.fixed_point(lambda z, args: function(z, *args), solver, start, (layers, x), throw=False).value

    return _equilibrium(fixed_point)


@model(
    "optimistix",
    "deep equilibrium, Newton",
    "optimistix",
    "equinox",
    note="lineax keeps the program of a linear solve in an object that JAX does not list as one of its programs.",
)
def optimistix_newton() -> Trial:
    import optimistix

    def fixed_point(function: Any, start: Any, layers: Any, x: Any) -> Any:
        solver = optimistix.Newton(rtol=1e-4, atol=1e-5)
        return optimistix.root_find(
            lambda z, args: function(z, *args) - z, solver, start, (layers, x), throw=False
        ).value

    return _equilibrium(fixed_point)


@model("jaxopt", "deep equilibrium, FixedPointIteration", "jaxopt", "equinox")
def jaxopt_fixed_point() -> Trial:
    import jaxopt

    def fixed_point(function: Any, start: Any, layers: Any, x: Any) -> Any:
        return jaxopt.FixedPointIteration(function, maxiter=100, tol=1e-4).run(start, layers, x).params

    return _equilibrium(fixed_point)


@model("jaxopt", "deep equilibrium, AndersonAcceleration", "jaxopt", "equinox")
def jaxopt_anderson() -> Trial:
    import jaxopt

    def fixed_point(function: Any, start: Any, layers: Any, x: Any) -> Any:
        return jaxopt.AndersonAcceleration(function, maxiter=50, tol=1e-4).run(start, layers, x).params

    return _equilibrium(fixed_point)
