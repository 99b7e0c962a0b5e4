"""Physics-informed networks of JAX-PI, with its weight factorization and its Fourier embedding.

Their file is imported by itself: the package around it imports names that JAX no longer has.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from public_models import data
from public_models.losses import squares
from public_models.trial import Trial, model

KEY = jax.random.key(0)
FACTORIZED = {"type": "weight_fact", "mean": 0.5, "stddev": 0.1}
FOURIER = {"embed_scale": 1.0, "embed_dim": 32}
SETTINGS = {"num_layers": 3, "hidden_dim": 32, "reparam": FACTORIZED, "fourier_emb": FOURIER}


def _archs() -> Any:
    """The file of its networks."""
    package = find_spec("jaxpi")
    if package is None or package.origin is None:
        raise ImportError("no checkout of JAX-PI")
    loader = SourceFileLoader("jaxpi_archs", str(Path(package.origin).with_name("archs.py")))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    archs = module_from_spec(spec)
    loader.exec_module(archs)
    return archs


def _regress(network: Any, output: Any = lambda result: result) -> Trial:
    """A function of the plane, at single points as JAX-PI evaluates its networks."""

    def loss_fn(params: Any, x: Any, y: Any) -> Any:
        return squares(jax.vmap(lambda x: output(network.apply({"params": params}, x)))(x), y)

    return Trial(loss_fn, network.init(KEY, jnp.ones(2))["params"], data.regression((2,), (1,), 256))


def _square(step: int) -> Sequence[np.ndarray]:
    """(inside [n, 2], boundary [m, 2]): points of the unit square."""
    rng = np.random.default_rng((1, step))
    inside, boundary = rng.uniform(size=(128, 2)), rng.uniform(size=(64, 2))
    boundary[np.arange(64), np.arange(64) % 2] = rng.integers(0, 2, 64)
    return inside.astype(np.float32), boundary.astype(np.float32)


def _poisson(network: Any, output: Any = lambda result: result) -> Trial:
    """Poisson's equation on the unit square, whose solution is sin(pi x) sin(pi y)."""

    def loss_fn(params: Any, inside: Any, boundary: Any) -> Any:
        def u(x: Any) -> Any:
            return output(network.apply({"params": params}, x))[0]

        def residual(x: Any) -> Any:
            force = 2 * jnp.pi**2 * jnp.prod(jnp.sin(jnp.pi * x))
            return (jnp.trace(jax.hessian(u)(x)) + force) / jnp.pi**2

        return 0.5 * jnp.mean(jax.vmap(residual)(inside) ** 2) + 5 * jnp.mean(jax.vmap(u)(boundary) ** 2)

    return Trial(loss_fn, network.init(KEY, jnp.ones(2))["params"], _square)


@model("JAX-PI", "Mlp", "flax", source="jaxpi")
def mlp() -> Trial:
    return _regress(_archs().Mlp(**SETTINGS))


@model("JAX-PI", "Mlp of a trained period", "flax", source="jaxpi")
def periodic_mlp() -> Trial:
    period = {"period": (1.0,), "axis": (1,), "trainable": (True,)}
    return _regress(_archs().Mlp(num_layers=3, hidden_dim=32, periodicity=period))


@model("JAX-PI", "ModifiedMlp", "flax", source="jaxpi")
def modified_mlp() -> Trial:
    return _regress(_archs().ModifiedMlp(**SETTINGS))


@model("JAX-PI", "PirateNet", "flax", source="jaxpi-pirate", note="of the branch `pirate`")
def pirate_net() -> Trial:
    return _regress(_archs().PirateNet(**{**SETTINGS, "num_layers": 2}), lambda result: result[1])


@model("JAX-PI", "DeepONet", "flax", source="jaxpi")
def deep_o_net() -> Trial:
    network = _archs().DeepONet(num_branch_layers=2, num_trunk_layers=2, hidden_dim=32, reparam=FACTORIZED)
    fields = data.fields(32)

    def batch(step: int) -> Sequence[np.ndarray]:
        u, v = fields(step)
        return u[:, 0], v[:, 0]

    def loss_fn(params: Any, u: Any, v: Any) -> Any:
        points = jnp.linspace(0, 1, 32, endpoint=False)[:, None]
        evaluate = jax.vmap(lambda u, x: network.apply({"params": params}, u, x)[0], (None, 0))
        return 0.5 * jnp.mean((jax.vmap(evaluate, (0, None))(u, points) - v) ** 2)

    return Trial(loss_fn, network.init(KEY, jnp.ones(32), jnp.ones(1))["params"], batch)


@model("JAX-PI", "Mlp on Poisson's equation", "flax", source="jaxpi")
def poisson_mlp() -> Trial:
    return _poisson(_archs().Mlp(**SETTINGS))


@model("JAX-PI", "ModifiedMlp on Poisson's equation", "flax", source="jaxpi")
def poisson_modified_mlp() -> Trial:
    return _poisson(_archs().ModifiedMlp(**SETTINGS))


@model("JAX-PI", "PirateNet on Poisson's equation", "flax", source="jaxpi-pirate", note="of the branch `pirate`")
def poisson_pirate_net() -> Trial:
    return _poisson(_archs().PirateNet(**{**SETTINGS, "num_layers": 2}), lambda result: result[1])
