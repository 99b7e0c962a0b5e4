"""Parameters that are meant to be left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnb

PARAMS = {"first": {"weight": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "scale": jnp.ones(2), "last": jnp.ones((2, 2))}
X = jnp.ones((5, 3))


def loss_fn(params, x):
    h = jnp.tanh(x @ params["first"]["weight"] + params["first"]["bias"])
    return jnp.mean(jnp.square(h * jnp.exp(params["scale"]) @ params["last"] - 1))


def test_an_ignored_parameter_is_neither_covered_nor_missing():
    neurons = lnb.find_neurons(loss_fn, PARAMS, X, strict=True, ignore="['scale']")
    assert neurons.uncovered == ()
    assert neurons.ignored == ("['scale']",)
    assert neurons.coverage == 1.0
    assert "Ignored as asked" in str(neurons)


def test_a_path_stands_for_all_below_it():
    neurons = lnb.find_neurons(loss_fn, PARAMS, X, ignore=["['first']", "['scale']"])
    assert neurons.ignored == ("['first']['bias']", "['first']['weight']", "['scale']")
    assert [neuron.paths for neuron in neurons] == [("['last']",)]
    assert lnb.find_neurons(loss_fn, PARAMS, X, ignore="params").ignored == tuple(
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(PARAMS)
    )


def test_an_ignored_parameter_is_trained_with_the_identity_metric():
    neurons = lnb.find_neurons(loss_fn, PARAMS, X, ignore=["['first']['weight']", "['scale']"])
    value, grads, features = jax.jit(neurons.value_and_grad)(PARAMS, X)
    expected, expected_grads = jax.value_and_grad(loss_fn)(PARAMS, X)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    transform = lnb.scale_by_lnb(neurons, step="norm")
    updates, _ = transform.update(grads, transform.init(PARAMS), PARAMS, features=features)
    ratio = updates["first"]["weight"] / expected_grads["first"]["weight"]
    np.testing.assert_allclose(ratio, jnp.broadcast_to(ratio[0, 0], ratio.shape), rtol=1e-5)
    np.testing.assert_allclose(updates["scale"] / expected_grads["scale"], ratio[0], rtol=1e-5)


def test_a_path_that_is_none_is_an_error():
    with pytest.raises(ValueError, match=r"`ignore` has 'scale', which is no path"):
        lnb.find_neurons(loss_fn, PARAMS, X, ignore=["scale"])
