"""Data parallel training: the batch is split over the devices, and every device has all parameters.

JAX_NUM_CPU_DEVICES=8 python examples/data_parallel.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lnb


def loss_fn(params: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """A perceptron's squared error."""
    h = jnp.tanh(x @ params["w1"] + params["b1"])
    return jnp.mean(jnp.square(h @ params["w2"] + params["b2"] - y))


def main(steps: int = 200) -> float:
    """Train, print the loss, and return the last."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 64), "b1": (64,), "w2": (64, 1), "b2": (1,)}
    start = {name: rng.normal(size=shape).astype(np.float32) / shape[0] ** 0.5 for name, shape in shapes.items()}
    params = jax.device_put(start, NamedSharding(mesh, P()))  # on every device
    split = NamedSharding(mesh, P("data"))

    def batch() -> tuple[jax.Array, jax.Array]:
        x = rng.uniform(size=(256, 8)).astype(np.float32)
        return jax.device_put((x, np.sin(6 * x[:, :1]) + x[:, 1:2]), split)

    neurons = lnb.find_neurons(loss_fn, params, *batch())
    optimizer = lnb.lnb(neurons, optax.linear_schedule(0.05, 0.0, steps))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y):
        loss, grads, features = neurons.value_and_grad(params, x, y)
        updates, state = optimizer.update(grads, state, params, features=features)
        return optax.apply_updates(params, updates), state, loss

    loss = np.inf
    for count in range(steps):
        params, state, loss = jax.block_until_ready(step(params, state, *batch()))  # for simulated devices
        if count % (steps // 4) == 0:
            print(f"step {count:4d}  loss {loss:.4f}")
    return float(loss)


if __name__ == "__main__":
    main()
