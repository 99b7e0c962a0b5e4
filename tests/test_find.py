"""What is found in whole networks of two frameworks, and what finding costs the step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lnb


def kinds(neurons):
    return sorted((n.kind, n.groups, n.inputs, n.outputs, n.has_bias) for n in neurons)


def test_equinox_networks():
    keys = jax.random.split(jax.random.key(0), 8)
    model = {
        "conv": eqx.nn.Conv2d(2, 4, 3, key=keys[0]),
        "norm": eqx.nn.GroupNorm(2, 4),
        "attention": eqx.nn.MultiheadAttention(2, 4, key=keys[1]),
        "dropout": eqx.nn.Dropout(0.5),
        "mlp": eqx.nn.MLP(4, 3, 5, 1, key=keys[2]),
        "rms": eqx.nn.RMSNorm(4),
    }
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def apply(model, image, key):
        h = jax.nn.relu(model["norm"](model["conv"](image)))
        h = h.reshape(4, -1).T
        h = h + model["attention"](h, h, h)
        h = eqx.filter_jit(jax.vmap(model["rms"]))(h)
        h = model["dropout"](h, key=key).mean(0)
        return eqx.filter_checkpoint(model["mlp"])(h)

    def loss_fn(params, images, keys):
        return jnp.mean(jax.vmap(lambda i, k: apply(eqx.combine(params, static), i, k))(images, keys) ** 2)

    neurons = lnb.find_neurons(loss_fn, params, jnp.ones((3, 2, 5, 5)), keys[:3], strict=True)
    assert kinds(neurons) == sorted(
        [("convolution", 1, 18, 4, True), ("scale", 4, 1, 1, True), ("scale", 4, 1, 1, True)]
        + [("dense", 1, 4, 4, False)] * 4
        + [("dense", 1, 4, 5, True), ("dense", 1, 5, 3, True)]
    )
    query, key, value = (n for n in neurons if any(f"{p}_proj" in n.name for p in ("query", "key", "value")))
    assert len({neurons.sharing[n.index] for n in (query, key, value)}) == 1


class Network(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        self.layer_norm = nnx.LayerNorm(4, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((4, 4)))
        self.head = nnx.LinearGeneral(4, (2, 3), rngs=rngs)

    def __call__(self, image, tokens):
        h = nnx.gelu(self.norm(self.conv(image))).reshape(image.shape[0], -1, 4)
        h = h + self.embed(tokens) + self.positions
        return self.head(self.attention(self.layer_norm(h)))


def test_nnx_network_with_state(standard_promotion):
    graph, params, rest = nnx.split(Network(nnx.Rngs(0)), nnx.Param, ...)

    def loss_fn(params, rest, image, tokens):
        model = nnx.merge(graph, params, rest, copy=True)
        value = jnp.mean(model(image, tokens) ** 2)
        return value, nnx.state(model, nnx.BatchStat)

    arguments = rest, jnp.ones((3, 2, 2, 2)), jnp.zeros((3, 4), int)
    neurons = lnb.find_neurons(loss_fn, params, *arguments, has_aux=True, strict=True)
    assert kinds(neurons) == sorted(
        [("convolution", 1, 18, 4, True), ("scale", 4, 1, 1, True), ("scale", 4, 1, 1, True)]
        + [("dense", 1, 4, 4, True)] * 4
        + [("dense", 1, 4, 6, True), ("embedding", 1, 7, 4, False), ("identity", 16, 0, 1, False)]
    )
    (value, state), grads, _ = neurons.value_and_grad(params, *arguments)
    (expected, _), expected_grads = jax.value_and_grad(loss_fn, has_aux=True)(params, *arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert jax.tree.structure(grads) == jax.tree.structure(expected_grads)
    assert len(jax.tree.leaves(state)) == 2


def test_the_step_holds_no_second_pass():
    """The products in a compiled step with `Diagonal` are Adam's: those of one forward and one backward pass."""
    params = [(jnp.ones((5, 6)), jnp.ones(6)), (jnp.ones((6, 7)), jnp.ones(7)), (jnp.ones((7, 2)), jnp.ones(2))]

    def loss_fn(params, x):
        for weight, bias in params:
            x = jnp.tanh(x @ weight + bias)
        return jnp.mean(x**2)

    x = jnp.ones((8, 5))
    neurons = lnb.find_neurons(loss_fn, params, x)
    optimizer = lnb.lnb(neurons, 0.1, solver=lnb.Diagonal())

    def step(params, state, x):
        _, grads, features = neurons.value_and_grad(params, x)
        return optimizer.update(grads, state, params, features=features)

    def products(function, *arguments):
        return str(jax.make_jaxpr(function)(*arguments)).count("preferred_element_type")

    plain = products(jax.value_and_grad(loss_fn), params, x)
    # The whitening's own are small: a mean with the weights for each neuron, and for each parameter its part of z.
    own = len(neurons) + len(jax.tree.leaves(params))
    assert products(step, params, optimizer.init(params), x) == plain + own
