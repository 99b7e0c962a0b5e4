"""The update against Algorithm 2 in NumPy, its invariances, its state, and its errors."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal
from oracle import Algorithm2, backpropagate

import lnb
from lnb._transform import _look_ahead

SIZES = (6, 8, 7, 4)


def network(seed, bias=True, dtype=np.float64, sizes=SIZES):
    random = np.random.default_rng(seed)
    return [
        (
            (random.normal(size=pair) / np.sqrt(pair[0])).astype(dtype),
            (0.1 * random.normal(size=pair[1])).astype(dtype) if bias else None,
        )
        for pair in pairwise(sizes)
    ]


def batch(seed, size=64, dtype=np.float64):
    random = np.random.default_rng(1000 + seed)
    x = random.normal(size=(size, SIZES[0])) * np.linspace(0.3, 2, SIZES[0]) + np.linspace(-1, 2, SIZES[0])
    return x.astype(dtype), random.integers(0, SIZES[-1], size)


def logits(layers, x):
    h = x
    for k, (weight, bias) in enumerate(layers):
        h = h @ weight if bias is None else h @ weight + bias
        h = jnp.tanh(h) if k < len(layers) - 1 else h
    return h


def loss_fn(layers, x, labels):
    log = jax.nn.log_softmax(logits(layers, x))
    return -jnp.mean(jnp.take_along_axis(log, labels[:, None], axis=1))


def trainer(optimizer, neurons):
    @jax.jit
    def step(params, state, x, labels):
        loss, grads, features = neurons.value_and_grad(params, x, labels)
        updates, state = optimizer.update(grads, state, params, features=features)
        return optax.apply_updates(params, updates), state, loss

    return step


def arrays(layers):
    return jax.tree.map(jnp.asarray, layers)


pytestmark = pytest.mark.usefixtures("quick_compilation")

ALGORITHM_2 = {"step": lnb.Norm(), "nesterov": False}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("settings", [{}, {"ridge": 1.0, "steps": 3}, {"shrinkage": 0.5, "weight_decay": 0.1}])
def test_thirty_steps_agree_with_numpy(x64, bias, settings):
    oracle = Algorithm2(learning_rate=0.3, **settings)
    expected = network(0, bias)
    params = arrays(expected)
    neurons = lnb.find_neurons(loss_fn, params, *batch(0))
    solver = lnb.CG(**{k: v for k, v in settings.items() if k != "weight_decay"})
    decay = settings.get("weight_decay", 1e-4)
    optimizer = lnb.lnb(neurons, 0.3, solver=solver, weight_decay=decay, **ALGORITHM_2)
    step, state = trainer(optimizer, neurons), optimizer.init(params)
    for k in range(30):
        x, labels = batch(k)
        expected = oracle.step(expected, x, labels)
        params, state, _ = step(params, state, x, labels)
    for got, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)


def test_the_average_looks_ahead_as_optax_does(standard_promotion):
    random = np.random.default_rng(0)
    adam = optax.scale_by_adam(0.9, 0.0, 0.0, nesterov=True)
    average = jnp.zeros(5)
    state = adam.init(average)
    for steps in range(4):
        gradient = jnp.asarray(random.normal(size=5), jnp.float32)
        ahead, average = _look_ahead(gradient, average, jnp.int32(steps), 0.9, nesterov=True)
        scaled, state = adam.update(gradient, state)  # divided by the last gradient's size
        np.testing.assert_allclose(ahead, scaled * jnp.abs(gradient), rtol=1e-5)


def exact_direction(layers, x, labels, ridge):
    """Algorithm 1: every neuron's normal equation solved densely, and z."""
    features, gradients = backpropagate(layers, x, labels)
    directions, z = [], 0.0
    for h, (g_weight, g_bias) in zip(features, gradients, strict=True):
        extended = np.concatenate([h, np.ones((len(h), 1))], axis=1)
        matrix = extended.T @ extended / len(h) + np.diag(np.append(np.full(h.shape[1], ridge), 0.0))
        gradient = np.concatenate([g_weight, g_bias[None]])
        direction = np.linalg.solve(matrix, gradient)
        z += (direction * gradient).sum()
        directions.append((direction[:-1], direction[-1]))
    return directions, z


@pytest.mark.parametrize("solver", [lnb.Cholesky(update_period=1, decay=0.0, ridge=0.1), lnb.CG(steps=40, ridge=0.1)])
def test_algorithm_1_is_the_exact_solution(x64, solver):
    layers = network(1)
    x, labels = batch(3)
    directions, z = exact_direction(layers, x, labels, 0.1)
    params = arrays(layers)
    neurons = lnb.find_neurons(loss_fn, params, x, labels)
    optimizer = lnb.lnb(neurons, 0.7, solver=solver, step=lnb.Norm(1e-6), gradient_decay=0.0, weight_decay=0.0)
    _, grads, features = neurons.value_and_grad(params, x, labels)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params, features=features)
    for got, wanted in zip(jax.tree.leaves(updates), jax.tree.leaves(directions), strict=True):
        np.testing.assert_allclose(got, -0.7 * wanted / np.sqrt(z), rtol=1e-8, atol=1e-10)


def test_a_step_is_a_gradient_step_on_whitened_inputs(x64):
    """Section 3.3: f(x) = theta^T S^-1/2 (x - mu) + b, stepped by its plain gradient, is the LNB step of f."""
    (weight, bias), *_ = network(2, sizes=(5, 3))
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 5)) @ random.normal(size=(5, 5)) + 2
    target = random.normal(size=(50, 3))

    def loss(params, features):
        return jnp.mean(jnp.sin(features @ params[0] + params[1] - target) ** 2)

    mean, covariance = x.mean(0), np.cov(x.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    whitened = (x - mean) @ root
    # The same function in whitened features.
    start = (np.linalg.solve(root, weight), bias + mean @ weight)
    gradient = jax.grad(loss)(arrays(start), jnp.asarray(whitened))
    stepped = jax.tree.map(lambda p, g: p - g, arrays(start), gradient)
    expected = whitened @ stepped[0] + stepped[1]

    params = arrays((weight, bias))
    neurons = lnb.find_neurons(loss, params, x)
    solver = lnb.Cholesky(update_period=1, decay=0.0, ridge=0.0)
    transform = lnb.scale_by_lnb(neurons, solver=solver, step=lnb.Norm(1e-9))
    _, grads, features = neurons.value_and_grad(params, x)
    updates, _ = jax.jit(transform.update)(grads, transform.init(params), params, features=features)
    length = np.sqrt(sum(float(jnp.vdot(g, g)) for g in jax.tree.leaves(gradient)))
    moved = jax.tree.map(lambda p, u: p - u * length, params, updates)
    np.testing.assert_allclose(x @ moved[0] + moved[1], expected, atol=1e-8)


@pytest.mark.parametrize(("rule", "learning_rate"), [(lnb.Norm(), 0.1), (lnb.Spectral(), 0.02)])
def test_affine_change_of_the_inputs_changes_nothing(x64, rule, learning_rate):
    scale, shift = np.array([0.01, 3.0, -0.5, 10.0, 1.0, 0.2]), np.array([5.0, -2.0, 0.0, 1.0, 30.0, -1.0])

    def train(layers, change):
        params = arrays(layers)
        x, labels = batch(0, 200)
        neurons = lnb.find_neurons(loss_fn, params, change(x), labels)
        solver = lnb.Cholesky(update_period=1, decay=0.5, ridge=0.0)
        optimizer = lnb.lnb(neurons, learning_rate, solver=solver, step=rule, weight_decay=0.0)
        step, state = trainer(optimizer, neurons), optimizer.init(params)
        for k in range(20):
            x, labels = batch(k, 200)
            params, state, _ = step(params, state, change(x), labels)
        return logits(params, change(batch(99, 50)[0]))

    layers = network(4)
    weight, bias = layers[0]
    changed = [(weight / scale[:, None], bias - (shift / scale) @ weight), *layers[1:]]
    plain = train(layers, lambda x: x)
    assert float(jnp.std(plain - logits(arrays(layers), batch(99, 50)[0]))) > 0.1  # it has learnt something
    np.testing.assert_allclose(train(changed, lambda x: x * scale + shift), plain, atol=1e-6)


SOLVERS = [lnb.CG(), lnb.Cholesky(update_period=2), lnb.Diagonal()]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_state_goes_through_scan_donation_and_flattening(solver):
    params = arrays(network(5, dtype=np.float32))
    x, labels = batch(0, dtype=np.float32)
    neurons = lnb.find_neurons(loss_fn, params, x, labels)
    optimizer = lnb.lnb(neurons, 0.01, solver=solver)

    def step(carry, _):
        params, state = carry
        loss, grads, features = neurons.value_and_grad(params, x, labels)
        updates, state = optimizer.update(grads, state, params, features=features)
        return (optax.apply_updates(params, updates), state), loss

    state = optimizer.init(params)
    (scanned, final), losses = jax.lax.scan(step, (params, state), None, length=5)
    assert losses[-1] < losses[0]
    donated = jax.jit(lambda p, s: step((p, s), None)[0], donate_argnums=(0, 1))
    looped, state = jax.tree.map(jnp.copy, params), optimizer.init(params)
    for _ in range(5):
        looped, state = donated(looped, state)
        state = jax.tree.unflatten(jax.tree.structure(final), jax.tree.leaves(state))
    for got, wanted in zip(jax.tree.leaves(looped), jax.tree.leaves(scanned), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_low_precision_networks_have_float32_statistics(dtype):
    params = jax.tree.map(lambda a: jnp.asarray(a, dtype), network(7, dtype=np.float32))
    x, labels = batch(0, dtype=np.float32)
    x = jnp.asarray(x, dtype)
    neurons = lnb.find_neurons(loss_fn, params, x, labels)
    optimizer = lnb.lnb(neurons, 0.2)
    step, state = trainer(optimizer, neurons), optimizer.init(params)
    losses = []
    for _ in range(10):
        params, state, loss = step(params, state, x, labels)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    kinds = {leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert kinds == {jnp.dtype(jnp.float32)}


def test_batches_may_change_their_size():
    params = arrays(network(8, dtype=np.float32))
    neurons = lnb.find_neurons(loss_fn, params, *batch(0, dtype=np.float32))
    optimizer = lnb.lnb(neurons, 0.1)
    step, state = trainer(optimizer, neurons), optimizer.init(params)
    for k, size in enumerate((64, 17, 1, 64)):
        params, state, loss = step(params, state, *batch(k, size, np.float32))
        assert np.isfinite(loss)
    assert int(state.skipped) == 0


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_changes_nothing(solver, poison):
    params = arrays(network(9, dtype=np.float32))
    x, labels = batch(0, dtype=np.float32)
    neurons = lnb.find_neurons(loss_fn, params, x, labels)
    optimizer = lnb.lnb(neurons, optax.linear_schedule(0.1, 0.0, 10), solver=solver)  # which counts steps too
    step, state = trainer(optimizer, neurons), optimizer.init(params)
    params, state, _ = step(params, state, x, labels)
    bad = x.copy()
    bad[3, 2] = poison
    after, skipped, _ = step(params, state, bad, labels)
    assert int(skipped.skipped) == 1
    assert int(skipped.skipped_in_a_row) == 1
    unchanged = (after, skipped._replace(skipped=state.skipped, skipped_in_a_row=state.skipped_in_a_row))
    for got, wanted in zip(jax.tree.leaves(unchanged), jax.tree.leaves((params, state)), strict=True):
        np.testing.assert_array_equal(got, wanted)
    after, state, loss = step(after, skipped, x, labels)
    assert np.isfinite(loss)
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (1, 0)


def test_parameters_with_the_identity_metric_count_in_the_length_of_the_norm_step(x64):
    params = {"weight": jnp.asarray(normal(3, 2)), "free": jnp.asarray(normal(5, 3, seed=1))}
    x = jnp.asarray(normal(5, 3, seed=2))
    neurons = lnb.find_neurons(lambda p, x: jnp.sum(jnp.tanh((x + p["free"]) @ p["weight"]) ** 2), params, x)
    assert {neuron.kind for neuron in neurons} == {"dense", "identity"}
    _, grads, features = neurons.value_and_grad(params, x)
    transform = lnb.scale_by_lnb(neurons, step=lnb.Norm())
    steps, _ = transform.update(grads, transform.init(params), params, features=features)
    length = sum(float(jnp.vdot(steps[key], grads[key])) for key in params)  # z / sqrt(z)
    np.testing.assert_allclose(steps["free"], grads["free"] / length, rtol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_finite_features_whose_squares_are_not_leave_the_statistics_finite(solver):
    def loss(weight, x):
        return jnp.mean(jnp.tanh(1e-30 * (x @ weight)))

    weight, x = jnp.ones((3, 2)), jnp.ones((8, 3))
    neurons = lnb.find_neurons(loss, weight, x)
    optimizer = lnb.lnb(neurons, 0.1, solver=solver)
    state, update = optimizer.init(weight), jax.jit(optimizer.update)
    for scale in (1.0, 1e25, 1.0):
        _, grads, features = neurons.value_and_grad(weight, x.at[:, 1].set(scale))
        assert np.isfinite(grads).all()
        updates, state = update(grads, state, weight, features=features)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, state)))


def test_polyak_needs_the_loss_and_reaches_zero_of_a_quadratic(x64):
    def loss(params, x):
        return jnp.mean((x @ params) ** 2)

    x, params = batch(0)[0], jnp.ones((6, 2))
    neurons = lnb.find_neurons(loss, params, x)
    optimizer = lnb.lnb(
        neurons,
        1.0,
        solver=lnb.Cholesky(1, 0.0, 0.0),
        gradient_decay=0.0,
        weight_decay=0.0,
        step=lnb.Polyak(min_norm=1e-9),
    )
    value, grads, features = neurons.value_and_grad(params, x)
    with pytest.raises(ValueError, match="`value` is missing"):
        optimizer.update(grads, optimizer.init(params), params, features=features)
    # The loss is quadratic along the direction, so Polyak's step halves the parameters.
    updates, _ = optimizer.update(grads, optimizer.init(params), params, features=features, value=value)
    np.testing.assert_allclose(params + updates, 0.5 * params, rtol=1e-6)


def test_bad_input_is_refused_in_words():
    params = arrays(network(0, dtype=np.float32))
    x, labels = batch(0, dtype=np.float32)
    neurons = lnb.find_neurons(loss_fn, params, x, labels)
    other = lnb.find_neurons(lambda p, x: jnp.sum(x @ p), jnp.ones((6, 2)), x)
    optimizer = lnb.lnb(neurons, 0.1)
    state = optimizer.init(params)
    _, grads, _ = neurons.value_and_grad(params, x, labels)
    _, _, foreign = other.value_and_grad(jnp.ones((6, 2)), x)
    cases = [
        (lambda: optimizer.update(grads, state, params), ValueError, "`features` is missing"),
        (lambda: optimizer.update(grads, state, params, features=foreign), ValueError, "another network"),
        (lambda: optimizer.update(grads, state, params, features=3), TypeError, "`features` must come from"),
        (lambda: neurons.value_and_grad(params[:2], x, labels), ValueError, "another structure"),
        (lambda: lnb.find_neurons(lambda p, x: x @ p, jnp.ones((6, 2)), x), TypeError, "scalar"),
        (lambda: lnb.find_neurons(loss_fn, params, x, labels, has_aux=True), TypeError, "has_aux"),
        (lambda: lnb.find_neurons(lambda p: 1.0 * p["n"], {"n": jnp.ones((), int)}), TypeError, r"\['n'\].*int"),
        (lambda: lnb.find_neurons(lambda p: 0.0, {}), ValueError, "no leaves"),
        (lambda: lnb.CG(ridge=-1.0), ValueError, "`ridge` of CG"),
        (lambda: lnb.CG(steps=0), ValueError, "`steps` of CG"),
        (lambda: lnb.Cholesky(update_period=0), ValueError, "`update_period` of Cholesky"),
        (lambda: lnb.Cholesky(decay=1.0), ValueError, "`decay` of Cholesky"),
        (lambda: lnb.Diagonal(shrinkage=1.5), ValueError, "`shrinkage` of Diagonal"),
        (lambda: lnb.lnb(neurons, -0.1), ValueError, "`learning_rate`"),
        (lambda: lnb.lnb(neurons, 0.1, gradient_decay=1.0), ValueError, "`gradient_decay`"),
        (lambda: lnb.lnb(neurons, 0.1, solver="cg"), TypeError, "`solver`"),
        (lambda: lnb.lnb(neurons, 0.1, step="norm"), TypeError, "`step` must be a step rule .*got 'norm'"),
        (lambda: lnb.scale_by_lnb(neurons, step=lnb.Norm), TypeError, "`step` must be a step rule"),
        (lambda: lnb.lnb(neurons, 0.1, solver=lnb.CG), TypeError, "`solver` must be a solver .*the class CG"),
        (lambda: lnb.lnb(neurons, 0.1, solver=lambda neuron: 3), TypeError, "got int for "),
        (lambda: lnb.lnb(loss_fn, 0.1), TypeError, "`neurons`"),
    ]
    for call, error, words in cases:
        with pytest.raises(error, match=words):
            call()


def test_each_neuron_may_have_its_own_solver():
    params = arrays(network(0, dtype=np.float32))
    x, labels = batch(0, dtype=np.float32)
    neurons = lnb.find_neurons(loss_fn, params, x, labels)
    mixed = lnb.scale_by_lnb(neurons, solver=lambda n: lnb.Diagonal() if n.inputs == 6 else lnb.Cholesky())
    whole = lnb.scale_by_lnb(neurons, solver=lnb.Cholesky())
    _, grads, features = neurons.value_and_grad(params, x, labels)
    first, second = (jax.jit(t.update)(grads, t.init(params), params, features=features)[0] for t in (mixed, whole))
    # The lengths differ, the directions of the neurons solved alike do not.
    ratio = np.asarray(first[1][0] / second[1][0])
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
    other = np.asarray(first[0][0] / second[0][0])
    assert np.ptp(other) > 0.01 * abs(other.mean())
