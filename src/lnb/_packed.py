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
