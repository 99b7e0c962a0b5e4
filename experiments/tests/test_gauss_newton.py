"""Gauss-Newton on small least-squares problems."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnb_experiments as ex

pytestmark = pytest.mark.usefixtures("standard_promotion")


def curve(params, batch):
    """Residuals of a network of one unit that fits a curve, [n, 1]."""
    x, y = batch
    return jnp.tanh(x * params["inner"] + params["shift"]) @ params["outer"] - y


def curve_problem(dtype):
    random = np.random.default_rng(0)
    shapes = {"inner": (1,), "shift": (1,), "outer": (1, 1)}
    target, params = (
        {name: jnp.asarray(random.standard_normal(shape), dtype) for name, shape in shapes.items()} for _ in range(2)
    )
    x = jnp.asarray(random.standard_normal((40, 1)), dtype)
    batch = (x, curve(target, (x, jnp.zeros((40, 1), dtype))))

    def loss_fn(params, batch):
        return jnp.square(curve(params, batch)).sum(axis=1).mean()

    return ex.Problem(
        params=params,
        loss_fn=loss_fn,
        batches=lambda epoch, start: iter([batch][start:]),
        steps_per_epoch=1,
        evaluate=lambda params: {"loss": float(loss_fn(params, batch))},
        residuals=curve,
    )


def test_it_fits_a_curve_to_machine_precision(x64):
    problem = curve_problem(jnp.float64)
    *_, last = ex.train(problem, ex.GaussNewton(tolerance=1e-10), epochs=200, evaluate_every=50)
    assert last.metrics["loss"] < 1e-25


def test_a_step_solves_the_damped_normal_equations(x64):
    problem = curve_problem(jnp.float64)
    (batch,) = problem.batches(0, 0)
    settings = ex.GaussNewton(damping=0.3, tolerance=1e-14)
    grads = jax.grad(problem.loss_fn)(problem.params, batch)
    optimizer = settings.build(curve)
    step, _ = optimizer.update(grads, optimizer.init(problem.params), problem.params, batch=batch)
    flat, unflatten = jax.flatten_util.ravel_pytree(problem.params)
    jacobian = jax.jacobian(lambda flat: curve(unflatten(flat), batch).ravel())(flat)  # [n, parameters]
    residual = curve(problem.params, batch).ravel()
    solved = np.linalg.solve(jacobian.T @ jacobian / 40 + 0.3 * np.eye(len(flat)), jacobian.T @ residual / 40)
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(step)[0], -solved, rtol=1e-8)


def test_a_step_that_would_raise_the_loss_is_not_taken():
    problem = curve_problem(jnp.float32)
    (batch,) = problem.batches(0, 0)
    optimizer = ex.GaussNewton(learning_rate=1e3).build(curve)
    state = optimizer.init(problem.params)
    grads = jax.grad(problem.loss_fn)(problem.params, batch)
    step, after = optimizer.update(grads, state, problem.params, batch=batch)
    assert all(not leaf.any() for leaf in jax.tree.leaves(step))
    assert after.damping == 2 * state.damping


def test_it_is_quicker_than_gradient_descent_on_the_factorization():
    task = ex.find_task("matrix-factorization")
    sizes = {"samples": 50, "inputs": 6, "hidden": 6, "outputs": 8}
    problem = task.build(dataclasses.replace(task.at("cpu").settings, **sizes), 0)
    ends = {}
    for optimizer in ("gauss-newton", "sgd"):
        *_, last = ex.train(problem, task.optimizers[optimizer], epochs=15, evaluate_every=15)
        ends[optimizer] = last.metrics["relative_loss"]
    assert ends["gauss-newton"] < 1e-5 < ends["sgd"]


@pytest.mark.parametrize("changed", [{"learning_rate": 0.0}, {"steps": 0}, {"damping": 0.0}, {"tolerance": -1.0}])
def test_settings_out_of_range(changed):
    with pytest.raises(ex.ExperimentError, match="of GaussNewton must be positive"):
        ex.prepare(curve_problem(jnp.float32), ex.GaussNewton(**changed))


def test_other_losses_are_refused():
    task = ex.find_task("digits")
    problem = task.build(dataclasses.replace(task.at("cpu").settings, hidden=(8,)), 0)
    with pytest.raises(ex.ExperimentError, match="GaussNewton is for least-squares problems, the tasks `matrix-fact"):
        ex.prepare(problem, ex.GaussNewton())
