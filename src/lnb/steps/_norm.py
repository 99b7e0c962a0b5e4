"""A step of length one in function space: Algorithm 2, lines 11 to 14.

step = theta / max(min_norm, sqrt(z)),   z = theta . g over all parameters together
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import jax.numpy as jnp
from jax import Array

from lnb._checks import check_number
from lnb.steps._step import StepRule


@dataclass(frozen=True)
class Norm(StepRule):
    """The paper's step: one length in function space for all neurons together.

    The learning rate is that length, sqrt(epsilon) in the paper; about 0.1 to 1. Unlike `lnb.Spectral`, neurons with
    a large gradient take most of it.

    Args:
        min_norm: lower bound on sqrt(z). Below it the step shrinks with the gradient.

    Raises:
        TypeError: `min_norm` is not a number.
        ValueError: `min_norm` is negative.

    Source: Algorithm 2 of the paper.

    >>> float(Norm().whole(jnp.asarray(4.0), None))
    0.5
    """

    min_norm: float | Array = 1e-2

    def __post_init__(self) -> None:
        check_number("`min_norm` of Norm", self.min_norm, 0, inf)

    def whole(self, squared_norm: Array, value: Any) -> Array:
        """1 / max(min_norm, sqrt(z))."""
        del value
        return 1 / jnp.maximum(self.min_norm, jnp.sqrt(jnp.maximum(squared_norm, 0)))

    def distance(self, rate: float | Array, directions: int) -> float | Array:
        """What each direction has of the learning rate, if all have as much."""
        return rate / max(directions, 1) ** 0.5
