"""Arrays like a neuron's packed parameters, V [g, i(+1), o]: for each group its weights, the bias in the last row."""

from __future__ import annotations

from functools import reduce

import jax.numpy as jnp
from jax import Array

from lnb._linear_maps import contract


def rows_of(packed: Array, bias: bool) -> list[Array]:
    """Weights [g, i, o] and bias [g, 1, o] of V [g, i(+1), o]."""
    return [packed[:, :-1], packed[:, -1:]] if bias else [packed]


def inner(first: Array, second: Array, bias: bool = False) -> Array:
    """u . v of each group, [g].

    Args:
        first, second: U and V [g, i(+1), o].
        bias: whether the last row is a bias that XLA need not join to the weights.
    """
    rows = zip(rows_of(first, bias), rows_of(second, bias), strict=True)
    return reduce(jnp.add, [contract("gio,gio->g", *pair) for pair in rows])


def row_times(row: Array, matrix: Array) -> Array:
    """v A [.., o] of v [.., i] and A [.., i, o].

    With a second row, of zeros: XLA's CPU backend compiles the product with a single row anew for every layer, and it
    takes longer.
    """
    if row.shape[-1] == 1:
        return row * matrix[..., 0, :]
    rows = jnp.pad(row[..., None, :], [(0, 0)] * (row.ndim - 1) + [(0, 1), (0, 0)])
    return contract("...ki,...io->...ko", rows, matrix)[..., 0, :]
