"""The preconditioner P of section 3.5 alone: the inverse of eq. (12) with the variances for the covariance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import jax.numpy as jnp
from jax import Array

from lnb._features import FeatureSet
from lnb._moments import Moments, inverse_of_diagonal, renewed, ridge_of, shrunk_variance, solve_whitened
from lnb._solvers._solver import AnyFeatureSet, Solution, check_range, check_share


@dataclass(frozen=True)
class Diagonal:
    """P alone: each feature is centered, where there is a bias, and divided by its variance.

    Args:
        ridge: added to the variances, in units of the features squared.
        relative: the ridge is a multiple of the features' mean variance instead, which makes the update the same
            whatever the features' scale.
        shrinkage: how far the variances are drawn towards their mean, 0 to 1.
        mean_decay: of the moving average of mu = E[x].
        square_decay: of the moving average of chi = E[x * x].
        samples: the share of a batch's samples that the moments are taken of, above 0 and at most 1.

    Raises:
        ValueError: a setting is out of its range.

    Source: section 3.5 of the paper.

    >>> Diagonal().shrinkage
    0.1
    """

    ridge: float = 0.1
    relative: bool = False
    shrinkage: float = 0.1
    mean_decay: float = 0.9
    square_decay: float = 0.999
    samples: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, 0, inf, "ridge")
        check_range(self, 0, 1, "shrinkage", closed=True)
        check_range(self, 0, 1, "mean_decay", "square_decay")
        check_share(self, "samples")

    @property
    def every(self) -> int:
        """Every batch enters the moments."""
        return 1

    def init(self, features: AnyFeatureSet, dtype: Any) -> Moments:
        """Moments of zero."""
        shape = (features.groups, features.inputs)
        return Moments(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def update(self, features: AnyFeatureSet, arrays: Sequence[Array], statistics: Any, count: Array) -> Moments:
        """Mu and chi with this batch's moments in them."""
        assert isinstance(features, FeatureSet)
        fewer, read = features.thin(arrays, self.samples)
        return renewed(statistics, fewer.moments(read), (self.mean_decay, self.square_decay), count)

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
        """P g."""
        del arrays
        assert isinstance(features, FeatureSet)
        mean = statistics.mean
        variance = shrunk_variance(features, mean, statistics.square, self.shrinkage)
        inverse = inverse_of_diagonal(variance + ridge_of(self, variance))
        return Solution(*solve_whitened(inverse, features, mean, gradient), memory)

    def operations(self, features: AnyFeatureSet, outputs: int) -> tuple[float, float]:
        """Two sums over the features; centered and divided, with the bias's product and the length."""
        g, n, i = features.groups, features.samples * self.samples, features.inputs
        return 3.0 * g * n * i, 9.0 * g * i * outputs
