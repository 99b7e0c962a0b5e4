"""The spectral step: the steepest step that moves a neuron's output by at most about 1 along every direction.

A change dW of the weights moves the output by dW^T x. Its mean squared length over the samples is <dW, dW>_M (eq. 2),
the squared Frobenius norm of M^1/2 dW. A step of that norm mostly follows the few directions of the output along which
the gradient is longest. The steepest step under the spectral norm of M^1/2 dW moves all directions equally,

    dW = M^-1/2 polar(M^-1/2 g) = theta (theta^T M theta)^-1/2 = theta (theta^T g)^-1/2,   theta = M^-1 g,

and needs no root of M. The formula is exact where the solver multiplies by one symmetric matrix from the left, as
`Cholesky`, `LowRank` and `Diagonal` do. For `CG` with its warm start, theta^T g is only nearly symmetric: the step is
near the steepest, without the bound.

Tied weights take `norm_step`. Their metric multiplies from both sides, theta^T g is not symmetric, and a root of it
gives steps of any length: networks whose head is their embedding diverged by it.

The inverse root is a polynomial in S = theta^T g [o, o], or in theta g^T [i, i] if that is smaller. Quintic
Newton-Schulz iterations on the small matrix evaluate it. With M the identity this is Muon's step.

A wide layer with few samples takes `norm_step` instead, which has the same mean squared length: the root would cost
too much beside the network's own pass, and few samples say little about many directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from lnb._neuron import Neuron
from lnb._numerics import inner, split_bias, vector_matrix
from lnb.solvers._solver import Solution
from lnb.steps._step import StepRule

_MAX_COST = 0.25  # of the step, as a fraction of the neuron's forward and backward pass
_MIN_SAMPLES = 256  # that the pass is reckoned with, so that small batches step as larger ones do

# The polynomials of degree 5 that successively bring [0.01, 1] nearest to 1 (Amsel et al., 2025, algorithm 1).
# Singular values above 0.01 of the Frobenius norm end within [0.73, 1.27].
_COEFFICIENTS = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))


@dataclass(frozen=True)
class Spectral(StepRule):
    """The default step: every neuron's output moves equally far along all of its directions.

    The learning rate is that distance, about 0.02 to 0.05. Unlike `lnb.Norm`, every neuron takes a step of its own
    length. A neuron takes theta sqrt(s / z), of the same mean squared length, where the spectral step would cost more
    than a quarter of its forward and backward pass; s is the smaller side of its weights [i(+1), o]. So do scales, tied
    weights, parameters without a neuron, and neurons that are kept as their equations, with `Neuron.side` for s.

    Args:
        by_part: where the program cuts a neuron's outputs apart, as it cuts those of a fused weight into q, k and v,
            each part takes the step that it would take as a weight of its own. `print(neurons)` shows the parts.
            With False the whole neuron takes one step, and each of q, k and v moves by about 1/sqrt(3) as much.

    Source: Carlson et al. (2015), Preconditioned spectral descent; Jordan et al. (2024), Muon.

    >>> Spectral()
    Spectral(by_part=True)
    """

    by_part: bool = True

    def per_neuron(self, neuron: Neuron, solution: Solution, gradient: Array) -> tuple[Array, Array]:
        """`spectral_step` where it is cheap, else `norm_step`."""
        direction, squared_norm, _ = solution
        if not self.by_part or not neuron.parts:
            if _has_root(neuron, direction.shape):
                return spectral_step(direction, gradient, neuron.has_bias)
            return _step_by_norm(direction, squared_norm, neuron.has_bias, neuron.side), squared_norm
        steps, start = [], 0
        for size, run in groupby(neuron.parts):
            count = len(list(run))
            columns = slice(start, start + count * size)
            steps += _steps_of_parts(neuron, direction[:, :, columns], gradient[:, :, columns], count)
            start = columns.stop
        return jnp.concatenate(steps, axis=2), squared_norm

    def per_leaf(self, gradient: Array) -> Array:
        """`norm_step` of the gradient as a table [.., o]; a vector is a table of one column.

        >>> round(float(jnp.linalg.norm(Spectral().per_leaf(jnp.ones((4, 8))))), 5)
        2.0
        """
        columns = gradient.shape[-1] if gradient.ndim > 1 else 1
        table = gradient.reshape(1, -1, columns)
        return norm_step(table, inner(table, table)).reshape(gradient.shape)

    def whole(self, squared_norm: Array, value: Any) -> None:
        """None: each neuron has its own length."""

    def distance(self, rate: float | Array, directions: int) -> float | Array:
        """The learning rate itself."""
        del directions
        return rate


def _has_root(neuron: Neuron, shape: tuple[int, ...]) -> bool:
    """Whether the spectral step of [g, i(+1), o] exists, and is cheap beside the forward and backward pass."""
    groups, rows, outputs = shape
    own = 6.0 * groups * max(neuron.samples, _MIN_SAMPLES) * rows * outputs
    if neuron.kind == "tied" or min(rows, outputs) == 1:
        return False
    return spectral_flops((groups, rows, outputs)) <= _MAX_COST * own


def _step_by_norm(direction: Array, squared_norm: Array, bias: bool, side: int | None = None) -> Array:
    """`norm_step`, in which the channels of a scale, groups of one output each, have one length together."""
    length = squared_norm.sum(keepdims=True) if min(direction.shape[1:]) == 1 else squared_norm
    return norm_step(direction, length, bias, side)


def _steps_of_parts(neuron: Neuron, direction: Array, gradient: Array, count: int) -> list[Array]:
    """The steps of this many parts of theta and g [g, i(+1), part * o], side by side."""
    groups, rows, outputs = direction.shape
    if _has_root(neuron, (groups, rows, outputs // count)):
        return [spectral_step(direction, gradient, neuron.has_bias, count)[0]]
    pairs = zip(jnp.split(direction, count, axis=2), jnp.split(gradient, count, axis=2), strict=True)
    return [_step_by_norm(theta, inner(theta, g, neuron.has_bias), neuron.has_bias) for theta, g in pairs]


@partial(jax.jit, static_argnames=("bias", "parts"))  # layers of one shape are traced once
def spectral_step(direction: Array, gradient: Array, bias: bool = False, parts: int = 1) -> tuple[Array, Array]:
    """Compute theta (theta^T g)^-1/2 of each group.

    `CG` may leave theta^T g far from symmetric and positive semidefinite. Where the trace shows that it has no such
    root, the step is `norm_step`'s.

    Args:
        direction: theta [g, i(+1), o].
        gradient: g [g, i(+1), o], with M theta = g.
        bias: whether the last row is a bias, which is then kept apart from the weights (docs/notes.md).
        parts: into how many parts of equal size o is cut, each with a step of its own.

    Returns:
        The step [g, i(+1), o], whose singular values in function space are all about 1, or zero where the gradient's
        are; and z = theta . g [g].

    Source: Carlson et al. (2015), Preconditioned spectral descent, for the step; Jordan et al. (2024), Muon, and Amsel
    et al. (2025), The Polar Express, for the iteration.

    >>> step, _ = spectral_step(jnp.diag(jnp.array([3.0, 0.2]))[None], jnp.diag(jnp.array([3.0, 0.2]))[None])
    >>> bool(jnp.allclose(step[0], jnp.eye(2), atol=0.35))
    True
    """
    groups, inputs, outputs = direction.shape
    if inputs < outputs // parts:
        step_of_group, bias = _step_from_the_left, False
    else:
        step_of_group = _step_from_the_right
    theta, rows = split_bias(direction, bias), split_bias(gradient, bias)
    if parts > 1:
        theta, rows = ([_as_groups(packed, parts) for packed in each] for each in (theta, rows))
    if groups * parts > 1:
        step, squared_norm = jax.vmap(step_of_group)(theta, rows)
    else:  # A single group has no axis of groups (docs/notes.md).
        step, squared_norm = step_of_group([part[0] for part in theta], [part[0] for part in rows])
        step, squared_norm = [part[None] for part in step], squared_norm[None]
    if parts > 1:
        step, squared_norm = [_as_parts(each, parts) for each in step], squared_norm.reshape(groups, parts).sum(1)
    return jnp.concatenate(step, axis=1), squared_norm


def _as_groups(packed: Array, parts: int) -> Array:
    """V [g, i, part * o] as [g * part, i, o]."""
    groups, inputs, _ = packed.shape
    return packed.reshape(groups, inputs, parts, -1).swapaxes(1, 2).reshape(groups * parts, inputs, -1)


def _as_parts(packed: Array, parts: int) -> Array:
    """V [g * part, i, o] as [g, i, part * o]."""
    _, inputs, outputs = packed.shape
    return packed.reshape(-1, parts, inputs, outputs).swapaxes(1, 2).reshape(-1, inputs, parts * outputs)


def _step_from_the_left(direction: list[Array], gradient: list[Array]) -> tuple[list[Array], Array]:
    """(theta g^T)^-1/2 theta of theta and g [i(+1), o], and z []."""
    root, squared_norm = _inverse_root(_einsum("io,jo->ij", *direction, *gradient))
    return [_einsum("ij,jo->io", root, *direction)], squared_norm


def _step_from_the_right(direction: list[Array], gradient: list[Array]) -> tuple[list[Array], Array]:
    """theta (theta^T g)^-1/2 of weights [i, o] and, if there are two arrays, a bias [1, o], and z []."""
    products = [_einsum("io,ip->op", *pair) for pair in zip(direction, gradient, strict=True)]
    root, squared_norm = _inverse_root(reduce(jnp.add, products))
    step = [_einsum("io,op->ip", p, root) if len(p) > 1 else vector_matrix(p[0], root)[None] for p in direction]
    return step, squared_norm


@jax.jit  # traced and lowered once for each size
def _inverse_root(matrix: Array) -> tuple[Array, Array]:
    """About S^-1/2 of S [s, s], or sqrt(s / z) where S has no such root; and its trace z [].

    X <- X p(X^T X) with p(t) = a + b t + c t^2 acts on S = X^T X alone: P <- P p(S), S <- S p(S)^2.
    """
    size = len(matrix)
    eye = jnp.eye(size, dtype=matrix.dtype)
    squared_norm = _einsum("ij,ij->", matrix, eye)
    scale = _reciprocal_root(1.0, squared_norm)
    scaled = remaining = matrix * jnp.square(scale)  # eigenvalues in [0, 1]
    root = factor = None
    for a, b, c in _COEFFICIENTS:
        if factor is not None:
            remaining = _einsum("ij,jk->ik", _einsum("ij,jk->ik", remaining, factor), factor)
        factor = a * eye + b * remaining + c * _einsum("ij,jk->ik", remaining, remaining)
        root = factor if root is None else _einsum("ij,jk->ik", root, factor)
    assert root is not None
    # The trace of S^1/2 is at most sqrt(s), and the polynomials add up to 1.27 times.
    trace = _einsum("ij,ji->", scaled, root)
    return jnp.where((trace > 0) & (trace < 1.3 * size**0.5), root, size**0.5 * eye) * scale, squared_norm


# Of a direction whose length the iteration sets: an accelerator's fast products will do (docs/notes.md).
_einsum = partial(jnp.einsum, precision=lax.Precision.HIGH)


def norm_step(direction: Array, squared_norm: Array, bias: bool = False, side: int | None = None) -> Array:
    """Compute theta sqrt(s / z) of each group, s the smaller side: as long as `spectral_step` in the mean.

    Args:
        direction: theta [g, i(+1), o].
        squared_norm: z = theta . g [g]; or their sum [1], with which all groups together have that length.
        bias: whether the last row is a bias, which is then kept apart from the weights (docs/notes.md).
        side: s, where the direction is not laid out as [i, o].

    >>> direction = jnp.diag(jnp.array([3.0, 4.0]))[None]
    >>> round(float(jnp.sum(norm_step(direction, inner(direction, direction)) ** 2)), 5)
    2.0
    """
    factor = _reciprocal_root((side or min(direction.shape[1:])) ** 0.5, squared_norm)[:, None, None]
    return jnp.concatenate([rows * factor for rows in split_bias(direction, bias)], axis=1)


def spectral_flops(shape: tuple[int, int, int]) -> float:
    """Count the floating-point operations of `spectral_step` for [g, i, o]."""
    groups, inputs, outputs = shape
    side = min(inputs, outputs)
    return groups * side**2 * (4.0 * max(inputs, outputs) + 2.0 * (4 * len(_COEFFICIENTS) - 3) * side)


def _reciprocal_root(length: float, squared_norm: Array) -> Array:
    """length / sqrt(z), and 0 where z is 0."""
    return jnp.where(squared_norm > 0, length / jnp.sqrt(squared_norm), 0)
