"""What `find_neurons` returns: data, names, and parameters that are meant to be left alone."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnb

pytestmark = pytest.mark.usefixtures("quick_compilation")

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


def test_an_ignored_parameter_leaves_value_and_gradients_as_they_are():
    neurons = lnb.find_neurons(loss_fn, PARAMS, X, ignore=["['first']['weight']", "['scale']"])
    value, grads, features = jax.jit(neurons.value_and_grad)(PARAMS, X)
    expected, expected_grads = jax.value_and_grad(loss_fn)(PARAMS, X)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), grads, expected_grads)
    transform = lnb.scale_by_lnb(neurons, step=lnb.Norm())
    updates, _ = transform.update(grads, transform.init(PARAMS), PARAMS, features=features)
    np.testing.assert_array_equal(updates["first"]["weight"], 0)
    np.testing.assert_array_equal(updates["scale"], 0)
    assert np.any(updates["last"] != 0)


def test_names_stand_in_place_of_the_paths_of_a_list():
    params = [jnp.ones((3, 2)), jnp.ones(2), jnp.ones((2, 2))]
    names = ["dense/kernel", "dense/bias", "head/kernel"]

    def loss_fn(params, x):
        return jnp.mean(jnp.square(jnp.tanh(x @ params[0] + params[1]) @ params[2]))

    neurons = lnb.find_neurons(loss_fn, params, X, names=names)
    assert [neuron.paths for neuron in neurons] == [("dense/kernel", "dense/bias"), ("head/kernel",)]
    assert "dense/kernel + dense/bias" in str(neurons)
    assert lnb.find_neurons(loss_fn, params, X, names=names, ignore="head/kernel").ignored == ("head/kernel",)
    for wrong in (names[:2], ["a", "a", "b"], "abc"):
        with pytest.raises(ValueError, match="`names` must be a distinct name for each of the 3 leaves"):
            lnb.find_neurons(loss_fn, params, X, names=wrong)
    with pytest.raises(ValueError, match=r"no path in `params`: .* such as 'dense/kernel'"):
        lnb.find_neurons(loss_fn, params, X, names=names, ignore="head")


def hardly_covered(params, x):
    hidden = jnp.tanh(x @ jax.lax.stop_gradient(params["large"]) @ jax.lax.stop_gradient(params["small"]))
    return jnp.sum(hidden @ params["covered"])


def test_a_network_that_is_hardly_covered_warns_of_the_largest_parameters_left_out():
    params = {"large": jnp.ones((3, 40)), "small": jnp.ones((40, 2)), "covered": jnp.ones((2, 9))}
    with pytest.warns(UserWarning, match=r"The neurons cover 8\.3% of the parameters") as caught:
        lnb.find_neurons(hardly_covered, params, X)
    (warning,) = caught
    message = str(warning.message)
    assert message.index("['large'] (120 elements): its gradient is stopped by `stop_gradient`") < message.index(
        "['small']"
    )
    assert warning.filename == __file__


def test_what_is_ignored_is_not_warned_of():
    params = {"large": jnp.ones((3, 40)), "small": jnp.ones((40, 2)), "covered": jnp.ones((2, 9))}
    neurons = lnb.find_neurons(hardly_covered, params, X, ignore=["['large']", "['small']"])
    assert neurons.coverage == 1


def test_neurons_are_data():
    neurons = tuple(lnb.find_neurons(loss_fn, PARAMS, X))
    assert tuple(lnb.find_neurons(loss_fn, PARAMS, X)) == neurons
    assert pickle.loads(pickle.dumps(neurons)) == neurons
    assert "paths=(\"['last']\",), kind='dense'" in repr(neurons)
    for neuron, again in zip(neurons, pickle.loads(pickle.dumps(neurons)), strict=True):
        np.testing.assert_array_equal(again.pack(PARAMS), neuron.pack(PARAMS))
    assert neurons[0] != neurons[1]


def test_neurons_of_a_function_of_a_module_are_pickled():
    neurons = lnb.find_neurons(loss_fn, PARAMS, X)
    again = pickle.loads(pickle.dumps(neurons))
    assert str(again) == str(neurons)
    _, grads, features = again.value_and_grad(PARAMS, X)
    optimizer = lnb.lnb(neurons, 0.1)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS, features=features)
    assert np.any(updates["last"] != 0)


def test_a_path_that_is_none_is_an_error():
    with pytest.raises(ValueError, match=r"`ignore` has 'scale', which is no path"):
        lnb.find_neurons(loss_fn, PARAMS, X, ignore=["scale"])
