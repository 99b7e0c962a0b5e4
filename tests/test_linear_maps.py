"""M v, Gram matrix, moments and packing of every kind of neuron against dense Jacobians, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from oracle import dense_metric

import lnb


def found(case):
    params, args = case.inputs()
    neurons = lnb.find_neurons(case.loss_fn, params, *args)
    value, grads, features = neurons.value_and_grad(params, *args)
    return params, args, neurons, value, grads, features


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_finds_the_neurons_and_leaves_the_loss_alone(x64, case):
    params, args, neurons, value, grads, _ = found(case)
    expected, expected_grads = jax.value_and_grad(case.loss_fn)(params, *args)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-14)
    assert neurons.coverage == 1.0
    assert not neurons.uncovered
    for layer in case.layers:
        matching = [n for n in neurons if {f"['{key}']" for key in layer.keys} == set(n.paths)]
        assert {n.kind for n in matching} == {layer.kind}
        assert {n.samples for n in matching} == {layer.samples}
        assert sum(n.outputs for n in matching) == layer.sizes[2]
        assert {(n.groups, n.inputs) for n in matching} == {layer.sizes[:2]}
        assert all(path in str(neurons) for n in matching for path in n.paths)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_metric_product_is_the_dense_jacobians(x64, case):
    params, args, neurons, _, _, features = found(case)
    vectors = {key: jnp.asarray(np.random.default_rng(5).normal(size=p.shape)) for key, p in params.items()}
    got = neurons.metric_product(features, vectors)
    for layer in case.layers:
        chosen = {key: params[key] for key in layer.keys}
        metric = dense_metric(lambda sub, o=layer.output: o(sub, params, *args), chosen, layer.samples)
        flat = np.concatenate([np.ravel(vectors[key]) for key in sorted(layer.keys)])
        expected = metric @ flat
        actual = np.concatenate([np.ravel(got[key]) for key in sorted(layer.keys)])
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gram_matrix_moments_and_packing_agree_with_products(x64, case):
    params, _, neurons, _, _, features = found(case)
    leaves = jax.tree.leaves(params)
    for neuron in neurons:
        packed = neuron.pack(params)
        assert packed.shape == neuron.shape
        parts = neuron.unpack(packed)
        for path, leaf in zip(neuron.paths, (leaves[k] for k in neuron.leaves), strict=True):
            inside = np.asarray(parts[path])
            np.testing.assert_array_equal(inside[inside != 0], np.asarray(leaf)[inside != 0])
        if neuron.kind in ("identity", "general"):
            with pytest.raises(ValueError, match="has no"):
                neuron.gram(features)
            continue
        product = neuron.pack(neurons.metric_product(features, params))
        gram = neuron.gram(features)
        np.testing.assert_allclose(jnp.einsum("gij,gjo->gio", gram, packed), product, rtol=1e-10, atol=1e-12)
        mean, square = neuron.moments(features)
        assert mean.shape == square.shape == (neuron.groups, neuron.inputs)
        if neuron.kind != "convolution":  # whose moments are over the input's pixels
            diagonal = jnp.diagonal(gram, axis1=1, axis2=2)[:, : neuron.inputs]
            np.testing.assert_allclose(square, diagonal, rtol=1e-10)
            if neuron.has_bias:
                np.testing.assert_allclose(mean, gram[:, -1, :-1], rtol=1e-10, atol=1e-14)


def test_a_convolutions_moments_are_of_its_channels(x64):
    case = next(case for case in CASES if case.name == "groups")
    _, (x,), neurons, _, _, features = found(case)
    mean, square = neurons[0].moments(features)
    channels = x.mean((0, 1, 2)).reshape(2, 2)
    np.testing.assert_allclose(mean.reshape(2, 2, 4), np.repeat(channels[:, :, None], 4, axis=2), rtol=1e-12)
    channels = (x**2).mean((0, 1, 2)).reshape(2, 2)
    np.testing.assert_allclose(square.reshape(2, 2, 4), np.repeat(channels[:, :, None], 4, axis=2), rtol=1e-12)
