"""Networks of OTT-JAX: potentials, and the velocity field of flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from public_models import data
from public_models.losses import squares
from public_models.trial import Trial, model

KEY = jax.random.key(0)


def _transported(step: int) -> Sequence[np.ndarray]:
    """(x [n, 2], y [n, 2]): y is the gradient of a convex function at x."""
    x = np.random.default_rng((1, step)).normal(size=(128, 2))
    y = x @ np.array([[2.0, 0.5], [0.5, 1.0]]) + np.tanh(2 * x)
    return x.astype(np.float32), y.astype(np.float32)


def _transport(potential: Any) -> Trial:
    """The map of a potential, which is its gradient, is fitted to a known one."""

    def loss_fn(params: Any, x: Any, y: Any) -> Any:
        return squares(potential.potential_gradient_fn(params)(x), y)

    return Trial(loss_fn, potential.init(KEY, jnp.ones(2))["params"], _transported)


@model("OTT-JAX", "ICNN", "ott-jax")
def icnn() -> Trial:
    from ott.neural.networks.icnn import ICNN

    return _transport(ICNN(dim_data=2, dim_hidden=[32, 32], act_fn=jax.nn.softplus))


@model("OTT-JAX", "ICNN with positive weights", "ott-jax")
def positive_icnn() -> Trial:
    from ott.neural.networks.icnn import ICNN

    network = ICNN(dim_data=2, dim_hidden=[32, 32], act_fn=jax.nn.softplus, ranks=2, pos_weights=True)
    return _transport(network)


@model("OTT-JAX", "PotentialMLP", "ott-jax")
def potential_mlp() -> Trial:
    from ott.neural.networks.potentials import PotentialMLP

    return _transport(PotentialMLP(dim_hidden=[64, 64], act_fn=jax.nn.gelu))


@model("OTT-JAX", "PotentialMLP of the gradient", "ott-jax")
def gradient_mlp() -> Trial:
    from ott.neural.networks.potentials import PotentialMLP

    return _transport(PotentialMLP(dim_hidden=[64, 64], is_potential=False))


@model("OTT-JAX", "velocity field MLP", "ott-jax")
def velocity_field() -> Trial:
    from flax import nnx
    from ott.neural.methods.flow_matching import interpolate_samples
    from ott.neural.networks.velocity_field.mlp import MLP

    network = MLP(2, hidden_dims=[64, 64], time_enc_num_freqs=8, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    moons = data.two_moons()

    def batch(step: int) -> Sequence[np.ndarray]:
        (x,) = moons(step)
        noise = np.random.default_rng((2, step)).normal(size=x.shape).astype(np.float32)
        samples = interpolate_samples(jax.random.key(step), noise, x)
        return samples["t"], samples["x_t"], samples["v_t"]

    def loss_fn(params: Any, t: Any, x: Any, v: Any) -> Any:
        return squares(nnx.merge(graph, params, rest)(t, x, rngs=nnx.Rngs(0)), v)

    return Trial(loss_fn, params, batch)


@model("OTT-JAX", "velocity field U-Net", "ott-jax")
def velocity_field_unet() -> Trial:
    from flax import nnx
    from ott.neural.methods.flow_matching import interpolate_samples
    from ott.neural.networks.velocity_field.unet import UNet

    network = UNet(
        shape=(8, 8, 3),
        model_channels=32,
        num_res_blocks=1,
        attention_resolutions=(2,),
        channel_mult=(1, 1),
        num_heads=2,
        rngs=nnx.Rngs(0),
    )
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    images = data.images(8, count=8)

    def batch(step: int) -> Sequence[np.ndarray]:
        x, _ = images(step)
        noise = np.random.default_rng((2, step)).normal(size=x.shape).astype(np.float32)
        samples = interpolate_samples(jax.random.key(step), noise, x)
        return samples["t"], samples["x_t"], samples["v_t"]

    def loss_fn(params: Any, t: Any, x: Any, v: Any) -> Any:
        return squares(nnx.merge(graph, params, rest)(t, x, rngs=nnx.Rngs(0)), v) / x[0].size

    return Trial(loss_fn, params, batch)
