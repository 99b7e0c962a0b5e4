"""Samples that the loss leaves out: weighted features are those of the samples that count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import normal
from jax import lax
from lists import SOLVERS, STEPS, solvers

import lnb

BATCH, LENGTH, KEPT = 8, 5, np.array([0, 1, 3, 6, 7])


def recurrent(params, x):
    """A loop over time, which weights are shared by."""
    start = jnp.zeros((len(x), 4), x.dtype)
    last, _ = lax.scan(lambda h, step: (jnp.tanh(h @ params["w"] + step), None), start, x.swapaxes(0, 1))
    return last


def stacked(params, x):
    """A loop over layers, each with weights of its own."""
    return lax.scan(lambda h, layer: (jnp.tanh(h @ layer[0] + layer[1]), None), x, (params["w"], params["b"]))[0]


def convolved(params, x):
    y = lax.conv_general_dilated(x, params["w"], (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    return jnp.tanh(y + params["b"])


NETWORKS = {
    "dense": (lambda p, x: x @ p["w"] + p["b"], {"w": normal(4, 3), "b": normal(3)}, normal(BATCH, 4)),
    "positions": (lambda p, x: x @ p["w"] + p["b"], {"w": normal(4, 3), "b": normal(3)}, normal(BATCH, LENGTH, 4)),
    "two weights": (
        lambda p, x: x @ p["w"] + x[:, :2] @ p["v"],
        {"w": normal(4, 3), "v": normal(2, 3)},
        normal(BATCH, 4),
    ),
    "scale": (lambda p, x: x * p["g"] + p["b"], {"g": normal(4), "b": normal(4, seed=1)}, normal(BATCH, LENGTH, 4)),
    "lookup": (
        lambda p, i: p["table"][i],
        {"table": normal(6, 3)},
        np.random.default_rng(0).integers(0, 6, (BATCH, LENGTH)),
    ),
    "convolution": (convolved, {"w": normal(3, 4, 2), "b": normal(2)}, normal(BATCH, 6, 4)),
    "loop over time": (recurrent, {"w": normal(4, 4)}, normal(BATCH, LENGTH, 4)),
    "loop over layers": (stacked, {"w": normal(2, 4, 4), "b": normal(2, 4)}, normal(BATCH, 4)),
    "tied": (lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T, {"w": normal(4, 3)}, normal(BATCH, 4)),
    "general": (lambda p, x: (x[:, :, None] * p["w"]).sum(1), {"w": normal(4, 3)}, normal(BATCH, 4)),
    "reparametrised": (lambda p, x: x @ jnp.exp(p["w"]), {"w": normal(4, 3)}, normal(BATCH, 4)),
}


def loss_of(network):
    return lambda params, x: jnp.mean(jnp.sin(network(params, x)) ** 2)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_zero_and_one_choose_samples(x64, name):
    network, params, x = NETWORKS[name]
    params, loss_fn = jax.tree.map(jnp.asarray, params), loss_of(network)
    vectors = jax.tree.map(lambda leaf: jnp.asarray(normal(*leaf.shape, seed=5)), params)
    neurons = lnb.find_neurons(loss_fn, params, jnp.asarray(x))
    weight = np.isin(np.arange(BATCH), KEPT).astype(float)

    @jax.jit
    def statistics(x, weight):
        features = neurons.value_and_grad(params, x)[2]
        features = features if weight is None else features.weighted(weight)
        canonical = [n for n in neurons if n.kind not in ("tied", "general", "reparametrised", "identity")]
        grams = [(neuron.gram(features), neuron.moments(features)) for neuron in canonical]
        return neurons.metric_product(features, vectors), grams

    got = statistics(jnp.asarray(x), weight)
    expected = statistics(jnp.asarray(x[KEPT]), None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, expected)
    # Their scale does not matter, and weights of one are none.
    again = statistics(jnp.asarray(x), 0.3 * weight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), again, got)
    ones, plain = statistics(jnp.asarray(x), np.ones(BATCH)), statistics(jnp.asarray(x), None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ones, plain)


@pytest.mark.parametrize("flat", [False, True])
def test_each_position_may_have_a_weight(x64, flat):
    network, params, x = NETWORKS["positions"]
    params, mask = jax.tree.map(jnp.asarray, params), np.random.default_rng(1).random((BATCH, LENGTH)) < 0.6
    x = jnp.asarray(x.reshape(-1, 4) if flat else x)
    (neuron,) = neurons = lnb.find_neurons(loss_of(network), params, x)
    features = neurons.value_and_grad(params, x)[2]
    rows = np.concatenate([np.reshape(x, (-1, 4))[mask.reshape(-1)], np.ones((mask.sum(), 1))], axis=1)
    np.testing.assert_allclose(neuron.gram(features.weighted(mask))[0], rows.T @ rows / len(rows), rtol=1e-9)


def test_each_step_of_a_loop_over_time_may_have_a_weight(x64):
    network, params, x = NETWORKS["loop over time"]
    params, x = jax.tree.map(jnp.asarray, params), jnp.asarray(x)
    lengths = np.array([1, 2, 3, 4, 5, 5, 4, 2])
    mask = np.arange(LENGTH) < lengths[:, None]
    (neuron,) = neurons = lnb.find_neurons(loss_of(network), params, x)
    features = neurons.value_and_grad(params, x)[2]
    states, h = [], np.zeros((BATCH, 4))
    for k in range(LENGTH):
        states.append(h[mask[:, k]])
        h = np.tanh(h @ params["w"] + x[:, k])
    rows = np.concatenate(states)
    np.testing.assert_allclose(neuron.gram(features.weighted(mask))[0], rows.T @ rows / len(rows), rtol=1e-9)


def test_weights_of_another_shape_are_refused():
    network, params, x = NETWORKS["dense"]
    neurons = lnb.find_neurons(loss_of(network), jax.tree.map(jnp.asarray, params), jnp.asarray(x))
    features = neurons.value_and_grad(jax.tree.map(jnp.asarray, params), jnp.asarray(x))[2]
    with pytest.raises(ValueError, match=r"does not fit neuron 0, which has samples of shape \(8,\)"):
        features.weighted(np.ones(7))
    with pytest.raises(ValueError, match="got a single number"):
        features.weighted(1.0)


PARAMS = {
    "w": jnp.asarray(normal(6, 5), jnp.float32),
    "b": jnp.zeros(5),
    "head": jnp.asarray(normal(5, 2), jnp.float32),
}


def masked_loss(params, x, y, mask):
    error = jnp.square(jnp.tanh(x @ params["w"] + params["b"]) @ params["head"] - y).sum(1)
    return (error * mask).sum() / mask.sum()


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("solver", solvers(LowRank={"rank": 3}).values(), ids=SOLVERS)
def test_32_rows_step_alone_as_among_96_that_are_masked(solver, step):
    x = jnp.asarray(normal(32, 6), jnp.float32)
    y = x[:, :2]

    def updates_of(x, y, mask, weighted):
        neurons = lnb.find_neurons(masked_loss, PARAMS, x, y, mask)
        optimizer = lnb.lnb(neurons, 0.1, solver=solver, step=step())

        @jax.jit
        def update(state):
            loss, grads, features = neurons.value_and_grad(PARAMS, x, y, mask)
            features = features.weighted(mask) if weighted else features
            return optimizer.update(grads, state, PARAMS, features=features, value=loss)

        _, state = update(optimizer.init(PARAMS))
        return update(state)[0]

    expected = updates_of(x, y, jnp.ones(32), weighted=False)
    rest = jnp.full((96, 6), 100.0)
    mask = jnp.concatenate([jnp.ones(32), jnp.zeros(96)])
    got = updates_of(jnp.concatenate([x, rest]), jnp.concatenate([y, rest[:, :2]]), mask, weighted=True)
    for name, update in got.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(update, expected[name], rtol=0, atol=1e-5 * scale, err_msg=name)
