"""How weights are laid out, whatever the program did to them before they met data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import normal
from oracle import dense_metric

import lnb

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [1, 2], [0, 3]])
def test_chosen_rows_are_packed_in_the_order_in_which_they_are_used(rows):
    """The first and the last row say nothing of those between."""
    weight, x = jnp.asarray(normal(4, 3), jnp.float32), jnp.asarray(normal(5, len(rows)), jnp.float32)
    (neuron,) = neurons = lnb.find_neurons(lambda w, x: jnp.sum(jnp.tanh(x @ w[jnp.array(rows)])), weight, x)
    assert neuron.kind == "dense"
    np.testing.assert_array_equal(neuron.pack(weight)[0], weight[jnp.array(rows)])
    _, _, features = neurons.value_and_grad(weight, x)
    vector = np.asarray(normal(4, 3, seed=1), np.float32)
    expected = vector.copy()  # rows that no sample meets have the identity metric
    expected[rows] = np.asarray(x).T @ np.asarray(x) @ vector[rows] / len(x)
    np.testing.assert_allclose(neurons.metric_product(features, jnp.asarray(vector)), expected, rtol=1e-5, atol=1e-6)


def test_equations_are_read_through_a_loop_that_hands_on_the_weight(x64):
    """A loop hands the weight on unchanged, which JAX takes out of it, and the weight is used after the loop."""

    def loss_fn(weight, x):
        def body(carry, _):
            h, w = carry
            return (jnp.sin(h), w), None

        (h, w), _ = jax.lax.scan(body, (x, weight), None, length=2)
        return jnp.sum(jnp.tanh(h @ jnp.cumsum(w, 0)))

    weight, x, vector = jnp.asarray(normal(4, 3)), normal(5, 4, seed=2), jnp.asarray(normal(4, 3, seed=3))
    neurons = lnb.find_neurons(loss_fn, weight, jnp.asarray(x))
    assert [neuron.kind for neuron in neurons] == ["reparametrised"]
    _, _, features = neurons.value_and_grad(weight, jnp.asarray(x))
    jacobian = np.sin(np.sin(x)) @ np.tril(np.ones((4, 4)))
    expected = jacobian.T @ jacobian @ np.asarray(vector) / 5
    np.testing.assert_allclose(neurons.metric_product(features, vector), expected, rtol=1e-10)


def test_a_neuron_that_is_subtracted_takes_in_no_bias(x64):
    """The bias would have to enter with the other sign than the weight."""
    params = {"w": jnp.asarray(normal(4, 3)), "b": jnp.asarray(normal(3))}
    x = jnp.asarray(normal(5, 4, seed=2))
    neurons = lnb.find_neurons(lambda p, x: jnp.sum(jnp.tanh((jnp.sin(x[:, :3]) - x @ p["w"]) + p["b"])), params, x)
    assert {neuron.paths: neuron.kind for neuron in neurons} == {("['b']",): "identity", ("['w']",): "dense"}


def test_weights_with_other_factors_are_not_one_weight_with_one_factor(x64):
    params = {"u": jnp.asarray(normal(2, 3)), "v": jnp.asarray(normal(4, 3, seed=1))}
    x = jnp.asarray(normal(5, 6, seed=2))

    def layer(params):
        return x @ jnp.concatenate([2 * params["u"], params["v"]])

    neurons = lnb.find_neurons(lambda params, x: jnp.sum(jnp.tanh(layer(params))), params, x)
    (neuron,) = neurons
    _, _, features = neurons.value_and_grad(params, x)
    vectors = {key: jnp.asarray(normal(*value.shape, seed=3)) for key, value in params.items()}
    products = neurons.metric_product(features, vectors)
    got, vector = (np.concatenate([np.ravel(tree[key]) for key in "uv"]) for tree in (products, vectors))
    np.testing.assert_allclose(got, dense_metric(layer, params, neuron.samples) @ vector, rtol=1e-10)


@pytest.mark.parametrize("runs", [True, False])
def test_a_transposed_use_that_does_not_run_counts_no_samples(x64, runs):
    weight, x = jnp.asarray(normal(4, 3)), jnp.asarray(normal(5, 4, seed=2))

    def loss_fn(w, x, runs):
        h = jnp.tanh(x @ w)
        return jnp.sum(jax.lax.cond(runs, lambda w: jnp.tanh(h @ w.T), lambda w: x, w))

    neurons = lnb.find_neurons(loss_fn, weight, x, True)
    _, _, features = neurons.value_and_grad(weight, x, runs)
    vector, h = normal(4, 3, seed=3), np.tanh(np.asarray(x @ weight))
    expected = np.asarray(x.T @ x) @ vector
    expected = (expected + vector @ (h.T @ h)) / 10 if runs else expected / 5
    np.testing.assert_allclose(neurons.metric_product(features, jnp.asarray(vector)), expected, rtol=1e-10)
