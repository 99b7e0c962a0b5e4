"""The steepest step whose longest change of a neuron's output is bounded, in place of its mean one.

A neuron's change dW moves its output by dW^T x. Its mean squared length over the samples is the metric's <dW, dW>_M
(eq. 2), a Frobenius norm of M^1/2 dW: a step of that norm follows the few directions of the output that the gradient
is longest in. Under the spectral norm of M^1/2 dW, the longest change along any direction of the output, the steepest
step instead gives all directions one length,

    dW = M^-1/2 polar(M^-1/2 g) = theta (theta^T M theta)^-1/2 = theta (theta^T g)^-1/2,   theta = M^-1 g,

with theta as a solver gives it: no root of M is taken. That is exact where the solver applies one symmetric matrix from
the left (`Cholesky`, `LowRank`, `Diagonal`). `CG`, warm-started, and the two-sided solution of a tied weight do so only
nearly, and S is then not quite symmetric: the step is near the steepest, without the bound. (Far from it, it is
`norm_step`.)

The inverse root is a polynomial in S = theta^T g [o, o], or theta g^T [i, i] from the left if that is smaller,
evaluated by quintic Newton-Schulz iterations on the small matrix alone. With M the identity this is Muon's step.

Where that would cost too much beside the network itself, a wide layer with few samples, `norm_step` has the same mean
squared length along the gradient's own directions. So few samples would tell little of so many directions anyway.
"""

from __future__ import annotations

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import Array

from lnb._numerics import contract, inner, split_bias, vector_matrix

# The polynomials of degree 5 that bring all of [0.01, 1] nearest to 1, each on what the one before leaves (Amsel et
# al., 2025, algorithm 1): singular values above 0.01 of the Frobenius norm end within [0.73, 1.27].
_COEFFICIENTS = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))


@partial(jax.jit, static_argnames="bias")  # layers of one shape are traced once
def spectral_step(direction: Array, gradient: Array, bias: bool = False) -> tuple[Array, Array]:
    """theta (theta^T g)^-1/2 of each group.

    Where theta^T g is so far from symmetric and positive semidefinite that the trace of its root is none of such a
    matrix, as `CG` may leave it, the step is `norm_step`'s.

    Args:
        direction: theta [g, i(+1), o].
        gradient: g [g, i(+1), o], which theta solves M theta = g for.
        bias: whether the last row is a bias that XLA need not join to the weights.

    Returns:
        The step [g, i(+1), o], all of whose singular values in function space are about 1, zero where the gradient is;
        and z = theta . g [g].

    Source: Carlson et al. (2015), Preconditioned spectral descent, for the step; Jordan et al. (2024), Muon, and Amsel
    et al. (2025), The Polar Express, for the iteration.

    >>> step, _ = spectral_step(jnp.diag(jnp.array([3.0, 0.2]))[None], jnp.diag(jnp.array([3.0, 0.2]))[None])
    >>> bool(jnp.allclose(step[0], jnp.eye(2), atol=0.35))
    True
    """
    if direction.shape[1] < direction.shape[2]:
        of_group, bias = _step_from_the_left, False
    else:
        of_group = _step_from_the_right
    theta, rows = split_bias(direction, bias), split_bias(gradient, bias)
    if len(direction) > 1:
        step, squared = jax.vmap(of_group)(theta, rows)
    else:  # XLA would compute some arrays twice, with the axis of groups and without
        step, squared = of_group([part[0] for part in theta], [part[0] for part in rows])
        step, squared = [part[None] for part in step], squared[None]
    return jnp.concatenate(step, axis=1), squared


def _step_from_the_left(direction: list[Array], gradient: list[Array]) -> tuple[list[Array], Array]:
    """(theta g^T)^-1/2 theta of theta and g [i(+1), o], and z []."""
    turn, squared = _turn(contract("io,jo->ij", *direction, *gradient))
    return [contract("ij,jo->io", turn, *direction)], squared


def _step_from_the_right(direction: list[Array], gradient: list[Array]) -> tuple[list[Array], Array]:
    """theta (theta^T g)^-1/2 of weights [i, o] and, if there are two arrays, a bias [1, o], and z []."""
    products = [contract("io,ip->op", *pair) for pair in zip(direction, gradient, strict=True)]
    turn, squared = _turn(reduce(jnp.add, products))
    return [
        contract("io,op->ip", part, turn) if len(part) > 1 else vector_matrix(part[0], turn)[None] for part in direction
    ], squared


@jax.jit  # traced and lowered once for each size
def _turn(small: Array) -> tuple[Array, Array]:
    """S^-1/2 of S [s, s], or sqrt(s / z) where S is not what has such a root; and its trace z []."""
    size = len(small)
    eye = jnp.eye(size, dtype=small.dtype)
    squared = contract("ij,ij->", small, eye)
    scale = _reciprocal_root(1.0, squared)
    small = small * jnp.square(scale)
    turn = _inverse_root(small, eye)
    # The trace of S^1/2 is at most sqrt(s), and the polynomials add up to 1.27 times.
    trace = contract("ij,ji->", small, turn)
    return jnp.where((trace > 0) & (trace < 1.3 * size**0.5), turn, size**0.5 * eye) * scale, squared


def norm_step(direction: Array, squared: Array, bias: bool = False) -> Array:
    """theta sqrt(s / z) of each group, s the smaller side: as long as `spectral_step` in the mean.

    Args:
        direction: theta [g, i(+1), o].
        squared: z = theta . g [g], or their sum [1], with which all groups together have that length.
        bias: whether the last row is a bias that XLA need not join to the weights.

    >>> direction = jnp.diag(jnp.array([3.0, 4.0]))[None]
    >>> round(float(jnp.sum(norm_step(direction, inner(direction, direction)) ** 2)), 5)
    2.0
    """
    factor = _reciprocal_root(min(direction.shape[1:]) ** 0.5, squared)[:, None, None]
    return jnp.concatenate([rows * factor for rows in split_bias(direction, bias)], axis=1)


def norm_step_of_table(gradient: Array) -> Array:
    """g sqrt(s) / |g| for parameters with the identity metric, s the smaller side of the table [.., o]; 1 for a vector.

    >>> round(float(jnp.linalg.norm(norm_step_of_table(jnp.ones((4, 8))))), 5)
    2.0
    """
    columns = gradient.shape[-1] if gradient.ndim > 1 else 1
    table = gradient.reshape(1, -1, columns)
    return norm_step(table, inner(table, table)).reshape(gradient.shape)


def spectral_operations(shape: tuple[int, int, int]) -> float:
    """Floating-point operations of `spectral_step` for [g, i, o]."""
    groups, inputs, outputs = shape
    side = min(inputs, outputs)
    return groups * side**2 * (4.0 * max(inputs, outputs) + 2.0 * (4 * len(_COEFFICIENTS) - 3) * side)


def _reciprocal_root(length: float, squared: Array) -> Array:
    """length / sqrt(z), and 0 where nothing is left to do."""
    return jnp.where(squared > 0, length / jnp.sqrt(squared), 0)


def _inverse_root(matrix: Array, eye: Array) -> Array:
    """About S^-1/2 for S [s, s] whose eigenvalues lie in [0, 1].

    X <- X p(X^T X) with p(t) = a + b t + c t^2 acts on S = X^T X alone: P <- P p(S), S <- S p(S)^2.
    """
    product = factor = None
    for a, b, c in _COEFFICIENTS:
        if factor is not None:
            matrix = _times(_times(matrix, factor), factor)
        factor = a * eye + b * matrix + c * _times(matrix, matrix)
        product = factor if product is None else _times(product, factor)
    assert product is not None
    return product


def _times(left: Array, right: Array) -> Array:
    return contract("ij,jk->ik", left, right)
