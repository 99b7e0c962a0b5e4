"""The steepest step whose longest change of a neuron's output is bounded, in place of its mean one.

A neuron's change dW moves its output by dW^T x. Its mean squared length over the samples is the metric's <dW, dW>_M
(eq. 2), a Frobenius norm of M^1/2 dW: a step of that norm follows the few directions of the output that the gradient
is longest in. Under the spectral norm of M^1/2 dW, the longest change along any direction of the output, the steepest
step instead gives all directions one length,

    dW = M^-1/2 polar(M^-1/2 g) = theta (theta^T M theta)^-1/2 = theta (theta^T g)^-1/2,   theta = M^-1 g,

with theta as a solver gives it: no root of M is taken. That is exact where the solver applies one symmetric matrix from
the left (`Cholesky`, `LowRank`, `Diagonal`). `CG`, warm-started, and the two-sided solution of a tied weight do so only
nearly, and S is then not quite symmetric: the step is near the steepest, without the bound.

The inverse root is a polynomial in S = theta^T g [o, o], or theta g^T [i, i] from the left if that is smaller,
evaluated by quintic Newton-Schulz iterations on the small matrix alone. With M the identity this is Muon's step.

Where that would cost too much beside the network itself, a wide layer with few samples, `norm_step` has the same mean
squared length along the gradient's own directions. So few samples would tell little of so many directions anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._linear_maps import contract

# The polynomials of degree 5 that bring all of [0.01, 1] nearest to 1, each on what the one before leaves (Amsel et
# al., 2025, algorithm 1): singular values above 0.01 of the Frobenius norm end within [0.73, 1.27].
_COEFFICIENTS = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))


def spectral_step(direction: Array, gradient: Array) -> Array:
    """theta (theta^T g)^-1/2 of each group.

    Args:
        direction: theta [g, i, o], a bias among the rows.
        gradient: g [g, i, o], which theta solves M theta = g for.

    Returns:
        The step [g, i, o], all of whose singular values in function space are about 1; zero where the gradient is.

    Source: Carlson et al. (2015), Preconditioned spectral descent, for the step; Jordan et al. (2024), Muon, and Amsel
    et al. (2025), The Polar Express, for the iteration.

    >>> step = spectral_step(jnp.diag(jnp.array([3.0, 0.2]))[None], jnp.diag(jnp.array([3.0, 0.2]))[None])
    >>> bool(jnp.allclose(step[0], jnp.eye(2), atol=0.35))
    True
    """
    squared = jnp.sum(direction * gradient, axis=(1, 2), keepdims=True)  # z of each group
    scale, root = jnp.where(squared > 0, squared, 1), _reciprocal_root(1.0, squared)
    if direction.shape[1] < direction.shape[2]:
        small = contract("gio,gjo->gij", direction, gradient) / scale
        return contract("gij,gjo->gio", _inverse_root(small), direction * root)
    small = contract("gio,gip->gop", direction, gradient) / scale
    return contract("gio,gop->gip", direction * root, _inverse_root(small))


def norm_step(direction: Array, gradient: Array, together: Sequence[int] = ()) -> Array:
    """theta sqrt(s / z) of each group, z = theta . g and s the smaller side: as long as `spectral_step` in the mean.

    Args:
        direction: theta [g, i, o], a bias among the rows.
        gradient: g [g, i, o], which theta solves M theta = g for.
        together: the sizes of sets of groups, one after the other, that have one z and one length; none for each alone.

    >>> step = norm_step(jnp.diag(jnp.array([3.0, 4.0]))[None], jnp.diag(jnp.array([3.0, 4.0]))[None])
    >>> round(float(jnp.sum(step**2)), 5)
    2.0
    """
    flat = (len(direction), -1)
    squared = contract("gk,gk->g", direction.reshape(flat), gradient.reshape(flat))
    if together:
        starts = np.cumsum(together)[:-1]
        totals = jnp.stack([part.sum() for part in jnp.split(squared, starts)])
        squared = jnp.repeat(totals, np.asarray(together), total_repeat_length=len(direction))
    return direction * _reciprocal_root(min(direction.shape[1:]) ** 0.5, squared)[:, None, None]


def norm_step_of_table(gradient: Array) -> Array:
    """g sqrt(s) / |g| for parameters with the identity metric, s the smaller side of the table [.., o]; 1 for a vector.

    >>> round(float(jnp.linalg.norm(norm_step_of_table(jnp.ones((4, 8))))), 5)
    2.0
    """
    columns = gradient.shape[-1] if gradient.ndim > 1 else 1
    table = gradient.reshape(1, -1, columns)
    return norm_step(table, table).reshape(gradient.shape)


def spectral_operations(shape: tuple[int, int, int]) -> float:
    """Floating-point operations of `spectral_step` for [g, i, o]."""
    groups, inputs, outputs = shape
    side = min(inputs, outputs)
    return groups * side**2 * (4.0 * max(inputs, outputs) + 2.0 * (4 * len(_COEFFICIENTS) - 3) * side)


def _reciprocal_root(length: float, squared: Array) -> Array:
    """length / sqrt(z), and 0 where nothing is left to do."""
    return jnp.where(squared > 0, length / jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def _inverse_root(matrix: Array) -> Array:
    """About S^-1/2 for S [g, s, s] whose eigenvalues lie in [0, 1].

    X <- X p(X^T X) with p(t) = a + b t + c t^2 acts on S = X^T X alone: P <- P p(S), S <- S p(S)^2.
    """
    eye = jnp.eye(matrix.shape[1], dtype=matrix.dtype)
    product = factor = None
    for a, b, c in _COEFFICIENTS:
        if factor is not None:
            matrix = _times(_times(matrix, factor), factor)
        factor = a * eye + b * matrix + c * _times(matrix, matrix)
        product = factor if product is None else _times(product, factor)
    assert product is not None
    return product


def _times(left: Array, right: Array) -> Array:
    return contract("gij,gjk->gik", left, right)
