"""Solvers against dense solutions, and what they have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import normal
from lists import RELATIVE, SOLVERS, solvers
from solver_runs import PARAMS, evaluate, flat, run

import lnb
from lnb._metric import metric_of
from lnb.solvers import _inverse

pytestmark = pytest.mark.usefixtures("quick_compilation")


EXACT = {
    "Cholesky": lambda **options: lnb.Cholesky(update_period=1, decay=0.0, **options),
    "LowRank": lambda **options: lnb.LowRank(rank=64, update_period=1, decay=0.0, **options),
    "CG": lambda **options: lnb.CG(steps=30, **options),
}


# The low rank solution adds the root of the rounding error to what its factor leaves of the diagonal.
TOLERANCES = {
    "Cholesky": {"rtol": 1e-8, "atol": 1e-10},
    "LowRank": {"rtol": 1e-5, "atol": 1e-7},
    "CG": {"rtol": 1e-7, "atol": 1e-9},
}


def direction(neurons, solver, grads, features, steps=1):
    """The direction after some steps on the same batch."""
    return run(lnb.scale_by_lnb(neurons, solver=solver, step=lnb.Norm(1e-30)), PARAMS, grads, features, steps)


def dense_direction(neurons, grads, features, ridge):
    """(M + ridge on the weights)^-1 g, over the square root of its product with g, by a dense matrix."""
    leaves, treedef = jax.tree.flatten(PARAMS)
    starts = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def column(vector):
        parts = [part.reshape(leaf.shape) for part, leaf in zip(np.split(vector, starts), leaves, strict=True)]
        return flat(neurons.metric_product(features, jax.tree.unflatten(treedef, parts)))

    size = sum(leaf.size for leaf in leaves)
    metric = np.stack([column(unit) for unit in np.eye(size)], axis=1)
    np.testing.assert_allclose(metric, metric.T, atol=1e-12)
    on_weights = np.concatenate([np.full(leaf.size, ridge * (leaf.ndim > 1)) for leaf in leaves])
    gradient = flat(grads)
    solution = np.linalg.solve(metric + np.diag(on_weights), gradient)
    return solution / np.sqrt(solution @ gradient)


@pytest.mark.parametrize("name", EXACT)
def test_exact_solvers_give_the_dense_solution(x64, name):
    neurons, grads, features = evaluate(jnp.asarray(normal(30, 4)))
    assert [neuron.kind for neuron in neurons] == ["dense", "dense", "tied", "dense"]
    got = direction(neurons, EXACT[name](ridge=0.3), grads, features, steps=4)
    np.testing.assert_allclose(flat(got), dense_direction(neurons, grads, features, 0.3), **TOLERANCES[name])


def derivative_loss(params, x):
    """The network's value and its derivative: the derivative does not add the biases."""

    def value(x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ params["w"] + params["b"]) @ params["u"] + params["c"]))

    values, slopes = jax.vmap(lambda x: jax.jvp(value, (x,), (jnp.ones_like(x),)))(x)
    return jnp.mean(jnp.square(values - slopes))


@pytest.mark.parametrize("name", EXACT)
def test_a_use_without_the_bias_counts_for_the_weight_alone(x64, name):
    params = jax.tree.map(jnp.asarray, {"w": normal(2, 4), "b": normal(4), "u": normal(4, 3), "c": normal(3)})
    neurons = lnb.find_neurons(derivative_loss, params, jnp.asarray(normal(9, 2)))
    assert [(neuron.kind, neuron.samples) for neuron in neurons] == [("dense", 18)] * 2
    _, grads, features = neurons.value_and_grad(params, jnp.asarray(normal(9, 2)))
    transform = lnb.scale_by_lnb(neurons, solver=EXACT[name](ridge=0.3), step=lnb.Norm(1e-30))
    updates = run(transform, params, grads, features, steps=3)
    on_weights = jax.tree.map(lambda update: (0.3 if update.ndim > 1 else 0.0) * update, updates)
    back = flat(neurons.metric_product(features, updates)) + flat(on_weights)
    np.testing.assert_allclose(back * (flat(grads) @ flat(updates)), flat(grads), **TOLERANCES[name])


@pytest.mark.parametrize(
    "solver",
    solvers(**RELATIVE | {"LowRank": {"rank": 2, **RELATIVE["LowRank"]}}).values(),
    ids=SOLVERS,
)
def test_a_relative_ridge_makes_the_update_scale_equivariant(x64, solver):
    """Features scaled by a, and weights by 1 / a: the step in function space is the same."""
    scale, x = 37.0, jnp.asarray(normal(20, 4))

    def dense_loss(params, x):
        return jnp.mean(jnp.square(jnp.tanh(x @ params["w"] + params["b"]) - 1))

    changes = []
    for factor in (1.0, scale):
        params = {"w": jnp.asarray(normal(4, 3)) / factor, "b": jnp.asarray(normal(3))}
        neurons = lnb.find_neurons(dense_loss, params, x * factor)
        _, grads, features = neurons.value_and_grad(params, x * factor)
        updates = run(lnb.scale_by_lnb(neurons, solver=solver), params, grads, features, steps=3)
        changes.append({"w": updates["w"] * factor, "b": updates["b"]})
    np.testing.assert_allclose(flat(changes[1]), flat(changes[0]), rtol=1e-7)


@pytest.mark.parametrize("solver", [lnb.Diagonal(), lnb.LowRank(16), lnb.Cholesky()])
def test_operations_are_those_that_xla_counts(monkeypatch, solver):
    params, x = (jnp.ones((200, 100)), jnp.ones(100)), jnp.ones((400, 200))
    neurons = lnb.find_neurons(lambda p, x: jnp.tanh(x @ p[0] + p[1]).sum(), params, x)
    metric = metric_of(neurons[0].features, neurons.value_and_grad(params, x)[2].arrays)
    statistics, count = solver.init(metric, jnp.float32), jnp.asarray(3)

    def operations(function, *args):
        return jax.jit(function).lower(*args).cost_analysis()["flops"]

    update, solve = solver.flops(metric, 100)
    # An elimination is a loop, whose body XLA counts once: the Gram matrix without its inverse.
    monkeypatch.setattr(_inverse, "inverse", lambda matrix: matrix)
    counted = operations(lambda m, s: solver.update(m, s, count), metric, statistics)
    assert 0.85 * counted < update - (200**3 if isinstance(solver, lnb.Cholesky) else 0) < 1.15 * counted
    gradient = jnp.ones((1, 201, 100))
    counted = operations(lambda m, s, g: solver.solve(m, s, g, ()), metric, statistics, gradient)
    assert 0.85 * counted < solve < 1.15 * counted


@pytest.mark.parametrize("make", [lnb.Diagonal, lnb.LowRank, lnb.Cholesky])
def test_a_share_of_the_samples_is_a_solution_of_these_alone(x64, make):
    params = {"w": jnp.asarray(normal(4, 3)), "b": jnp.zeros(3)}
    x = jnp.asarray(normal(12, 5, 4))
    neurons, fewer = (
        lnb.find_neurons(lambda p, x: jnp.tanh(x @ p["w"] + p["b"]).sum(), params, batch) for batch in (x, x[::4])
    )
    _, grads, features = neurons.value_and_grad(params, x)
    part = run(
        lnb.scale_by_lnb(neurons, solver=make(sample_fraction=0.25), step=lnb.Norm()), params, grads, features, steps=1
    )
    _, _, features = fewer.value_and_grad(params, x[::4])
    whole = run(lnb.scale_by_lnb(fewer, solver=make(), step=lnb.Norm()), params, grads, features, steps=1)
    for key, direction in part.items():
        np.testing.assert_allclose(direction, whole[key], rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "options", "name"),
    [
        (lnb.LowRank, {"rank": 0}, "rank"),
        (lnb.LowRank, {"update_period": 0}, "update_period"),
        (lnb.LowRank, {"ridge": -1.0}, "ridge"),
        (lnb.LowRank, {"sample_fraction": 0.0}, "sample_fraction"),
        (lnb.Cholesky, {"sample_fraction": 1.5}, "sample_fraction"),
        (lnb.Diagonal, {"sample_fraction": 2}, "sample_fraction"),
        (lnb.Cholesky, {"decay": 1.0}, "decay"),
        (lnb.CG, {"ridge_unit": "relative"}, "ridge_unit"),
    ],
)
def test_bad_settings_are_named(make, options, name):
    with pytest.raises(ValueError, match=f"`{name}` of {make.__name__} must be"):
        make(**options)


def test_cg_takes_no_step_against_the_gradient():
    """One batch of huge features, or a start that an earlier batch left, must not carry the parameters away."""
    params, x = jnp.asarray(normal(6, 3), jnp.float32), jnp.asarray(normal(20, 6), jnp.float32)
    neurons = lnb.find_neurons(lambda w, x: jnp.square(x @ w - 1).mean(), params, x)
    (neuron,) = neurons
    _, gradient, features = neurons.value_and_grad(params, x)
    metric = metric_of(neuron.read(features), features.arrays)
    solver, packed = lnb.CG(), neuron.pack(gradient)
    statistics = solver.update(metric, solver.init(metric, jnp.float32), jnp.ones((), jnp.int32))
    along = solver.solve(metric, statistics, packed, jnp.zeros_like(packed))
    assert along.squared_norm > 0
    against = solver.solve(metric, statistics, packed, -1e6 * along.direction)
    assert against.squared_norm == 0
    assert not against.direction.any()
    afresh = solver.solve(metric, statistics, packed, against.warm_start)
    np.testing.assert_array_equal(afresh.direction, along.direction)


@pytest.mark.parametrize("solver", solvers().values(), ids=SOLVERS)
def test_a_state_has_no_empty_arrays(solver):
    """Orbax saves none. A lookup, a layer of data, a computed one and a tied weight have statistics of every kind."""
    params = {"table": jnp.ones((5, 4)), "data": jnp.ones((3, 4)), "computed": jnp.ones((4, 4))}

    def loss_fn(params, token, x):
        h = jnp.tanh(params["table"][token] + x @ params["data"]) @ params["computed"]
        return jnp.square(h @ params["table"].T).mean()

    def apart(params, token, x):
        return jnp.square(jnp.tanh(params["table"][token] + x @ params["data"]) @ params["computed"]).mean()

    for loss in (loss_fn, apart):
        neurons = lnb.find_neurons(loss, params, jnp.zeros(6, int), jnp.ones((6, 3)), strict=True)
        state = lnb.lnb(neurons, 0.02, solver=solver).init(params)
        assert all(leaf.size for leaf in jax.tree.leaves(state))
