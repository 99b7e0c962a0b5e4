"""The metric that solvers see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import normal

import lnb
from lnb._metric import metric_of

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_fewer_samples_are_every_kth(x64):
    params = {"w": jnp.asarray(normal(4, 3))}
    x = jnp.asarray(normal(12, 5, 4))
    neurons = lnb.find_neurons(lambda p, x: jnp.tanh(x @ p["w"]).sum(), params, x)
    (neuron,) = neurons
    _, _, features = neurons.value_and_grad(params, x)
    gram, _ = metric_of(neuron.features, features.arrays).subsample(1 / 4).gram()
    rows = np.reshape(x[::4], (-1, 4))
    np.testing.assert_allclose(gram[0], rows.T @ rows / len(rows), rtol=1e-12)


def hidden(loss_fn, params, *batch):
    """Of each neuron, by its first parameter, which of its features move as the network is trained."""
    neurons = lnb.find_neurons(loss_fn, params, *batch)
    metrics = {neuron.paths[0]: metric_of(neuron.features, distance=1.0) for neuron in neurons}
    return {path: metric.drift(1.0, float).astype(bool).tolist() for path, metric in metrics.items()}


def test_features_that_the_network_computes_are_told_from_the_data_s():
    def loss_fn(params, x):
        return jnp.tanh(jnp.tanh(jnp.cos(x) @ params["a"]) @ params["b"]).sum()

    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    assert hidden(loss_fn, params, jnp.ones((5, 3))) == {"['a']": [False] * 3, "['b']": [True] * 4}


def test_what_a_loop_carries_is_computed_and_what_it_is_given_is_not():
    def loss_fn(params, x):
        def cell(h, x):
            return jnp.tanh(x @ params["data"] + jnp.sin(h) @ params["carried"]), None

        return jax.lax.scan(cell, jnp.zeros((5, 4)), x)[0].sum()

    params = {"carried": jnp.ones((4, 4)), "data": jnp.ones((3, 4))}
    (of_both,) = hidden(loss_fn, params, jnp.ones((6, 5, 3))).values()
    assert sorted(of_both) == [False] * 3 + [True] * 4


def test_the_drift_of_computed_features_is_their_ridge(x64):
    """The first step with a drift of d steps at rate r is that with the ridge (d r)^2, for computed features alone."""
    params = {"a": jnp.asarray(normal(3, 4)), "b": jnp.asarray(normal(4, 2))}
    x = jnp.asarray(normal(9, 3))

    def loss_fn(params, x):
        return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]).sum()

    neurons = lnb.find_neurons(loss_fn, params, x)
    _, grads, features = neurons.value_and_grad(params, x)

    def step(solver):
        optimizer = lnb.lnb(neurons, 0.1, solver=solver)
        return optimizer.update(grads, optimizer.init(params), params, features=features)[0]

    for make in (lnb.Cholesky, lnb.LowRank):
        drifting, without, ridged = step(make(ridge=0, drift=3.0)), step(make(ridge=0)), step(make(ridge=0.09))
        np.testing.assert_allclose(drifting["a"], without["a"], rtol=1e-9)
        np.testing.assert_allclose(drifting["b"], ridged["b"], rtol=1e-6)
        assert not np.allclose(drifting["b"], without["b"], rtol=1e-3)


def test_the_sampling_ridge_counts_the_samples_that_the_averages_are_worth(x64):
    """1 / n of an average with weights w_k of batches of n_k samples is the sum of w_k^2 / n_k."""
    weight = jnp.asarray(normal(3, 2))
    neurons = lnb.find_neurons(lambda w, x: jnp.tanh(x @ w).sum(), weight, jnp.ones((8, 3)))
    sizes, decay = (8, 5, 12), 0.7
    weights = decay ** np.arange(len(sizes))[::-1]
    weights /= weights.sum()
    for solver in (lnb.Cholesky(update_period=1, decay=decay), lnb.LowRank(2, decay=decay)):
        state = solver.init(metric_of(neurons[0].features), jnp.float64)
        for k, size in enumerate(sizes):
            _, _, features = neurons.value_and_grad(weight, jnp.asarray(normal(size, 3, seed=k)))
            metric = metric_of(neurons[0].read(features), features.arrays)
            state = solver.update(metric, state, jnp.asarray(k + 1))
        np.testing.assert_allclose(state.inverse_count, [[np.sum(weights**2 / sizes)]], rtol=1e-9)


@pytest.mark.parametrize("weights", [None, (1.0, 0.0, 2.0, 0.5, 0.0, 1.0, 3.0, 1.0)])
def test_the_fourth_moment_is_that_of_the_features_about_a_center(x64, weights):
    """Of a dense layer, a convolution and experts, all computed from the patches or rows in NumPy."""
    params = {
        "w": jnp.asarray(normal(4, 3)),
        "kernel": jnp.asarray(normal(2, 2, 3, 5)),
        "experts": jnp.asarray(normal(3, 4, 2)),
    }
    x, image, expert = normal(8, 4), normal(8, 3, 3, 3), np.array([0, 2, 2, 0, 1, 2, 0, 1])

    def loss_fn(params, x, image, expert):
        convolved = jax.lax.conv_general_dilated(
            image, params["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        mixed = jnp.einsum("ni,nio->no", x, params["experts"][expert])
        return jnp.tanh(x @ params["w"]).sum() + jnp.tanh(convolved).sum() + jnp.tanh(mixed).sum()

    batch = jnp.asarray(x), jnp.asarray(image), jnp.asarray(expert)
    neurons = lnb.find_neurons(loss_fn, params, *batch)
    features = neurons.value_and_grad(params, *batch)[2]
    share = np.ones(8) if weights is None else np.array(weights)
    if weights is not None:
        features = features.weighted(jnp.asarray(weights))
    patches = [image[:, r : r + 2, c : c + 2].transpose(0, 3, 1, 2).reshape(8, -1) for r in (0, 1) for c in (0, 1)]
    rows = {
        "['w']": [(x, share)],
        "['kernel']": [(np.concatenate(patches), np.tile(share, 4))],
        "['experts']": [(x[expert == k], share[expert == k]) for k in range(3)],
    }
    assert {neuron.name for neuron in neurons} == rows.keys()
    for neuron in neurons:
        center, scale = (normal(neuron.groups, neuron.inputs, seed=seed) for seed in (5, 6))
        metric = metric_of(neuron.read(features), features.arrays)
        got = metric.fourth_moment(jnp.asarray(center), jnp.asarray(scale))
        for group, (own, weight) in enumerate(rows[neuron.name]):
            wanted = (weight[:, None] * (own - center[group]) ** 4).sum(0) / weight.sum() / scale[group] ** 2
            np.testing.assert_allclose(got[group], wanted, rtol=1e-10, err_msg=neuron.name)


@pytest.mark.parametrize("solver", [lnb.Cholesky, lnb.LowRank])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_ridge_of_the_features_own_variance_has_any_scale(solver, scale):
    """In 32 bits, where the fourth power of the scale is no number, the step is that for other features, scaled."""
    weight, x, gradient = (jnp.asarray(normal(*shape), jnp.float32) for shape in ((4, 3), (9, 4), (4, 3)))
    neurons = lnb.find_neurons(lambda w, x: jnp.tanh(x @ w).sum(), weight, x)
    transform = lnb.scale_by_lnb(
        neurons, solver=solver(ridge=0, ridge_unit="variance", sampling_ridge=3.0), step=lnb.StepRule()
    )

    def direction(scale):
        features = neurons.value_and_grad(weight, x * jnp.float32(scale))[2]
        return transform.update(gradient, transform.init(weight), weight, features=features)[0]

    wanted = direction(1.0)
    assert not np.allclose(wanted, np.linalg.solve(x.T @ x / 9, gradient), rtol=0.1)
    np.testing.assert_allclose(direction(scale) * jnp.float32(scale) ** 2, wanted, rtol=1e-4)


def test_examples_have_their_gram_matrix_renewed_at_every_step_and_positions_in_turn():
    def choice(*shape):
        (neuron,) = lnb.find_neurons(lambda w, x: jnp.tanh(x @ w).sum(), jnp.ones((40, 256)), jnp.ones(shape))
        return lnb.Auto(update_period=7).choose(neuron)

    assert (choice(256, 40).update_period, choice(64, 65, 40).update_period) == (1, 7)
    assert choice(256, 40).ridge_unit == "variance"
