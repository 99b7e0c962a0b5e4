"""Inverses and factors of many matrices at once.

On the CPU LAPACK is kept to small matrices. JAX calls SciPy's, whose BLAS has threads of its own that go on spinning
for some 30 ms after a call that used them: where cores are few they take those from the steps that follow. And a batch
of LAPACK calls runs on the threads that also run the rest of the program, and is waited for on one of these, so that
two such batches at the same time wait for each other for good.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import cho_solve, solve_triangular

from lnb._linear_maps import contract

_BLOCK = 32


def inverse(matrix: Array) -> Array:
    """A^-1 of symmetric positive definite A [g, i, i]: by Cholesky, and on the CPU by `sweep_inverse`."""
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    by_cholesky = jax.vmap(lambda a: cho_solve((jnp.linalg.cholesky(a), True), eye))
    return lax.platform_dependent(matrix, cpu=sweep_inverse, default=by_cholesky)


def inverse_factor(matrix: Array) -> Array:
    """C^-1 of A = C C^T [g, r, r], with what rounding takes from a matrix without full rank added."""
    size = matrix.shape[-1]
    eye = jnp.eye(size, dtype=matrix.dtype)
    floor = 10 * size * jnp.finfo(matrix.dtype).eps * jnp.trace(matrix, axis1=1, axis2=2)[:, None, None]
    shifted = matrix + jnp.where(floor > 0, floor, 1) * eye
    return _each(lambda a: solve_triangular(jnp.linalg.cholesky(a), eye, lower=True), shifted)


def sweep_inverse(matrix: Array) -> Array:
    """A^-1 of symmetric positive definite A [g, i, i] by Gauss-Jordan elimination, a block of columns at a time.

    No pivoting is needed where A is positive definite (Higham, 2002, section 14.4). With P = A_kk^-1,

        A_kl <- P A_kl,   A_jl <- A_jl - A_jk P A_kl,   A_jk <- -A_jk P,   A_kk <- P     (j, l other than k)

    for each block k in turn leaves A^-1 in the place of A.

    >>> jnp.round(sweep_inverse(jnp.array([[[2.0, 1.0], [1.0, 1.0]]])), 5).tolist()
    [[[1.0, -1.0], [-1.0, 2.0]]]
    """
    size = matrix.shape[-1]
    if size <= _BLOCK:
        return _sweep(matrix, 1, lambda pivot: 1 / pivot)
    beyond = -size % _BLOCK
    padded = jnp.pad(matrix, ((0, 0), (0, beyond), (0, beyond)))
    padded = padded + jnp.diag(jnp.arange(size + beyond) >= size).astype(matrix.dtype)
    return _sweep(padded, _BLOCK, sweep_inverse)[:, :size, :size]


def _sweep(matrix: Array, width: int, invert: Callable[[Array], Array]) -> Array:
    """`sweep_inverse` with blocks of `width` columns, which divides i."""
    groups, size, _ = matrix.shape
    place, eye = jnp.arange(size) // width, jnp.eye(width, dtype=matrix.dtype)

    def eliminate(k: Array, matrix: Array) -> Array:
        inside = place == k
        columns = lax.dynamic_slice(matrix, (0, 0, k * width), (groups, size, width))
        rows = lax.dynamic_slice(matrix, (0, k * width, 0), (groups, width, size))
        pivot = lax.dynamic_slice(rows, (0, 0, k * width), (groups, width, width))
        rows = lax.dynamic_update_slice(rows, jnp.broadcast_to(eye, pivot.shape), (0, 0, k * width))
        rows = contract("gab,gbj->gaj", invert(pivot), rows)
        others = jnp.where(inside[:, None], 0, columns)
        rest = jnp.where(inside, 0, matrix) - contract("gia,gaj->gij", others, rows)
        return lax.dynamic_update_slice(rest, rows, (0, k * width, 0))

    return lax.fori_loop(0, size // width, eliminate, matrix)


def _each(function: Callable[[Array], Array], matrices: Array) -> Array:
    if len(matrices) == 1:
        return function(matrices[0])[None]
    return lax.platform_dependent(matrices, cpu=lambda m: lax.map(function, m), default=jax.vmap(function))
