"""The metric that solvers see."""

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
