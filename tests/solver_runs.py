"""Networks to solve, and updates on one batch."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import normal

import lnb


def network(params, x):
    """Two layers that read the same features, one on top, and one whose weight is used again as its transpose."""
    first = jnp.tanh(x @ params["first"]["weight"] + params["first"]["bias"])
    second = jnp.sin(x @ params["second"]["weight"] + params["second"]["bias"])
    h = jnp.tanh((first * second) @ params["top"])
    code = jnp.tanh(h @ params["tied"]["weight"] + params["tied"]["bias"])
    return code @ params["tied"]["weight"].T + params["tied"]["back"]


def loss_fn(params, x):
    return jnp.mean(jnp.square(network(params, x) - 1))


PARAMS = {
    "first": {"weight": normal(4, 3), "bias": normal(3)},
    "second": {"weight": normal(4, 3, seed=1), "bias": normal(3, seed=1)},
    "top": normal(3, 5),
    "tied": {"weight": normal(5, 2), "bias": normal(2), "back": normal(5)},
}


def evaluate(x, params=PARAMS):
    """Neurons, gradient and features."""
    params = jax.tree.map(jnp.asarray, params)
    neurons = lnb.find_neurons(loss_fn, params, x, strict=True)
    _, grads, features = neurons.value_and_grad(params, x)
    return neurons, grads, features


def run(transform, params, grads, features, steps):
    """The last of some updates on the same batch."""
    update, state = jax.jit(transform.update), transform.init(params)
    for _ in range(steps):
        updates, state = update(grads, state, params, features=features)
    return updates


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def deep(params, x):
    for weight in params:
        x = jnp.tanh(x @ weight)
    return jnp.mean(jnp.square(x - 1))
