"""Equivariant networks of E3x, that learn the energy of some atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from public_models.losses import squares
from public_models.trial import Trial, model

KEY = jax.random.key(0)
ATOMS = 5


def _molecules(step: int) -> Sequence[np.ndarray]:
    """(positions [n, atoms, 3], energies [n]) of Morse potentials."""
    rng = np.random.default_rng((1, step))
    lattice = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]) * 1.5
    positions = lattice + 0.3 * rng.normal(size=(16, ATOMS, 3))
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)[:, *np.triu_indices(ATOMS, 1)]
    energies = np.square(1 - np.exp(1.5 - distances)).sum(-1)
    return positions.astype(np.float32), ((energies - 2.0) / 2).astype(np.float32)


def _learn_energies(network: Any) -> Trial:
    def loss_fn(params: Any, positions: Any, energies: Any) -> Any:
        return squares(jax.vmap(lambda r: network.apply(params, r))(positions), energies)

    return Trial(loss_fn, network.init(KEY, jnp.asarray(_molecules(0)[0][0])), _molecules)


def _basis(e3x: Any, positions: Any) -> Any:
    """Radial functions of the pairs, and which atoms they are."""
    receivers, senders = e3x.ops.sparse_pairwise_indices(ATOMS)
    functions = e3x.nn.basis(
        positions[senders] - positions[receivers],
        num=8,
        max_degree=2,
        radial_fn=e3x.nn.reciprocal_bernstein,
        cutoff_fn=lambda r: e3x.nn.smooth_cutoff(r, cutoff=5.0),
    )
    return functions, receivers, senders


@model("E3x", "message passing", "e3x")
def message_passing() -> Trial:
    import e3x
    from flax import linen as nn

    class Network(nn.Module):
        """E3x's own layers, in the order of its example."""

        @nn.compact
        def __call__(self, positions: Any) -> Any:
            basis, receivers, senders = _basis(e3x, positions)
            x = e3x.nn.Embed(num_embeddings=3, features=8)(jnp.arange(ATOMS) % 3)
            for last in (False, True):
                passing = e3x.nn.MessagePass(max_degree=0 if last else 2, include_pseudotensors=not last)
                y = passing(x, basis, dst_idx=receivers, src_idx=senders)
                x = e3x.nn.add(x, y) if not last else e3x.nn.change_max_degree_or_type(x, 0, False) + y
                y = e3x.nn.silu(e3x.nn.Dense(8)(x))
                x = e3x.nn.add(x, e3x.nn.Dense(8, kernel_init=jax.nn.initializers.zeros)(y))
            return nn.Dense(1, use_bias=False, kernel_init=jax.nn.initializers.zeros)(x)[:, 0, 0, 0].sum()

    return _learn_energies(Network())


@model("E3x", "attention and tensor products", "e3x")
def attention() -> Trial:
    import e3x
    from flax import linen as nn

    class Network(nn.Module):
        """E3x's own layers."""

        @nn.compact
        def __call__(self, positions: Any) -> Any:
            basis, receivers, senders = _basis(e3x, positions)
            x = e3x.nn.Embed(num_embeddings=3, features=8)(jnp.arange(ATOMS) % 3)
            x = e3x.nn.SelfAttention(max_degree=1, num_heads=2)(x, basis, dst_idx=receivers, src_idx=senders)
            x = e3x.nn.Tensor(max_degree=1)(x, e3x.nn.Dense(8)(x))
            x = e3x.nn.gelu(e3x.nn.TensorDense(8, max_degree=0, include_pseudotensors=False)(x))
            return nn.Dense(1)(x)[:, 0, 0, 0].sum()

    return _learn_energies(Network())
