"""What `LowRank` finds, keeps and recovers from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import normal
from solver_runs import flat, run

import lnb

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_low_rank_finds_the_leading_directions_over_steps(x64):
    """Features of three strong directions and equal noise are its model: it becomes the exact solution."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(40_000, 3)) @ (5 * rng.normal(size=(3, 12))) + rng.normal(size=(40_000, 12)) + 2)
    params = {"w": jnp.asarray(normal(12, 2)), "b": jnp.asarray(normal(2))}

    def dense_loss(params, x):
        return jnp.mean(jnp.square(jnp.tanh(x @ params["w"] * 0.1 + params["b"]) - 1))

    neurons = lnb.find_neurons(dense_loss, params, x)
    _, grads, features = neurons.value_and_grad(params, x)
    errors = []
    exact = None
    for solver, steps in (
        (lnb.Cholesky(update_period=1), 1),
        *((lnb.LowRank(rank=3, ridge=0.1), k) for k in (1, 2, 8)),
    ):
        updates = run(lnb.scale_by_lnb(neurons, solver=solver), params, grads, features, steps)
        if exact is None:
            exact = flat(updates)
        else:
            errors.append(np.linalg.norm(flat(updates) - exact) / np.linalg.norm(exact))
    assert errors[-1] < 0.02
    assert errors[-1] <= errors[0]


def test_low_rank_in_float32_sees_the_deviations_of_features_far_from_zero(x64):
    """Features with a mean of ten and deviations from 3 to 0.1."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 64)) @ (rng.standard_normal((64, 64)) * np.geomspace(3, 0.1, 64) / 8)
    x += 10 * rng.choice([-1, 1], 64)
    params = {"w": normal(64, 20) / 8, "b": np.zeros(20)}

    def dense_loss(params, x):
        return jnp.mean(jnp.square(x @ params["w"] + params["b"] - 1))

    def changes(dtype):
        weights, batch = jax.tree.map(lambda a: jnp.asarray(a, dtype), params), jnp.asarray(x, dtype)
        neurons = lnb.find_neurons(dense_loss, weights, batch)
        features = neurons.value_and_grad(weights, batch)[2]
        gradient = jax.tree.map(lambda a: jnp.asarray(a, dtype), precise)
        transform = lnb.scale_by_lnb(neurons, solver=lnb.LowRank(16, ridge_unit="mean variance"), step=lnb.Norm())
        return run(transform, weights, gradient, features, steps=4)["w"]

    neurons = lnb.find_neurons(dense_loss, params, x)
    precise = neurons.value_and_grad(params, x)[1]
    wanted = changes(jnp.float64)
    np.testing.assert_allclose(changes(jnp.float32), wanted, rtol=0, atol=0.01 * np.abs(wanted).max())


def test_low_rank_recovers_from_features_that_were_all_zero():
    params = {"w": jnp.asarray(normal(6, 2), jnp.float32)}
    x = jnp.asarray(normal(50, 6), jnp.float32)

    def dense_loss(params, x):
        return jnp.mean(jnp.square(x @ params["w"] - 1))

    neurons = lnb.find_neurons(dense_loss, params, x)
    transform = lnb.scale_by_lnb(neurons, solver=lnb.LowRank(rank=6, ridge=0.01, decay=0.5))
    exact = lnb.scale_by_lnb(neurons, solver=lnb.Cholesky(update_period=1, ridge=0.01, decay=0.5))
    states = [transform.init(params), exact.init(params)]
    updates = [jax.jit(transform.update), jax.jit(exact.update)]
    for batch in [0 * x, 0 * x, *([x] * 30)]:
        _, grads, features = neurons.value_and_grad(params, batch)
        results = [u(grads, s, params, features=features) for u, s in zip(updates, states, strict=True)]
        states = [state for _, state in results]
    (low, _), (full, _) = results
    np.testing.assert_allclose(low["w"], full["w"], rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("rank", [4, 16])
def test_low_rank_keeps_no_more_than_promised(rank):
    params = {"w": jnp.zeros((50, 30)), "b": jnp.zeros(30)}
    neurons = lnb.find_neurons(lambda p, x: jnp.tanh(x @ p["w"] + p["b"]).sum(), params, jnp.ones((8, 50)))
    state = lnb.scale_by_lnb(neurons, solver=lnb.LowRank(rank)).init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) <= (2 * rank + 2) * 50 + 2
