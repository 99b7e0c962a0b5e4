"""Polyak's step, to the point at which a linear loss would reach its minimum 0.

step = theta loss / max(min_norm^2, z),   z = theta . g over all parameters together
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
class Polyak(StepRule):
    """A step whose length comes from the loss, for a full batch and a loss whose minimum is 0.

    The learning rate multiplies it; 1 gives the textbook's step. Each update needs the loss:
    `optimizer.update(grads, state, params, features=features, value=loss)`.

    Args:
        min_norm: lower bound on sqrt(z).

    Raises:
        TypeError: `min_norm` is not a number.
        ValueError: `min_norm` is negative; at the update, `value` is missing.

    Source: Polyak (1987), Introduction to Optimization, section 5.3.

    >>> float(Polyak().whole(jnp.asarray(4.0), 2.0))
    0.5
    """

    min_norm: float | Array = 1e-2

    def __post_init__(self) -> None:
        check_number("`min_norm` of Polyak", self.min_norm, 0, inf)

    def whole(self, squared_norm: Array, value: Any) -> Array:
        """Loss / max(min_norm^2, z)."""
        if value is None:
            raise ValueError(
                "`value` is missing: with `step=lnb.Polyak()`, call "
                "`optimizer.update(grads, state, params, features=features, value=loss)`."
            )
        return jnp.asarray(value, squared_norm.dtype) / jnp.maximum(self.min_norm**2, squared_norm)
