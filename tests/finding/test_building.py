"""How weights are laid out, whatever the program did to them before they met data."""

import jax.numpy as jnp
import numpy as np
import pytest
from cases import normal

import lnb


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
