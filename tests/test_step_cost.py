"""What a compiled training step holds beside the network's own forward and backward pass."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import normal
from kernels import distinct_kernels

import lnb


def loss_fn(params, x):
    """Attention's three projections, a normalisation, and an MLP, twice."""
    for layer in params:
        q, k, v = (x @ layer[key] for key in "qkv")
        x = x + jax.nn.softmax(q @ k.T) @ v
        x = (x - x.mean(-1, keepdims=True)) * layer["scale"] + layer["shift"]
        x = x + jax.nn.gelu(x @ layer["up"] + layer["bias"]) @ layer["down"]
    return jnp.mean(jnp.square(x))


PARAMS = [
    {
        **{key: jnp.asarray(normal(8, 8, seed=k), jnp.float32) for key in "qkv"},
        "scale": jnp.ones(8),
        "shift": jnp.zeros(8),
        "up": jnp.asarray(normal(8, 16, seed=k), jnp.float32),
        "bias": jnp.zeros(16),
        "down": jnp.asarray(normal(16, 8, seed=k), jnp.float32),
    }
    for k in range(2)
]
X = jnp.asarray(normal(32, 8), jnp.float32)


def products(step, *args):
    """Matrix products of the compiled step; the inner products of z are none."""
    program = jax.jit(step).lower(*args).compile().as_text()
    return len(re.findall(r"= \w+\[\d[^ ]* dot\(", program))


def boosting_step(solver, loss_fn=loss_fn, params=PARAMS, x=X, **settings):
    """A step, and what it starts from."""
    neurons = lnb.find_neurons(loss_fn, params, x, strict=True)
    optimizer = lnb.lnb(neurons, 0.1, solver=solver, **settings)

    def step(params, state, x):
        value, grads, features = neurons.value_and_grad(params, x)
        updates, state = optimizer.update(grads, state, params, features=features)
        return optax.apply_updates(params, updates), state, value

    return step, optimizer.init(params)


def layers_of(width, depth):
    """Square layers, with biases."""
    return [(jnp.asarray(normal(width, width, seed=k), jnp.float32), jnp.zeros(width)) for k in range(depth)]


def perceptron_loss(layers, x):
    for weight, bias in layers:
        x = jnp.tanh(x @ weight + bias)
    return jnp.mean(jnp.square(x))


def adam_step(optimizer):
    """The same with Adam."""

    def step(params, state, x):
        value, grads = jax.value_and_grad(loss_fn)(params, x)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return step, optimizer.init(PARAMS)


@pytest.mark.usefixtures("standard_promotion")
def test_a_step_holds_no_second_pass():
    """With the diagonal, the products are Adam's and one a neuron, for its bias."""
    adam, adam_state = adam_step(optax.adam(1e-3))
    step, state = boosting_step(lnb.Diagonal(), step=lnb.Norm())
    passes = products(adam, PARAMS, adam_state, X)
    assert passes >= 3 * 2 * 5
    with_bias = 2 * 2
    assert passes <= products(step, PARAMS, state, X) <= passes + with_bias


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="kernels are counted as the CPU's compiler forms them")
@pytest.mark.parametrize(
    ("solver", "width"),
    [(lnb.Auto(), 8), (lnb.LowRank(4), 8), (lnb.Diagonal(), 8), (lnb.Cholesky(update_period=10), 128)],
    ids=["auto", "LowRank", "Diagonal", "Cholesky"],
)
def test_layers_of_one_shape_share_their_kernels(solver, width):
    """A network twice as deep has hardly more to compile."""
    x = jnp.asarray(normal(32, width), jnp.float32)

    def kernels(depth):
        layers = layers_of(width, depth)
        step, state = boosting_step(solver, perceptron_loss, layers, x)
        return distinct_kernels(jax.jit(step).lower(layers, state, x).compile().as_text())

    few, many = kernels(5), kernels(10)
    assert many <= 1.1 * few


@pytest.mark.skipif(jax.__version_info__ < (0, 9), reason="the compiler of JAX 0.8 writes one array more")
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("solver", [lnb.Diagonal(), lnb.LowRank(4)], ids=["Diagonal", "LowRank"])
def test_a_step_of_wide_layers_writes_two_arrays_like_their_weights(solver):
    """The gradient and the centered one; or the look ahead in the gradient's place, and what lies along the leaders."""
    layers, x = layers_of(256, 3), jnp.asarray(normal(16, 256), jnp.float32)
    step, state = boosting_step(solver, perceptron_loss, layers, x)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(layers, state, x).compile()
    weights = sum(weight.nbytes for weight, _ in layers)
    assert compiled.memory_analysis().temp_size_in_bytes <= 2.3 * weights


@pytest.mark.usefixtures("standard_promotion", "quick_compilation")
def test_the_state_can_be_donated():
    """A donated state is updated in place: the compiled step keeps no second copy of it."""
    for solver in (lnb.Auto(), lnb.LowRank(4), lnb.Cholesky(), lnb.CG()):
        step, state = boosting_step(solver)
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(PARAMS, state, X).compile()
        kept = sum(leaf.nbytes for leaf in jax.tree.leaves((PARAMS, state)))
        assert compiled.memory_analysis().alias_size_in_bytes >= kept
