"""Products in the type of statistics, and arrays like a neuron's packed parameters V [g, i(+1), o]."""

from __future__ import annotations

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

_SHORT = {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)}


def statistics_dtype(*dtypes: Any) -> Any:
    """The type of statistics and solves: float32, or float64 where one of the types is."""
    return jnp.float64 if jnp.dtype(jnp.float64) in dtypes else jnp.float32


def as_statistics(tree: Any) -> Any:
    """The tree with each array in the type of statistics."""
    return jax.tree.map(lambda x: x.astype(statistics_dtype(x.dtype)), tree)


def real_parts(leaf: Any) -> Any:
    """A complex array as its real and imaginary part, [2, ...]; a real one as it is. Shapes likewise."""
    if not jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(real_parts, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jnp.stack([leaf.real, leaf.imag])


def of_parts(parts: Any, dtype: Any) -> Any:
    """The inverse of `real_parts` for arrays of this type."""
    return lax.complex(parts[0], parts[1]) if jnp.issubdtype(dtype, jnp.complexfloating) else parts


def contract(subscripts: str, *operands: Array, precision: lax.Precision = lax.Precision.HIGHEST) -> Array:
    """`jnp.einsum` in the type of statistics, by default at full precision: a metric's products are what is inverted.

    Operands that all have 16 bits are multiplied as they are, which is exact, and summed in the type of statistics.
    """
    types = {operand.dtype for operand in operands}
    dtype = statistics_dtype(*types)
    if not (len(types) == 1 and types <= _SHORT):
        operands = tuple(x.astype(dtype) for x in operands)
    return jnp.einsum(subscripts, *operands, precision=precision, preferred_element_type=dtype)


def gram_of(x: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """X^T W X [g, i, i] and X^T w [g, i] of X [g, n, i] and weights [g or 1, n, 1], by default 1."""
    weighted = x if weights is None else x * weights.astype(x.dtype)
    return contract("gni,gnj->gij", weighted, x), weighted.sum(1)


def diagonal_of(matrix: Array) -> Array:
    """The diagonal [.., r] of A [.., r, r], read with a stride (docs/notes.md)."""
    *lead, size, _ = matrix.shape
    return matrix.reshape(*lead, -1)[..., :: size + 1]


def split_bias(packed: Array, bias: bool) -> list[Array]:
    """Weights [g, i, o] and bias [g, 1, o] of V [g, i(+1), o]."""
    return [packed[:, :-1], packed[:, -1:]] if bias else [packed]


def inner(first: Array, second: Array, bias: bool = False) -> Array:
    """u . v of each group, [g].

    Args:
        first, second: U and V [g, i(+1), o].
        bias: whether the last row is a bias that XLA need not join to the weights.
    """
    rows = zip(split_bias(first, bias), split_bias(second, bias), strict=True)
    return reduce(jnp.add, [contract("gio,gio->g", *pair) for pair in rows])


def vector_matrix(row: Array, matrix: Array) -> Array:
    """v A [.., o] of v [.., i] and A [.., i, o].

    The product has a second row, of zeros (docs/notes.md).
    """
    if row.shape[-1] == 1:
        return row * matrix[..., 0, :]
    rows = jnp.pad(row[..., None, :], [(0, 0)] * (row.ndim - 1) + [(0, 1), (0, 0)])
    return contract("...ki,...io->...ko", rows, matrix)[..., 0, :]
