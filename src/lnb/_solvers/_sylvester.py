"""The exact solution for a weight that is used both as W and as W^T: an embedding and the head tied to it.

Its metric is a Kronecker sum, so that once the two biases are taken out (see `_moments`) the system is Sylvester's,

    A W + W B + ridge W = R,   A = n_1 / n S_1 [i, i],   B = n_2 / n S_2 [o, o],

and with the eigenvectors A = P diag(a) P^T and B = Q diag(b) Q^T

    W = P [ (P^T R Q)_io / (a_i + b_o + ridge) ] Q^T.

A lookup's S_1 is diagonal, and needs no eigenvectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from lnb._features import FeatureSet, TiedFeatureSet
from lnb._moments import average, share_of_batch
from lnb._numerics import contract, inner
from lnb._solvers._cholesky import Cholesky
from lnb._solvers._diagonal import Diagonal
from lnb._solvers._low_rank import LowRank
from lnb._solvers._solver import AnyFeatureSet, Solution, Solver, check_count, check_range, check_share


class Side(NamedTuple):
    """Moving averages of one use, and the eigenvectors last taken of them."""

    gram: Array  # E[x x^T] [i, i], or its diagonal [i]
    mean: Array  # mu [i]
    values: Array  # eigenvalues of S [i]
    vectors: Array  # their eigenvectors, in columns [i, i]; [0, 0] where S is kept by its diagonal


@dataclass(frozen=True)
class Sylvester:
    """The exact solution for tied weights, whose two Gram matrices are renewed every few steps.

    Args:
        every: steps from one renewal to the next; the first `every` steps all renew them.
        decay: of the moving averages of the Gram matrices, for one step.
        ridge: added to the diagonal of M for the weights, in units of the features squared.
        relative: the ridge is a multiple of the mean diagonal of M instead.
        samples: the share of a batch's samples that the Gram matrices are taken of, above 0 and at most 1.
        largest: a Gram matrix of more features than this is kept by its diagonal.

    Raises:
        ValueError: a setting is out of its range.

    >>> Sylvester(ridge=1.0).every
    10
    """

    every: int = 10
    decay: float = 0.95
    ridge: float = 0.1
    relative: bool = False
    samples: float = 1.0
    largest: int = 1024

    def __post_init__(self) -> None:
        check_count(self, "every")
        check_range(self, 0, 1, "decay")
        check_range(self, 0, inf, "ridge", "largest")
        check_share(self, "samples")

    @classmethod
    def like(cls, solver: Solver) -> Sylvester:
        """With another solver's settings."""
        settings = cls(ridge=solver.ridge, relative=solver.relative)
        if isinstance(solver, Diagonal):
            return replace(settings, every=1, decay=solver.mean_decay, samples=solver.samples, largest=0)
        if isinstance(solver, Cholesky):
            return replace(settings, every=solver.every, decay=solver.decay, samples=solver.samples)
        if isinstance(solver, LowRank):
            return replace(settings, decay=solver.decay, samples=solver.samples)
        return settings

    def init(self, features: AnyFeatureSet, dtype: Any) -> tuple[Side, Side]:
        """Averages of zero."""
        assert isinstance(features, TiedFeatureSet)

        def side(part: FeatureSet) -> Side:
            i = part.inputs
            diagonal = self._is_diagonal(part)
            shapes = ((i,) if diagonal else (i, i), (i,), (i,), (0, 0) if diagonal else (i, i))
            return Side(*(jnp.zeros(shape, dtype) for shape in shapes))

        return side(features.first), side(features.second)

    def _is_diagonal(self, features: FeatureSet) -> bool:
        return features.has_diagonal_gram or features.inputs > self.largest

    def update(self, features: AnyFeatureSet, arrays: Sequence[Array], statistics: Any, count: Array) -> Any:
        """The averages with this batch in them, and their eigenvectors."""
        assert isinstance(features, TiedFeatureSet)

        def renew(part: FeatureSet, old: Side) -> Side:
            share = share_of_batch(self.decay**self.every, count, old.mean.dtype)
            fewer, read = part.thin(arrays, self.samples)
            if self._is_diagonal(part):
                mean, gram = fewer.moments(read)
            else:
                gram, mean = fewer.gram(read)
            gram = average(old.gram, gram.reshape(old.gram.shape), share)
            mean = average(old.mean, mean[0], share)
            center = part.bias_share**0.5 * mean if part.has_bias else jnp.zeros_like(mean)
            if self._is_diagonal(part):
                return Side(gram, mean, jnp.maximum(gram - jnp.square(center), 0), old.vectors)
            values, vectors = jnp.linalg.eigh(gram - center[:, None] * center[None, :])
            return Side(gram, mean, jnp.maximum(values, 0), vectors)

        return renew(features.first, statistics[0]), renew(features.second, statistics[1])

    def init_memory(self, shape: tuple[int, int, int], dtype: Any) -> tuple[()]:
        """Nothing."""
        del shape, dtype
        return ()

    def solve(
        self,
        features: AnyFeatureSet,
        arrays: Sequence[Array],
        statistics: Any,
        gradient: Array,
        memory: Any,
    ) -> Solution:
        """The solution in the eigenvectors; the gradient is [1, i(+1), o(+1)], see `TiedFeatureSet`."""
        del arrays
        assert isinstance(features, TiedFeatureSet)
        rows, columns = statistics
        (share, other), i, o = features.shares, features.inputs, features.second.inputs
        right = gradient[0, :i, :o]
        below, beside = gradient[0, i:, :o], gradient[0, :i, o:]  # gradients of the biases [0 or 1, o], [i, 0 or 1]
        if features.first.has_bias:
            right = right - rows.mean[:, None] * below
        if features.second.has_bias:
            right = right - beside * columns.mean[None, :]
        diagonal = share * rows.values[:, None] + other * columns.values[None, :]
        ridge = self.ridge * (diagonal.mean() if self.relative else 1)
        diagonal = diagonal + ridge
        weight = _rotate(rows.vectors.T, columns.vectors, right) / jnp.where(diagonal > 0, diagonal, 1)
        weight = _rotate(rows.vectors, columns.vectors.T, weight)
        below = below / (share * features.first.bias_share) - contract("i,io->o", rows.mean, weight)
        beside = beside / (other * features.second.bias_share) - contract("io,o->i", weight, columns.mean)[:, None]
        corner = jnp.zeros((below.shape[0], beside.shape[1]), weight.dtype)
        direction = jnp.block([[weight, beside], [below, corner]])[None]
        return Solution(direction, inner(direction, gradient), memory)

    def operations(self, features: AnyFeatureSet, outputs: int) -> tuple[float, float]:
        """Two Gram matrices and their eigenvectors; two changes of basis."""
        assert isinstance(features, TiedFeatureSet)
        update = solve = 0.0
        for part in (features.first, features.second):
            n, i = part.samples * self.samples, part.inputs
            if self._is_diagonal(part):
                update += 4.0 * n
            else:
                update += 2.0 * n * i**2 + 9.0 * i**3
                solve += 4.0 * i * features.inputs * outputs
        return update, solve


def _rotate(left: Array, right: Array, matrix: Array) -> Array:
    """Left @ matrix @ right, an empty one being the identity."""
    matrix = contract("ij,jo->io", left, matrix) if left.size else matrix
    return contract("io,op->ip", matrix, right) if right.size else matrix
