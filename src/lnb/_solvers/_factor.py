"""Factors of many small matrices at once.

On the CPU, JAX runs a batch of LAPACK calls on the threads that also run the rest of the program, and waits for them
on one of these: two such batches at the same time wait for each other for good. There the matrices are factored one
after the other.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import cho_solve, solve_triangular


def inverse(matrix: Array) -> Array:
    """A^-1 of symmetric positive definite A [g, i, i], by Cholesky."""
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return _each(lambda a: cho_solve((jnp.linalg.cholesky(a), True), eye), matrix)


def inverse_factor(matrix: Array) -> Array:
    """C^-1 of A = C C^T [g, r, r], with what rounding takes from a matrix without full rank added."""
    size = matrix.shape[-1]
    eye = jnp.eye(size, dtype=matrix.dtype)
    floor = 10 * size * jnp.finfo(matrix.dtype).eps * jnp.trace(matrix, axis1=1, axis2=2)[:, None, None]
    shifted = matrix + jnp.where(floor > 0, floor, 1) * eye
    return _each(lambda a: solve_triangular(jnp.linalg.cholesky(a), eye, lower=True), shifted)


def _each(function: Callable[[Array], Array], matrices: Array) -> Array:
    if len(matrices) == 1:
        return function(matrices[0])[None]
    return lax.platform_dependent(matrices, cpu=lambda m: lax.map(function, m), default=jax.vmap(function))
