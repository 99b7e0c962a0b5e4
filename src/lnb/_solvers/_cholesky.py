"""A direct solve with the averaged Gram matrix: section 3.5's second option, and FOOF (Benzing, 2022).

The Gram matrix E[x x^T] and the mean are averaged over batches. With a bias the covariance S = E[x x^T] - mu mu^T is
factored instead, which takes the bias's row out of the system exactly (see `_moments`) and is the better conditioned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve

from lnb._linear_maps import FeatureSet
from lnb._moments import average, corrected, solve_whitened
from lnb._solvers._solver import AnyFeatureSet, check_count, check_range


class Gram(NamedTuple):
    """Averages not yet corrected for their start at zero, and what was last factored.

    A Gram matrix that is diagonal, of an embedding or of single features, is [g, i] wherever this says [g, i, i].
    """

    gram: Array  # E[x x^T] [g, i, i]
    mean: Array  # E[x] [g, i]
    factor: Array  # Cholesky factor of S + ridge [g, i, i]; where diagonal, S + ridge itself
    factored_mean: Array  # the corrected mean that belongs to `factor` [g, i]


@dataclass(frozen=True)
class Cholesky:
    """The exact solution for the averaged Gram matrix, factored anew every few steps.

    Args:
        every: steps from one factorization to the next; the first step factors.
        decay: of the moving average of the Gram matrix; 0 keeps this batch's alone.
        ridge: added to the diagonal of M for the weights, in units of the features squared.

    Raises:
        ValueError: a setting is out of its range.

    Source: section 3.5 of the paper; Benzing (2022), eq. (6).

    >>> Cholesky(every=1, decay=0.0).ridge  # Algorithm 1, with a full batch and `gradient_decay=0`
    0.1
    """

    every: int = 10
    decay: float = 0.95
    ridge: float = 0.1

    def __post_init__(self) -> None:
        check_count(self, "every")
        check_range(self, 0, 1, "decay")
        check_range(self, 0, inf, "ridge")

    def init(self, features: AnyFeatureSet, dtype: Any) -> Any:
        """Averages of zero."""
        assert isinstance(features, FeatureSet)
        mean = (features.groups, features.inputs)
        gram = mean if _is_diagonal(features) else (*mean, features.inputs)
        # Each field its own array, so that the state can be donated.
        return Gram(*(jnp.zeros(shape, dtype) for shape in (gram, mean, gram, mean)))

    def update(self, features: AnyFeatureSet, arrays: Sequence[Array], statistics: Any, count: Array) -> Any:
        """The averages with this batch in them, factored if it is time."""
        assert isinstance(features, FeatureSet)
        gram, mean = features.gram(arrays)
        gram = average(statistics.gram, gram.reshape(statistics.gram.shape), self.decay)
        mean = average(statistics.mean, mean, self.decay)

        def factor() -> tuple[Array, Array]:
            return self._factor(features, corrected(gram, self.decay, count), corrected(mean, self.decay, count))

        refresh = (count - 1) % self.every == 0
        factors = jax.lax.cond(refresh, factor, lambda: (statistics.factor, statistics.factored_mean))
        return Gram(gram, mean, *factors)

    def _factor(self, features: FeatureSet, gram: Array, mean: Array) -> tuple[Array, Array]:
        diagonal = _is_diagonal(features)
        scale = gram if diagonal else jnp.diagonal(gram, axis1=1, axis2=2)
        # Rounding may leave a covariance without full rank slightly indefinite.
        floor = jnp.finfo(gram.dtype).eps * features.inputs * scale.mean(1, keepdims=True)
        if features.has_bias:
            gram = gram - (jnp.square(mean) if diagonal else mean[:, :, None] * mean[:, None, :])
        if diagonal:
            shifted = jnp.maximum(gram, floor) + self.ridge
            return jnp.where(shifted > 0, shifted, 1), mean
        eye = jnp.eye(features.inputs, dtype=gram.dtype)
        return jnp.linalg.cholesky(gram + (floor + self.ridge)[:, :, None] * eye), mean

    def init_memory(self, shape: tuple[int, int, int], dtype: Any) -> tuple[()]:
        """Nothing."""
        del shape, dtype
        return ()

    def solve(
        self,
        features: AnyFeatureSet,
        arrays: Sequence[Array],
        statistics: Any,
        count: Array,
        gradient: Array,
        memory: Any,
    ) -> tuple[Array, Any]:
        """Two triangular solves."""
        del arrays, count

        def inverse(weight: Array) -> Array:
            if _is_diagonal(features):
                return weight / statistics.factor[:, :, None]
            return jax.vmap(lambda factor, right: cho_solve((factor, True), right))(statistics.factor, weight)

        return solve_whitened(inverse, statistics.factored_mean, features.has_bias, gradient), memory


def _is_diagonal(features: AnyFeatureSet) -> bool:
    return features.inputs == 1 or (isinstance(features, FeatureSet) and features.is_diagonal)
