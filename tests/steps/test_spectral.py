import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lists import RELATIVE, SOLVERS, solvers

import lnb
from lnb._numerics import inner
from lnb.steps._spectral import norm_step, spectral_flops, spectral_step

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")


def metric_of(random, inputs, condition=30.0):
    rotation = np.linalg.qr(random.standard_normal((inputs, inputs)))[0]
    return (rotation * np.geomspace(1, condition, inputs)) @ rotation.T


@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9))
def test_step_has_the_singular_vectors_of_the_whitened_gradient_and_lengths_of_about_one(seed, inputs, outputs):
    random = np.random.default_rng(seed)
    metric, gradient = metric_of(random, inputs), random.standard_normal((inputs, outputs))
    step = np.asarray(spectral_step(np.linalg.solve(metric, gradient)[None], gradient[None])[0])[0]
    values, vectors = np.linalg.eigh(metric)
    root = (vectors * values**0.5) @ vectors.T
    left, lengths, right = np.linalg.svd(np.linalg.inv(root) @ gradient, full_matrices=False)
    seen = left.T @ root @ step @ right.T  # diagonal where the vectors are the same
    known = lengths > 0.02 * np.linalg.norm(lengths)
    np.testing.assert_allclose(seen - np.diag(np.diag(seen)), 0, atol=1e-6)
    assert np.all(np.abs(np.diag(seen)[known] - 1) < 0.35)
    assert np.all(np.diag(seen) < 1.3)


def test_groups_are_steps_of_their_own():
    random = np.random.default_rng(0)
    theta = random.standard_normal((3, 5, 4))
    gradient = np.stack([metric_of(random, 5) @ part for part in theta])
    whole, _ = spectral_step(jnp.asarray(theta), jnp.asarray(gradient))
    for part, one, other in zip(whole, theta, gradient, strict=True):
        np.testing.assert_allclose(part, spectral_step(one[None], other[None])[0][0], rtol=1e-9)


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 3, 7), (3, 4, 4)])
def test_a_bias_that_is_kept_apart_changes_nothing(shape):
    random = np.random.default_rng(6)
    theta = random.standard_normal(shape)
    gradient = jnp.asarray(np.stack([metric_of(random, shape[1]) @ part for part in theta]))
    theta = jnp.asarray(theta)
    together, apart = (spectral_step(theta, gradient, bias) for bias in (False, True))
    np.testing.assert_allclose(apart[0], together[0], rtol=1e-9)
    for _, squared in (together, apart):
        np.testing.assert_allclose(squared, inner(theta, gradient), rtol=1e-9)


def test_a_direction_that_no_metric_gives_takes_the_step_in_the_mean():
    gradient = jnp.asarray(np.random.default_rng(7).standard_normal((1, 4, 3)))
    direction = gradient * jnp.array([1.0, 1.0, -1.0])  # theta^T g has a negative eigenvalue
    squared = inner(direction, gradient)
    assert squared > 0
    np.testing.assert_allclose(spectral_step(direction, gradient)[0], norm_step(direction, squared), rtol=1e-9)


def test_groups_that_go_together_have_one_length():
    direction = jnp.asarray(np.random.default_rng(4).standard_normal((7, 2, 1)))
    step = norm_step(direction, inner(direction, 3 * direction).sum(keepdims=True))
    np.testing.assert_allclose(step, direction / (3**0.5 * jnp.linalg.norm(direction)), rtol=1e-9)


def test_scales_of_different_widths_are_neurons_of_their_own():
    x = jnp.asarray(np.random.default_rng(5).standard_normal((30, 6)))
    params = {"wide": jnp.ones(6), "narrow": jnp.ones(4)}
    neurons = lnb.find_neurons(lambda p, x: jnp.tanh(jnp.tanh(x * p["wide"])[:, :4] * p["narrow"]).sum(), params, x)
    _, grads, features = neurons.value_and_grad(params, x)
    transform = lnb.scale_by_lnb(neurons, solver=lnb.Cholesky(update_period=1, decay=0.0, ridge=1e-12))
    updates, _ = transform.update(grads, transform.init(params), params, features=features)
    for neuron in neurons:
        update = np.asarray(neuron.pack(updates))
        squares = np.sum(np.square(update) * np.asarray(neuron.gram(features)))
        np.testing.assert_allclose(squares, 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 5, 3)])
def test_a_gradient_of_zero_gives_no_step(shape):
    zero = jnp.zeros(shape)
    assert not spectral_step(zero, zero)[0].any()
    assert not norm_step(zero, inner(zero, zero)).any()


@pytest.mark.usefixtures("standard_promotion")
def test_with_the_identity_metric_it_is_muons_step():
    gradient = jnp.asarray(np.random.default_rng(1).standard_normal((6, 4)), jnp.float32)
    muon = optax.contrib.scale_by_muon(beta=0.0, nesterov=False, eps=0.0)
    theirs, _ = muon.update(gradient, muon.init(gradient), gradient)
    ours = spectral_step(gradient[None], gradient[None])[0][0]
    left, _, right = np.linalg.svd(gradient, full_matrices=False)
    for step in (ours, theirs):  # each within its own polynomial's distance of the polar factor
        lengths = left.T @ step @ right.T
        np.testing.assert_allclose(lengths, np.diag(np.diag(lengths)), atol=1e-4)
        assert np.all(np.abs(np.diag(lengths) - 1) < 0.35)


def problem(scale):
    random = np.random.default_rng(2)
    x, y = random.standard_normal((400, 6)) * scale, random.standard_normal((400, 3))
    params = {
        "first": jnp.asarray(random.standard_normal((6, 5)) / scale),
        "bias": jnp.zeros(5),
        "scale": jnp.ones(5),
        "last": jnp.asarray(random.standard_normal((5, 3))),
        "offset": jnp.zeros((400, 3)),
    }

    def loss_fn(params):
        hidden = jnp.tanh(jnp.asarray(x) @ params["first"] + params["bias"]) * params["scale"]
        return jnp.square(hidden @ params["last"] + params["offset"] - jnp.asarray(y)).mean()

    return loss_fn, params


def train(scale, steps, solver):
    loss_fn, params = problem(scale)
    neurons = lnb.find_neurons(loss_fn, params)
    optimizer = lnb.lnb(neurons, 0.02, solver=solver, weight_decay=0.0)
    state, losses = optimizer.init(params), []

    @jax.jit
    def step(params, state):
        loss, grads, features = neurons.value_and_grad(params)
        updates, state = optimizer.update(grads, state, params, features=features)
        return optax.apply_updates(params, updates), state, loss

    for _ in range(steps):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("solver", solvers(**RELATIVE).values(), ids=SOLVERS)
def test_training_falls_with_every_solver(solver):
    losses = train(1.0, 40, solver)
    assert losses[-1] < 0.5 * losses[0]


def test_training_does_not_depend_on_the_scale_of_the_features():
    solver = lnb.Cholesky(ridge_unit="mean variance")
    np.testing.assert_allclose(train(100.0, 40, solver), train(1.0, 40, solver), rtol=1e-6)


def test_each_neurons_output_changes_by_the_learning_rate_and_no_parameter_is_left_out():
    loss_fn, params = problem(1.0)
    neurons = lnb.find_neurons(loss_fn, params)
    optimizer = lnb.lnb(neurons, 1.0, solver=lnb.Cholesky(ridge=1e-9), weight_decay=0.0)
    _, grads, features = neurons.value_and_grad(params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params, features=features)
    for neuron in neurons:
        if neuron.kind != "dense":
            continue
        change = np.asarray(neuron.pack(updates))[0]
        squares = np.linalg.eigvalsh(change.T @ np.asarray(neuron.gram(features))[0] @ change)
        assert 0.7 < squares.max() ** 0.5 < 1.3
    np.testing.assert_allclose(np.linalg.norm(updates["offset"]), 3**0.5, rtol=1e-6)
    assert all(np.any(update != 0) for update in jax.tree.leaves(updates))


@pytest.mark.parametrize(("samples", "is_spectral"), [(400, False), (4000, True)])
def test_a_neuron_of_few_samples_for_its_size_takes_a_step_as_long_without_the_root(samples, is_spectral):
    random = np.random.default_rng(3)
    x, params = jnp.asarray(random.standard_normal((samples, 40))), jnp.asarray(random.standard_normal((40, 36)))
    neurons = lnb.find_neurons(lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 3), params, x)
    _, grads, features = neurons.value_and_grad(params, x)
    transform = lnb.scale_by_lnb(neurons, solver=lnb.Cholesky(update_period=1, decay=0.0, ridge=1e-12))
    update, _ = transform.update(grads, transform.init(params), params, features=features)
    lengths = np.linalg.eigvalsh(update.T @ neurons[0].gram(features)[0] @ update) ** 0.5
    direction = np.linalg.solve(neurons[0].gram(features)[0], grads)
    is_along_the_gradient = np.allclose(update / np.linalg.norm(update), direction / np.linalg.norm(direction))
    assert is_along_the_gradient != is_spectral
    np.testing.assert_allclose(np.mean(lengths**2), 1, rtol=0.35 if is_spectral else 1e-6)


def test_the_operations_of_a_step_are_those_of_its_products():
    shape = (2, 24, 16)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32)] * 2
    counted = jax.jit(spectral_step).lower(*arrays).compile().cost_analysis()["flops"]
    assert 0.9 * counted < spectral_flops(shape) < counted


@pytest.mark.parametrize(
    ("inputs", "outputs", "bias"), [pytest.param(6, 4, True, marks=pytest.mark.slow), (3, 8, False)]
)
def test_a_neuron_kept_as_its_equations_steps_as_far_as_a_plain_layer(inputs, outputs, bias):
    """Outputs move by as much in the mean, within what the spectral step's polynomial leaves."""
    random = np.random.default_rng(0)
    x, target = (jnp.asarray(random.standard_normal((40, size))) for size in (inputs, outputs))
    params = {"w": jnp.asarray(random.standard_normal((inputs, outputs)))}
    params |= {"b": jnp.zeros(outputs)} if bias else {}
    forms = {
        "plain": lambda w: w,
        "masked": lambda w: w * np.linspace(1, 1 + 1e-12, w.size).reshape(w.shape),  # no single factor
        "summed": lambda w: jnp.cumsum(jnp.concatenate([w[:1], jnp.diff(w, axis=0)]), 0),
    }

    def moved(form):
        def layer(p):
            return x @ forms[form](p["w"]) + (p["b"] if bias else 0)

        neurons = lnb.find_neurons(lambda p: jnp.mean((layer(p) - target) ** 2), params)
        assert [neuron.kind for neuron in neurons] == ["dense" if form == "plain" else "reparametrised"]
        assert neurons[0].samples == 40
        optimizer = lnb.scale_by_lnb(neurons, solver=lnb.CG(steps=32, ridge=1e-9))

        @jax.jit
        def update(params):
            _, grads, features = neurons.value_and_grad(params)
            return optimizer.update(grads, optimizer.init(params), params, features=features)[0]

        updates = update(params)
        return float(jnp.sqrt(jnp.mean(layer(updates) ** 2)))

    plain = moved("plain")
    for form in ("masked", "summed"):
        assert 1 / 1.27 < moved(form) / plain < 1 / 0.73


def test_the_operations_of_parts_are_those_of_as_many_groups():
    arrays = [jax.ShapeDtypeStruct((1, 24, 48), jnp.float32)] * 2
    step = jax.jit(lambda direction, gradient: spectral_step(direction, gradient, parts=3))
    counted = step.lower(*arrays).compile().cost_analysis()["flops"]
    assert 0.9 * counted < spectral_flops((3, 24, 16)) < counted
