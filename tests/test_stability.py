"""Networks that diverged at the default settings train at them."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal

import lnb

pytestmark = pytest.mark.usefixtures("quick_compilation")


def losses(loss_fn, params, batches, rate, **settings):
    """The loss before each step."""
    batches = list(batches)
    neurons = lnb.find_neurons(loss_fn, params, *batches[0])
    optimizer = lnb.lnb(neurons, rate, **settings)

    @jax.jit
    def step(params, state, *batch):
        loss, grads, features = neurons.value_and_grad(params, *batch)
        updates, state = optimizer.update(grads, state, params, features=features)
        return optax.apply_updates(params, updates), state, loss

    state, found = optimizer.init(params), []
    for batch in batches:
        params, state, loss = step(params, state, *batch)
        found.append(float(loss))
    return np.array(found)


def layers(*sizes, dtype=jnp.float32):
    weights = [normal(i, o, seed=k) / i**0.5 for k, (i, o) in enumerate(pairwise(sizes))]
    return [(jnp.asarray(weight, dtype), jnp.zeros(weight.shape[1], dtype)) for weight in weights]


def mlp(params, x):
    *hidden, (weight, bias) = params
    for w, b in hidden:
        x = jnp.tanh(x @ w + b)
    return x @ weight + bias


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-8])
def test_small_inputs_train_like_large_ones(scale):
    """Without a bound on what a metric of features near zero asks for, the loss rose to 27 and to 5e5."""
    target = normal(6, 4, seed=9)

    def loss_fn(params, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(mlp(params, x), y).mean()

    inputs = [normal(64, 6, seed=100 + k) for k in range(150)]
    batches = ((jnp.asarray(scale * x, jnp.float32), jnp.asarray((x @ target).argmax(1))) for x in inputs)
    found = losses(loss_fn, layers(6, 16, 12, 4), batches, 0.02)
    assert found.max() < 1.1 * found[0]
    assert found[-10:].mean() < 0.2


@pytest.mark.usefixtures("x64")
def test_measurements_in_units_of_their_own_train_as_in_equal_units():
    """Features that come with the data may be scaled one by one: the network trains alike if its weights undo that."""
    scales, mixing = np.logspace(-3, 3, 40), normal(40, 40, seed=7) / 40**0.5
    inputs = [normal(32, 40, seed=k) @ mixing + 1 for k in range(40)]

    def loss_fn(params, x, y):
        return jnp.square(mlp(params, x)[:, 0] - y).mean()

    def train(scales):
        (first, bias), *rest = layers(40, 200, 1, dtype=float)
        params = [(jnp.asarray(first / scales[:, None]), bias), *rest]
        batches = ((jnp.asarray(x * scales), jnp.asarray(np.sin(x @ mixing[0]))) for x in inputs)
        return losses(loss_fn, params, batches, 0.05)

    np.testing.assert_allclose(train(scales), train(np.ones(40)), rtol=1e-5)


def test_a_head_that_is_the_embedding_trains():
    """With a root of theta^T g, which is not symmetric there, the loss rose from 5 to 100."""
    vocabulary, width = 64, 32
    params = {
        "embedding": jnp.asarray(0.1 * normal(vocabulary, width), jnp.float32),
        "up": jnp.asarray(normal(width, 64) / width**0.5, jnp.float32),
        "down": jnp.asarray(normal(64, width) / 8, jnp.float32),
    }

    def loss_fn(params, tokens):
        x = params["embedding"][tokens[:, :-1]]
        normalised = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
        x = x + jnp.tanh(normalised @ params["up"]) @ params["down"]
        logits = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) @ params["embedding"].T
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    random = np.random.default_rng(0)
    successor = random.permutation(vocabulary)

    def tokens():
        rows = [random.integers(0, vocabulary, 16)]
        for _ in range(16):
            rows.append(successor[rows[-1]])
        return jnp.asarray(np.stack(rows, axis=1), jnp.int32)

    found = losses(loss_fn, params, ((tokens(),) for _ in range(120)), 0.05)
    assert found.max() < 1.1 * found[0]
    assert found[-10:].mean() < 0.2 * found[0]


def test_an_equation_solved_by_reverse_mode_derivatives_stays_near_its_first_loss():
    """Burgers' equation: every weight is used as W and as W^T, and the loss rose from 1.4 to 500."""

    def u(params, t, x):
        return mlp(params, jnp.stack([t, x]))[0]

    def residual(params, t, x):
        u_t, u_x = jax.grad(u, (1, 2))(params, t, x)
        u_xx = jax.grad(jax.grad(u, 2), 2)(params, t, x)
        return u_t + u(params, t, x) * u_x - 0.01 / np.pi * u_xx

    def loss_fn(params, t, x, start):
        inside = jax.vmap(residual, (None, 0, 0))(params, t, x)
        first = jax.vmap(u, (None, 0, 0))(params, jnp.zeros_like(start), start) + jnp.sin(np.pi * start)
        return jnp.square(inside).mean() + jnp.square(first).mean()

    random = np.random.default_rng(0)

    def points():
        t, x, start = random.uniform(size=300), random.uniform(-1, 1, 300), random.uniform(-1, 1, 60)
        return tuple(jnp.asarray(each, jnp.float32) for each in (t, x, start))

    found = losses(loss_fn, layers(2, 32, 32, 1), (points() for _ in range(100)), 0.05)
    assert found.max() < 2 * found[0]
    assert found[-10:].mean() < 0.5 * found[0]
