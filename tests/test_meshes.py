"""Data parallel training on a mesh: eight devices take the steps that one does, with axes explicit or automatic.

In float64, since sums in another order round otherwise, and twenty steps make a few 1e-5 of that in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from lists import SOLVERS, STEPS, solvers

import lnb

BATCH = 32


def network(params, image, token, rows=None):
    """A convolution, a normalisation, a table, a scan over layers, a head: what has a metric of each kind.

    With explicit axes JAX wants to be told how looked-up rows are sharded.
    """
    h = lax.conv_general_dilated(image, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    h = jnp.tanh(h + params["bias"]).mean((1, 2))
    h = (
        (h - h.mean(-1, keepdims=True)) * params["scale"]
        + params["shift"]
        + params["table"].at[token].get(out_sharding=rows)
    )
    h, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, params["layers"])
    return h @ params["head"]


def loss_fn(params, image, token, rows=None):
    return jnp.mean(jnp.square(network(params, image, token, rows) - 1))


PARAMS = {
    "kernel": normal(3, 3, 2, 6) / 4,
    "bias": normal(6) / 4,
    "scale": 1 + normal(6, seed=1) / 4,
    "shift": normal(6, seed=2) / 4,
    "table": normal(5, 6),
    "layers": normal(2, 6, 6) / 2,
    "head": normal(6, 3) / 2,
}


def batches(count):
    random = np.random.default_rng(0)
    for _ in range(count):
        yield random.normal(size=(BATCH, 5, 5, 2)), random.integers(0, 5, BATCH)


def train(solver, step, put, whole=lambda tree: tree, rows=None, count=20):
    """The parameters after some steps, on arrays as `put` and `whole` lay them out."""
    params = whole(jax.tree.map(jnp.asarray, PARAMS))
    neurons = lnb.find_neurons(loss_fn, params, *put(*next(batches(1))), rows=rows, strict=True)
    optimizer = lnb.lnb(neurons, 0.05, solver=solver, step=step)

    @jax.jit
    def advance(params, state, image, token):
        loss, grads, features = neurons.value_and_grad(params, image, token, rows=rows)
        updates, state = optimizer.update(grads, state, params, features=features, value=loss)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    for image, token in batches(count):
        params, state, loss = advance(params, state, *put(image, token))
    assert int(state.skipped) == 0
    assert np.isfinite(loss)
    return params


def single(image, token):
    return jnp.asarray(image), jnp.asarray(token)


def sharded(mesh):
    """Lays a batch out over a mesh, and parameters on all of it; and how looked-up rows are sharded."""

    def put(image, token):
        return tuple(jax.device_put(array, NamedSharding(mesh, P("data"))) for array in single(image, token))

    rows = NamedSharding(mesh, P("data")) if AxisType.Explicit in mesh.axis_types else None
    return put, lambda tree: jax.device_put(tree, NamedSharding(mesh, P())), rows


@pytest.mark.usefixtures("x64", "standard_promotion", "quick_compilation")
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("solver", solvers(Cholesky={"update_period": 3}, LowRank={"rank": 3}).values(), ids=SOLVERS)
def test_eight_devices_of_a_default_mesh_take_the_steps_of_one(solver, step):
    expected = train(solver, step(), single)
    for name, got in train(solver, step(), *sharded(jax.make_mesh((8,), ("data",)))).items():
        np.testing.assert_allclose(got, expected[name], rtol=0, atol=1e-9 * np.abs(expected[name]).max(), err_msg=name)
        assert got.sharding.is_fully_replicated


@pytest.mark.usefixtures("x64", "standard_promotion", "quick_compilation")
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_the_mesh_may_be_set_for_all(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    expected = train(lnb.Auto(), lnb.Spectral(), single, count=3)
    with jax.set_mesh(mesh):
        params = train(lnb.Auto(), lnb.Spectral(), *sharded(mesh), count=3)
    for name, got in params.items():
        np.testing.assert_allclose(got, expected[name], rtol=0, atol=1e-9 * np.abs(expected[name]).max(), err_msg=name)


def test_statistics_of_a_sharded_batch_are_those_of_one_device(x64):
    put, whole, rows = sharded(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,)))
    batch = next(batches(1))
    params = jax.tree.map(jnp.asarray, PARAMS)
    vectors = jax.tree.map(lambda leaf: jnp.asarray(normal(*leaf.shape, seed=4)), PARAMS)
    neurons = lnb.find_neurons(loss_fn, params, *single(*batch))
    expected = neurons.value_and_grad(params, *single(*batch))[2]
    features = jax.jit(partial(neurons.value_and_grad, rows=rows))(whole(params), *put(*batch))[2]
    for neuron in neurons:
        np.testing.assert_allclose(neuron.gram(features), neuron.gram(expected), rtol=1e-10, atol=1e-12)
        for got, wanted in zip(neuron.moments(features), neuron.moments(expected), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)
    products = neurons.metric_product(features, whole(vectors)), neurons.metric_product(expected, vectors)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), *products)
