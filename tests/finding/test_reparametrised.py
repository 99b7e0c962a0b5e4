"""Weights that the program computes from parameters, and complex ones: directions, training, and what is no neuron."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal
from cases.reparametrised import norm, spectral
from oracle import dense_metric

import lnb

pytestmark = pytest.mark.usefixtures("quick_compilation")

EXACT = lnb.CG(steps=32, ridge=1e-11)


@pytest.fixture
def complex_numbers():
    """Numbers of Python's type `complex` meet real arrays."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def directions(loss_fn, params, x, solver=EXACT):
    """theta of all parameters, without a step rule, and the neurons."""
    neurons = lnb.find_neurons(loss_fn, params, x)
    optimizer = lnb.scale_by_lnb(neurons, solver=solver, step=lnb.StepRule())

    @jax.jit
    def update(params, x):
        _, grads, features = neurons.value_and_grad(params, x)
        grads = jax.tree.map(jnp.conj, grads)
        return optimizer.update(grads, optimizer.init(params), params, features=features)[0]

    return update(params, x), neurons


def loss_of(weights, x):
    return jnp.mean(jnp.square(jnp.sin(x @ weights) - 0.3))


def test_a_weight_normed_layer_moves_as_a_plain_one(x64):
    """h'(p) theta of the parameters is M^-1 g of the weights, which h reaches in all directions."""
    params = {"v": jnp.asarray(normal(4, 3)), "g": jnp.asarray(normal(3))}
    x = jnp.asarray(normal(20, 4, seed=2))

    def weights(params):
        return params["g"] * params["v"] / norm(params["v"])

    theta, _ = directions(lambda p, x: loss_of(weights(p), x), params, x)
    plain, _ = directions(lambda p, x: loss_of(p["w"], x), {"w": weights(params)}, x)
    moved = jax.jvp(weights, (params,), (theta,))[1]
    np.testing.assert_allclose(moved, plain["w"], rtol=1e-6, atol=1e-6 * float(jnp.abs(plain["w"]).max()))


def test_a_leaf_that_something_else_trains_is_held(x64):
    """The direction of the others is that of their own part of the metric."""
    params = {"v": jnp.asarray(normal(4, 3)), "g": jnp.asarray(normal(3))}
    x, ridge = jnp.asarray(normal(20, 4, seed=2)), 0.1

    def weights(v):
        return params["g"] * v / norm(v)

    neurons = lnb.find_neurons(lambda p, x: loss_of(p["g"] * p["v"] / norm(p["v"]), x), params, x)
    solver = lnb.CG(steps=32, ridge=ridge)
    optimizer = optax.masked(lnb.scale_by_lnb(neurons, solver=solver, step=lnb.StepRule()), {"v": True, "g": False})
    _, grads, features = neurons.value_and_grad(params, x)
    theta, _ = optimizer.update(grads, optimizer.init(params), params, features=features)
    metric = dense_metric(lambda v: x @ weights(v), params["v"], 20) + ridge * np.eye(12)
    expected = np.linalg.solve(metric, np.ravel(grads["v"]))
    np.testing.assert_allclose(np.ravel(theta["v"]), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(theta["g"], grads["g"])


@pytest.mark.parametrize("solver", [EXACT, lnb.Cholesky(decay=0.0, ridge=1e-11)], ids=["CG", "Cholesky"])
def test_a_complex_layer_moves_as_complex_arithmetic_says(x64, complex_numbers, solver):
    """theta = (X^H X / n)^-1 g, whether the weight is made of two real arrays or is complex itself."""
    x = jnp.asarray(normal(20, 4, seed=2) + 1j * normal(20, 4, seed=3))
    a, b = jnp.asarray(normal(4, 3)), jnp.asarray(normal(4, 3, seed=1))

    def loss_fn(weights, x):
        return jnp.mean(jnp.square(jnp.abs(x @ weights) - 0.3))

    pair, neurons = directions(lambda p, x: loss_fn(p["a"] + 1j * p["b"], x), {"a": a, "b": b}, x, solver)
    leaf, _ = directions(lambda p, x: loss_fn(p["c"], x), {"c": a + 1j * b}, x, solver)
    gradient = np.conj(jax.grad(loss_fn)(a + 1j * b, x))
    expected = np.linalg.solve(np.asarray(x).conj().T @ np.asarray(x) / 20, gradient)
    assert [neuron.kind for neuron in neurons] == ["dense"]
    np.testing.assert_allclose(pair["a"] + 1j * pair["b"], expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(leaf["c"], expected, rtol=1e-6, atol=1e-8)


def test_a_complex_parameter_is_trained_like_its_two_parts(x64, complex_numbers):
    """`init` and `update` take and give complex arrays, and the state is that of the two real parts."""
    x = jnp.asarray(normal(20, 4, seed=2) + 1j * normal(20, 4, seed=3))
    parts = {"a": jnp.asarray(normal(4, 3)), "b": jnp.asarray(normal(4, 3, seed=1))}

    def train(weights, params):
        def loss_fn(params, x):
            return jnp.mean(jnp.square(jnp.abs(x @ weights(params)) - 0.3))

        neurons = lnb.find_neurons(loss_fn, params, x)
        optimizer = lnb.lnb(neurons, 0.1)

        @jax.jit
        def step(params, state):
            _, grads, features = neurons.value_and_grad(params, x)
            updates, state = optimizer.update(jax.tree.map(jnp.conj, grads), state, params, features=features)
            return optax.apply_updates(params, updates), state

        state = optimizer.init(params)
        for _ in range(5):
            params, state = step(params, state)
        return weights(params)

    of_parts = train(lambda p: p["a"] + 1j * p["b"], parts)
    whole = train(lambda p: p["c"], {"c": parts["a"] + 1j * parts["b"]})
    assert jnp.iscomplexobj(whole)
    np.testing.assert_allclose(whole, of_parts, rtol=1e-10)


@pytest.mark.parametrize(
    "layer",
    [
        lambda p, x: (x * x + 1) ** p,
        lambda p, x: jnp.maximum(x, p),
        lambda p, x: jax.lax.scan(lambda h, u: (h, (u * u + 1) ** p), 0.0, x)[1],
    ],
    ids=["power", "maximum", "in a scan"],
)
def test_what_enters_nonlinearly_beside_data_has_the_metric_of_its_derivative(x64, layer):
    params, vector, x = jnp.asarray(normal(4)), jnp.asarray(normal(4, seed=1)), jnp.asarray(normal(20, 4, seed=2))
    (neuron,) = neurons = lnb.find_neurons(lambda p, x: jnp.mean(jnp.sin(layer(p, x))), params, x)
    assert (neuron.kind, neuron.samples) == ("general", 20)
    _, _, features = neurons.value_and_grad(params, x)
    expected = dense_metric(lambda p: layer(p, x), params, 20) @ vector
    np.testing.assert_allclose(neurons.metric_product(features, vector), expected, rtol=1e-10)


def test_an_operation_whose_derivative_is_not_known_leaves_its_parameters_listed(x64):
    """Other uses do not cover them."""
    params, x = {"w": jnp.asarray(normal(4, 3)), "c": jnp.asarray(normal(4))}, jnp.asarray(normal(20, 4))

    def loss_fn(p, x):
        _, moved = jax.lax.sort((x, jnp.broadcast_to(p["c"], x.shape)), num_keys=1)
        return loss_of(p["w"], x * p["c"]) + jnp.sum(moved * x)

    with pytest.warns(UserWarning, match="cover"):
        neurons = lnb.find_neurons(loss_fn, params, x)
    assert neurons.uncovered == (("['c']", "enters nonlinearly through `sort`"),)


def test_a_penalty_is_no_use_of_a_weight(x64):
    """Whatever it is a function of, what is added to the loss itself has met no data."""
    weight, x = jnp.asarray(normal(4, 3)), jnp.asarray(normal(20, 4, seed=2))

    def loss_fn(w, x):
        return loss_of(w, x) + 1e-3 * jnp.sum(jnp.abs(w)) + 1e-3 * jnp.sum(w)

    assert [(neuron.kind, neuron.samples) for neuron in lnb.find_neurons(loss_fn, weight, x)] == [("dense", 20)]


def test_a_use_that_is_not_differentiated_is_none(x64):
    """The target of a value network reads the same weights, and no gradient passes through it."""
    weight, x, after = jnp.asarray(normal(4, 3)), jnp.asarray(normal(20, 4)), jnp.asarray(normal(20, 4, seed=2))

    def loss_fn(w, x, after):
        return jnp.mean(jnp.square(jnp.tanh(x @ w) - jax.lax.stop_gradient(jnp.tanh(after @ w))))

    neurons = lnb.find_neurons(loss_fn, weight, x, after)
    _, _, features = neurons.value_and_grad(weight, x, after)
    np.testing.assert_allclose(neurons[0].gram(features)[0], x.T @ x / 20, rtol=1e-12)


def test_a_shift_that_is_not_differentiated_is_no_use(x64):
    params, x = {"w": jnp.asarray(normal(4, 3)), "b": jnp.asarray(normal(4))}, jnp.asarray(normal(20, 4))

    def loss_fn(p, x):
        return loss_of(p["w"], jax.lax.stop_gradient(jnp.maximum(x + p["b"], p["b"])))

    with pytest.warns(UserWarning, match="cover"):
        neurons = lnb.find_neurons(loss_fn, params, x, strict=False)
    assert [path for path, _ in neurons.uncovered] == ["['b']"]


@pytest.mark.parametrize(
    "weight",
    [
        lambda w: w + jax.lax.stop_gradient(jnp.round(w) - w),
        lambda w: jax.lax.stop_gradient(jnp.round(w) - w) + w,
        lambda w: w - jax.lax.stop_gradient(w - jnp.round(w)),
    ],
)
def test_a_straight_through_estimator_keeps_the_gram_matrix(x64, weight):
    w, x = jnp.asarray(normal(4, 3)), jnp.asarray(normal(20, 4))
    neurons = lnb.find_neurons(lambda w, x: loss_of(weight(w), x), w, x)
    assert [(neuron.kind, neuron.samples) for neuron in neurons] == [("dense", 20)]


def test_what_the_loss_does_not_depend_on_is_no_use(x64):
    """Metrics in the auxiliary output read weights too."""
    params = {"w": jnp.asarray(normal(4, 3)), "v": jnp.asarray(normal(4, 3, seed=1))}
    x = jnp.asarray(normal(20, 4, seed=2))

    def loss_fn(p, x):
        return loss_of(p["w"], x), x @ p["v"]

    with pytest.warns(UserWarning, match="cover"):
        neurons = lnb.find_neurons(loss_fn, params, x, has_aux=True)
    assert neurons.uncovered == (("['v']", "the loss is not differentiated through its use"),)


@pytest.mark.parametrize("normalised", [False, True])
def test_spectral_norm_trains(x64, normalised):
    """A discriminator-like network with all weights normalised reaches a small loss at the default rate."""
    params = [jnp.asarray(normal(*shape)) for shape in ((4, 16), (16, 16), (16, 1))]
    x = jnp.asarray(normal(64, 4, seed=2))
    y = jnp.sin(x[:, :1])

    def loss_fn(params, x, y):
        h = x
        for w in params:
            w = spectral(w, jnp.ones(len(w)), steps=3) if normalised else w
            h = jnp.tanh(h @ w) if w.shape[1] > 1 else h @ w
        return jnp.mean(jnp.square(h - y))

    neurons = lnb.find_neurons(loss_fn, params, x, y)
    assert neurons.coverage == 1
    optimizer = lnb.lnb(neurons, optax.linear_schedule(0.05, 0.0, 80))

    @jax.jit
    def step(params, state):
        value, grads, features = neurons.value_and_grad(params, x, y)
        updates, state = optimizer.update(grads, state, params, features=features)
        return optax.apply_updates(params, updates), state, value

    state, values = optimizer.init(params), []
    for _ in range(80):
        params, state, value = step(params, state)
        values.append(float(value))
    assert int(state.skipped) == 0
    assert values[-1] < 0.3 * values[0]
    assert max(values) < 1.5 * values[0]
