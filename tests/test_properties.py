"""Random networks: M v against dense Jacobians, values and gradients against the untouched loss, in float64."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from oracle import dense_metric

import lnb

ACTIVATIONS = {"tanh": jnp.tanh, "gelu": jax.nn.gelu, "silu": jax.nn.silu, "relu": jax.nn.relu}


@st.composite
def dense_networks(draw):
    """Widths, and for each layer its bias, activation, residual, wrapper and how the product is written."""
    widths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    layers = [
        {
            "bias": draw(st.booleans()),
            "activation": draw(st.sampled_from(sorted(ACTIVATIONS))),
            "residual": draw(st.booleans()),
            "wrapper": draw(st.sampled_from(["none", "jit", "checkpoint", "vmap"])),
            "product": draw(st.sampled_from(["dot", "transposed", "einsum"])),
        }
        for _ in widths[1:]
    ]
    return widths, layers, draw(st.integers(1, 5)), draw(st.booleans()), draw(st.integers(0, 99))


def affine(layer, params, x):
    """The layer's neuron as the draw says to write it."""

    def function(params, x):
        weight = params["w"]
        if layer["product"] == "transposed":
            y = x @ weight.T.reshape(weight.shape[::-1]).T
        elif layer["product"] == "einsum":
            y = jnp.einsum("...i,io->...o", x, weight)
        else:
            y = x @ weight
        return y + params["b"] if layer["bias"] else y

    if layer["wrapper"] == "jit":
        return jax.jit(function)(params, x)
    if layer["wrapper"] == "checkpoint":
        return jax.checkpoint(function)(params, x)
    if layer["wrapper"] == "vmap":
        return jax.vmap(function, in_axes=(None, 0))(params, x)
    return function(params, x)


def forward(layers, params, x, upto=None):
    """The network's output, or the features of layer `upto`."""
    for k, layer in enumerate(layers):
        if k == upto:
            return x
        y = ACTIVATIONS[layer["activation"]](affine(layer, params[k], x))
        x = y + x if layer["residual"] and y.shape == x.shape else y
    return x


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dense_networks())
def test_random_dense_networks(x64, network):
    widths, layers, samples, tokens, seed = network
    random = np.random.default_rng(seed)
    params = []
    for pair, layer in zip(pairwise(widths), layers, strict=True):
        params.append({"w": jnp.asarray(random.normal(size=pair))})
        if layer["bias"]:
            params[-1]["b"] = jnp.asarray(random.normal(size=pair[1]))
    x = jnp.asarray(random.normal(size=(samples, 2, widths[0]) if tokens else (samples, widths[0])))

    def loss_fn(params, x):
        return jnp.mean(jnp.sin(forward(layers, params, x)))

    neurons = lnb.find_neurons(loss_fn, params, x, strict=True)
    value, grads, features = neurons.value_and_grad(params, x)
    expected, expected_grads = jax.value_and_grad(loss_fn)(params, x)
    np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-15)
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-14)
    vectors = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape)), params)
    products = neurons.metric_product(features, vectors)
    assert len(neurons) == len(layers)
    for k, layer in enumerate(layers):
        h = forward(layers, params, x, upto=k)
        count = int(np.prod(h.shape[:-1]))
        metric = dense_metric(lambda p, h=h, layer=layer: affine(layer, p, h), params[k], count)
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(vectors[k])])
        actual = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(products[k])])
        np.testing.assert_allclose(actual, metric @ flat, rtol=1e-9, atol=1e-12)


@st.composite
def convolutions(draw):
    """A convolution's every setting."""
    space = draw(st.integers(1, 2))
    groups = draw(st.integers(1, 2))
    return {
        "space": space,
        "groups": groups,
        "channels": groups * draw(st.integers(1, 2)),
        "outputs": groups * draw(st.integers(1, 2)),
        "kernel": tuple(draw(st.integers(1, 3)) for _ in range(space)),
        "strides": tuple(draw(st.integers(1, 2)) for _ in range(space)),
        "padding": [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(space)],
        "dilation": tuple(draw(st.integers(1, 2)) for _ in range(space)),
        "last": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(convolutions())
def test_random_convolutions(x64, c):
    random, axes = np.random.default_rng(c["seed"]), "HW"[: c["space"]]
    layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C") if c["last"] else (f"NC{axes}", f"OI{axes}", f"NC{axes}")
    sizes = {"N": 2, "C": c["channels"], "H": 6, "W": 5, "I": c["channels"] // c["groups"], "O": c["outputs"]}
    kernel = {**sizes, **dict(zip(axes, c["kernel"], strict=True))}
    x = jnp.asarray(random.normal(size=[sizes[a] for a in layout[0]]))
    params = {"w": jnp.asarray(random.normal(size=[kernel[a] for a in layout[1]]))}
    if c["bias"]:
        params["b"] = jnp.asarray(random.normal(size=c["outputs"]))

    def apply(params, x):
        y = lax.conv_general_dilated(
            x,
            params["w"],
            c["strides"],
            c["padding"],
            rhs_dilation=c["dilation"],
            dimension_numbers=layout,
            feature_group_count=c["groups"],
        )
        if not c["bias"]:
            return y
        return y + (params["b"] if c["last"] else params["b"].reshape(-1, *[1] * c["space"]))

    neurons = lnb.find_neurons(lambda p, x: jnp.mean(jnp.sin(apply(p, x))), params, x, strict=True)
    (neuron,) = neurons
    assert neuron.kind == "convolution"
    _, _, features = neurons.value_and_grad(params, x)
    metric = dense_metric(lambda p: apply(p, x), params, apply(params, x).size // c["outputs"])
    vector = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape)), params)
    flat, product = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (vector, neurons.metric_product(features, vector))
    )
    np.testing.assert_allclose(product, metric @ flat, rtol=1e-9, atol=1e-11)
    gram = jnp.einsum("gij,gjo->gio", neuron.gram(features), neuron.pack(vector))
    np.testing.assert_allclose(gram, neuron.pack(neurons.metric_product(features, vector)), rtol=1e-9, atol=1e-11)
