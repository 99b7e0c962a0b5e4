"""Neurons that are solved together, and when their statistics are updated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import normal
from solver_runs import PARAMS, deep, flat, loss_fn, run

import lnb
from lnb._solve_groups import RefreshSchedule, plan_groups

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("make", [lnb.Cholesky, lnb.LowRank])
def test_statistics_are_updated_in_turn(make):
    """Every layer is renewed at the first ten steps, and then once in every ten, two of the twenty at each step."""
    params = [jnp.asarray(normal(4, 4, seed=k), jnp.float32) for k in range(20)]
    neurons = lnb.find_neurons(deep, params, jnp.ones((8, 4)))
    transform = lnb.scale_by_lnb(neurons, solver=make(update_period=10))
    state, update = transform.init(params), jax.jit(transform.update)
    evaluate = jax.jit(neurons.value_and_grad)
    renewed = []
    for step in range(40):
        x = jnp.asarray(normal(8, 4, seed=step), jnp.float32)
        _, grads, features = evaluate(params, x)
        _, after = update(grads, state, params, features=features)
        pairs = zip(after.statistics, state.statistics, strict=True)
        renewed.append([any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), a, b))) for a, b in pairs])
        state = after
    renewed = np.array(renewed)
    assert renewed[:10].all()
    assert (renewed[10:].sum(0) == 3).all()
    assert (renewed[10:].sum(1) == 2).all()


def test_updating_in_turn_counts_each_group_s_own_batches(x64):
    """On one batch repeated, averages that are corrected for their start are that batch's, whatever the turn."""
    params = [jnp.asarray(normal(4, 4, seed=k)) for k in range(7)]
    x = jnp.asarray(normal(9, 4))
    neurons = lnb.find_neurons(deep, params, x)
    _, grads, features = neurons.value_and_grad(params, x)
    results = []
    for solver in (lnb.Cholesky(update_period=1, decay=0.0), lnb.Cholesky(update_period=3, decay=0.7)):
        updates = run(lnb.scale_by_lnb(neurons, solver=solver), params, grads, features, steps=8)
        results.append(flat(updates))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-10)


@pytest.mark.parametrize("make", [lnb.Cholesky, lnb.LowRank, lnb.Diagonal, lnb.CG])
def test_neurons_solved_together_are_solved_as_alone(x64, make):
    """Neurons that read the same features are one block; their directions are their own."""
    params = {key: jnp.asarray(normal(5, 5, seed=k)) for k, key in enumerate("qkvmn")}

    def together(params, x):
        h = jnp.tanh(x @ params["q"]) * jnp.sin(x @ params["k"]) + jnp.cos(x @ params["v"])
        return jnp.mean(jnp.square(jnp.tanh(jnp.tanh(h @ params["m"]) @ params["n"]) - 1))

    x = jnp.asarray(normal(11, 5))
    neurons = lnb.find_neurons(together, params, x)
    _, grads, features = neurons.value_and_grad(params, x)

    def solve(choice):
        return run(lnb.scale_by_lnb(neurons, solver=choice, step=lnb.Norm(1e6)), params, grads, features, steps=1)

    at_once = solve(make(ridge=0.2))
    for wanted in neurons:
        # Every other neuron has a solver of its own, so that this one is solved alone.
        apart = solve(lambda neuron, wanted=wanted: make(ridge=0.2 if neuron.index == wanted.index else 0.9))
        for path in wanted.paths:
            key = path[2]
            np.testing.assert_allclose(at_once[key], apart[key], rtol=1e-9)


@pytest.mark.parametrize(
    "solver",
    [lnb.Auto(), lnb.LowRank(2), lnb.Cholesky(), lnb.Diagonal(), lnb.CG()],
    ids=["auto", "LowRank", "Cholesky", "Diagonal", "CG"],
)
def test_a_solution_s_length_is_its_product_with_the_gradient(x64, solver):
    """Of layers with and without a bias, tied ones, and groups: the channels of a scale, single elements."""
    params = {**jax.tree.map(jnp.asarray, PARAMS), "scale": jnp.ones(4), "shift": jnp.zeros(4), "table": normal(7, 4)}

    def scaled(params, x):
        return loss_fn(
            params, (x + jnp.asarray(params["table"])[np.arange(30) % 7]) * params["scale"] + params["shift"]
        )

    x = jnp.asarray(normal(30, 4))
    neurons = lnb.find_neurons(scaled, params, x, strict=True)
    _, grads, features = neurons.value_and_grad(params, x)
    assert max(neuron.groups for neuron in neurons) > 1
    for group in plan_groups(neurons, neurons.sharing, solver):
        statistics, warm_starts = group.init()
        metric = group.metric(features)
        updated = group.update(metric, statistics, jnp.ones((), jnp.int32), True)
        gradients = [neuron.pack(grads) for neuron in group.neurons]
        solutions = group.solve(metric, updated, gradients, warm_starts)
        for solution, gradient in zip(solutions, gradients, strict=True):
            wanted = (solution.direction * gradient).sum((1, 2))
            np.testing.assert_allclose(solution.squared_norm, wanted, rtol=1e-9)


@pytest.mark.parametrize("period", [1, 2, 3, 7])
@pytest.mark.parametrize("offset", [0, 1, 2, 6])
def test_a_schedule_counts_the_updates_that_are_due(period, offset):
    offset, held = offset % period, 0
    for steps in range(30):
        schedule = RefreshSchedule(jnp.asarray(steps, jnp.int32), jnp.asarray(offset, jnp.int32))
        held += bool(schedule.is_due(period))
        if schedule.is_due(period):
            assert int(schedule.batches(period)) == held


def test_batches_between_updates_do_not_enter_the_average(x64):
    """The average is the corrected one of the first batches and of every third from then on."""
    weight = jnp.asarray(normal(4, 4))
    batches = [jnp.asarray(normal(9, 4, seed=k)) * (1 + k) for k in range(11)]
    neurons = lnb.find_neurons(lambda w, x: jnp.mean(jnp.tanh(x @ w)), weight, batches[0])
    decay, period, ridge = 0.7, 3, 0.1
    solver = lnb.Cholesky(update_period=period, decay=decay, ridge=ridge)
    transform = lnb.scale_by_lnb(neurons, solver=solver, step=lnb.Norm(1e6))
    state, update = transform.init(weight), jax.jit(transform.update)
    for x in batches:
        _, grads, features = neurons.value_and_grad(weight, x)
        direction, state = update(grads, state, weight, features=features)
    entered = [k for k in range(len(batches)) if k < period or k % period == 0]
    shares = (decay**period) ** np.arange(len(entered))[::-1]
    grams = [np.asarray(batches[k].T @ batches[k]) / 9 for k in entered]
    gram = np.tensordot(shares / shares.sum(), grams, 1)
    wanted = np.linalg.solve(gram + ridge * np.eye(4), np.asarray(grads))
    np.testing.assert_allclose(direction * 1e6, wanted, rtol=1e-9)
