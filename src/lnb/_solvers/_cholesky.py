"""A direct solve with the averaged Gram matrix: section 3.5's second option, and FOOF (Benzing, 2022).

The Gram matrix E[x x^T] and the mean are averaged over batches. With a bias the covariance S = E[x x^T] - mu mu^T is
inverted instead, which takes the bias's row out of the system exactly (see `_moments`) and is the better conditioned.
The inverse itself is kept: the gradient is multiplied by it at every step, and a product of matrices is several times
faster than two triangular solves. On the CPU elimination gives it, elsewhere Cholesky's factor (see `_factor`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from lnb._features import FeatureSet
from lnb._moments import average, centered, ridge_of, sampling_ridge_of, share_of_batch, solve_whitened
from lnb._numerics import contract, inner, vector_matrix
from lnb._solvers import _factor
from lnb._solvers._solver import AnyFeatureSet, Solution, check_count, check_range, check_share


class Gram(NamedTuple):
    """Moving averages, and the inverse that was last taken of them.

    A Gram matrix that is diagonal, of an embedding or of single features, is [g, i] wherever this says [g, i, i].
    """

    gram: Array  # E[x x^T] [g, i, i]
    mean: Array  # E[x] [g, i]
    inverse: Array  # of S + ridge [g, i, i]


@dataclass(frozen=True)
class Cholesky:
    """The exact solution for the averaged Gram matrix, which is renewed every few steps.

    Args:
        every: steps from one renewal to the next, at which that step's batch enters the average; the first `every`
            steps' all do.
        decay: of the moving average of the Gram matrix, for one step; 0 keeps the last batch's alone.
        ridge: added to the diagonal of M for the weights, in units of the features squared.
        relative: the ridge is a multiple of the features' mean variance instead, which makes the update the same
            whatever the features' scale.
        sampling_ridge: the ridge is at least this multiple of i / n, since n samples say little of i directions.
        samples: the share of a batch's samples that the Gram matrix is taken of, above 0 and at most 1.

    Raises:
        ValueError: a setting is out of its range.

    Source: section 3.5 of the paper; Benzing (2022), eq. (6).

    >>> Cholesky(every=1, decay=0.0).ridge  # Algorithm 1, with a full batch and `gradient_decay=0`
    0.1
    """

    every: int = 10
    decay: float = 0.95
    ridge: float = 0.1
    relative: bool = False
    sampling_ridge: float = 0.0
    samples: float = 1.0

    def __post_init__(self) -> None:
        check_count(self, "every")
        check_range(self, 0, 1, "decay")
        check_range(self, 0, inf, "ridge", "sampling_ridge")
        check_share(self, "samples")

    def init(self, features: AnyFeatureSet, dtype: Any) -> Any:
        """Averages of zero."""
        assert isinstance(features, FeatureSet)
        mean = (features.groups, features.inputs)
        gram = mean if features.has_diagonal_gram else (*mean, features.inputs)
        # Each field its own array, so that the state can be donated.
        return Gram(*(jnp.zeros(shape, dtype) for shape in (gram, mean, gram)))

    def update(self, features: AnyFeatureSet, arrays: Sequence[Array], statistics: Any, count: Array) -> Any:
        """The averages with this batch in them, inverted."""
        assert isinstance(features, FeatureSet)
        share = share_of_batch(self.decay**self.every, count, statistics.mean.dtype)
        fewer, read = features.thin(arrays, self.samples)
        gram, mean = fewer.gram(read)
        gram = average(statistics.gram, gram.reshape(statistics.gram.shape), share)
        mean = average(statistics.mean, mean, share)
        least = sampling_ridge_of(self.sampling_ridge, features, arrays)
        return Gram(gram, mean, self._invert(features, gram, mean, least))

    def _invert(self, features: FeatureSet, gram: Array, mean: Array, least: Array | None) -> Array:
        diagonal = features.has_diagonal_gram
        square = gram if diagonal else _factor.diagonal_of(gram)  # chi
        # Rounding may leave a covariance without full rank slightly indefinite.
        floor = jnp.finfo(gram.dtype).eps * features.inputs * square.mean(1, keepdims=True)
        variance = square
        if features.has_bias:
            center = features.bias_share**0.5 * mean
            variance = square - jnp.square(center)
            gram = variance if diagonal else gram - center[:, :, None] * center[:, None, :]
        ridge = ridge_of(self, variance, least)
        if diagonal:
            shifted = jnp.maximum(gram, floor) + ridge
            return 1 / jnp.where(shifted > 0, shifted, 1)
        eye = jnp.eye(features.inputs, dtype=gram.dtype)
        return _factor.inverse(gram + (floor + ridge)[:, :, None] * eye)

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
        """One product with the inverse."""
        del arrays
        assert isinstance(features, FeatureSet)

        def inverse(weight: Array, mean: Array, bias: Array | None) -> tuple[Array, Array, Array]:
            vector = centered(weight, mean, bias)
            if features.has_diagonal_gram:
                solved = vector * statistics.inverse[:, :, None]
            else:
                solved = contract("gij,gjo->gio", statistics.inverse, vector)
            return solved, inner(solved, vector), vector_matrix(mean, solved)

        return Solution(*solve_whitened(inverse, features, statistics.mean, gradient), memory)

    def operations(self, features: AnyFeatureSet, outputs: int) -> tuple[float, float]:
        """The Gram matrix and its inverse, of which elimination takes twice as many; one product with it."""
        g, n, i = features.groups, features.samples * self.samples, features.inputs
        if isinstance(features, FeatureSet) and features.has_diagonal_gram:
            return 4.0 * g * n, 2.0 * g * i * outputs
        return g * (2.0 * n * i**2 + i**3), 2.0 * g * i**2 * outputs
