"""Maps over devices: the neurons, and their metrics, are those of the same network on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import lnb

PARAMS = {
    "weight": normal(3, 2),
    "bias": normal(2),
    "scale": normal(2, seed=1),
    "shift": normal(2, seed=2),
    "recurrent": normal(2, 2),
}
VECTORS = {key: normal(*value.shape, seed=3) for key, value in PARAMS.items()}


def network(params, x):
    h = jnp.tanh(x @ params["weight"] + params["bias"]) * params["scale"] + params["shift"]
    h, _ = jax.lax.scan(lambda h, _: (jnp.sin(h @ params["recurrent"]), None), h, None, length=2)
    return jnp.sum(h**2)


@pytest.fixture
def mesh(x64):
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("check_vma", [True, False])
def test_replicated_parameters_are_shared_by_the_devices(mesh, check_vma):
    def loss_fn(params, x):
        def body(params, x):
            return jax.lax.pmean(network(params, x), "data")

        specs = {"in_specs": (P(), P("data")), "out_specs": P(), "check_vma": check_vma}
        return jax.shard_map(body, mesh=mesh, **specs)(params, x)

    def on_one_device(params, x):
        return network(params, x) / mesh.size

    params, vectors = jax.tree.map(jnp.asarray, (PARAMS, VECTORS))
    x = jnp.asarray(normal(4 * mesh.size, 3))
    assert mesh.size > 1
    neurons, single = (lnb.find_neurons(loss, params, x) for loss in (loss_fn, on_one_device))
    assert str(neurons) == str(single)
    value, grads, features = jax.jit(neurons.value_and_grad)(params, x)
    value_single, grads_single, features_single = single.value_and_grad(params, x)
    np.testing.assert_allclose(value, value_single, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), grads, grads_single)
    products = neurons.metric_product(features, vectors), single.metric_product(features_single, vectors)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), *products)

    optimizer = lnb.lnb(neurons, 0.1)

    @jax.jit
    def step(params, state):
        value, grads, features = neurons.value_and_grad(params, x)
        updates, state = optimizer.update(grads, state, params, features=features)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    for _ in range(5):
        params, state, value = step(params, state)
    assert value < value_single


def test_a_parameter_split_over_devices_says_so(mesh):
    def loss_fn(weight, x):
        def body(weight, x):
            return jax.lax.psum(x @ weight, "data")

        return jax.shard_map(body, mesh=mesh, in_specs=(P("data"), P(None, "data")), out_specs=P())(weight, x).sum()

    with pytest.warns(UserWarning, match="The neurons cover 0"):
        neurons = lnb.find_neurons(loss_fn, jnp.ones((mesh.size, 2)), jnp.ones((3, mesh.size)))
    ((_, reason),) = neurons.uncovered
    assert reason == "split over devices by `shard_map`: give it to the map replicated, `P()`"
