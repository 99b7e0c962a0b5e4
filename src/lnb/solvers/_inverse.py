"""Inverses and factors of many matrices at once. On the CPU, LAPACK is called for single small ones (docs/notes.md)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lnb._numerics import contract, diagonal_of

_BLOCKS = (96, 32)  # how many columns are eliminated together
_ROTATED = 96  # up to this size a rotated matrix is written faster than its blocks in place


def inverse(matrix: Array) -> Array:
    """A^-1 of symmetric positive definite A [g, i, i]: by Cholesky, and on the CPU by `sweep_inverse`."""
    return lax.platform_dependent(matrix, cpu=sweep_inverse, default=cholesky_inverse)


def cholesky_inverse(matrix: Array) -> Array:
    """A^-1 = L^-T L^-1 of symmetric positive definite A = L L^T [g, i, i].

    >>> jnp.round(cholesky_inverse(jnp.array([[[2.0, 1.0], [1.0, 1.0]]])), 5).tolist()
    [[[1.0, -1.0], [-1.0, 2.0]]]
    """
    eye = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    lower = lax.linalg.triangular_solve(lax.linalg.cholesky(matrix), eye, left_side=True, lower=True)
    return contract("gki,gkj->gij", lower, lower)


@jax.jit  # traced and lowered once for all layers
def inverse_factor(matrix: Array) -> Array:
    """C^-1 of A + floor = C C^T [g, r, r]; the floor makes up for the rounding of a matrix without full rank."""
    size = matrix.shape[-1]
    eye = jnp.asarray(np.eye(size), matrix.dtype)

    def factor(a: Array) -> Array:
        floor = 10 * size * jnp.finfo(a.dtype).eps * diagonal_of(a).sum()
        shifted = a + jnp.where(floor > 0, floor, 1) * eye
        # LAPACK reads columns first, and the rows of the transpose lie in memory like that.
        lower = lax.linalg.cholesky(shifted.T, symmetrize_input=False)
        return lax.linalg.triangular_solve(lower, eye, left_side=True, lower=True)

    return _each(factor, matrix)


def sweep_inverse(matrix: Array) -> Array:
    """A^-1 of symmetric positive definite A [g, i, i] by Gauss-Jordan elimination, a block of columns at a time.

    No pivoting is needed where A is positive definite (Higham, 2002, section 14.4). In the symmetric form of the sweep
    operator (Goodnight, 1979), with the block to eliminate written first and its inverse P = A_11^-1,

        [[A_11, A_12], [A_12^T, A_22]]  ->  [[-P, P A_12], [(P A_12)^T, A_22 - A_12^T P A_12]]

    for one block after the other leaves -A^-1. Wide blocks need fewer passes over the matrix; their own inverses use
    narrower blocks.

    >>> jnp.round(sweep_inverse(jnp.array([[[2.0, 1.0], [1.0, 1.0]]])), 5).tolist()
    [[[1.0, -1.0], [-1.0, 2.0]]]
    """
    size = matrix.shape[-1]
    width = next((block for block in _BLOCKS if 2 * block <= size), 1)
    beyond = -size % width
    if beyond:
        rest = jnp.diag(jnp.arange(size + beyond) >= size).astype(matrix.dtype)
        matrix = jnp.pad(matrix, ((0, 0), (0, beyond), (0, beyond))) + rest

    def eliminate(k: Array, matrix: Array) -> Array:
        return _eliminate_first(matrix, width) if size <= _ROTATED else _eliminate_at(matrix, k * width, width)

    swept = lax.fori_loop(0, (size + beyond) // width, eliminate, matrix)
    return -swept[:, :size, :size]


def _eliminate_first(matrix: Array, width: int) -> Array:
    """Eliminate the first block of `sweep_inverse` and move it to the end, so that the next block comes first."""
    pivot, row, rest = matrix[:, :width, :width], matrix[:, :width, width:], matrix[:, width:, width:]
    inverse, scaled = _scaled(pivot, row)
    rest, size = rest - _product(scaled, row), row.shape[2]
    # Sums of padded arrays become one kernel, unlike concatenations (docs/notes.md).
    first, last = (0, width, 0), (size, 0, 0)
    parts = (
        (rest, first, first),
        (scaled.transpose(0, 2, 1), first, last),
        (scaled, last, first),
        (-inverse, last, last),
    )
    zero = jnp.zeros((), matrix.dtype)
    return reduce(jnp.add, [lax.pad(part, zero, ((0, 0, 0), rows, columns)) for part, rows, columns in parts])


def _eliminate_at(matrix: Array, start: Array, width: int) -> Array:
    """Eliminate the block of `sweep_inverse` that starts there, in place (docs/notes.md)."""
    groups, size, _ = matrix.shape
    zero = jnp.zeros_like(start)
    rows, columns = (zero, start, zero), (zero, zero, start)
    write = partial(lax.dynamic_update_slice, allow_negative_indices=False)
    row = lax.dynamic_slice(matrix, rows, (groups, width, size), allow_negative_indices=False)
    pivot = lax.dynamic_slice(row, columns, (groups, width, width), allow_negative_indices=False)
    inverse, scaled = _scaled(pivot, row)
    scaled = write(scaled, -inverse, columns)
    matrix = write(matrix - _product(scaled, row), scaled, rows)
    return write(matrix, scaled.transpose(0, 2, 1), columns)


def _scaled(pivot: Array, row: Array) -> tuple[Array, Array]:
    """P = A_11^-1, and P times the block's rows."""
    if pivot.shape[-1] == 1:
        return 1 / pivot, row / pivot
    inverse = sweep_inverse(pivot)
    return inverse, contract("gab,gbj->gaj", inverse, row)


def _product(scaled: Array, row: Array) -> Array:
    """(P A_1)^T A_1."""
    return scaled.transpose(0, 2, 1) * row if row.shape[1] == 1 else contract("gai,gaj->gij", scaled, row)


def _each(function: Callable[[Array], Array], matrices: Array) -> Array:
    if len(matrices) == 1:
        return function(matrices[0])[None]
    return lax.platform_dependent(matrices, cpu=lambda m: lax.map(function, m), default=jax.vmap(function))
