"""What every solver answers, and the checks of their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from jax import Array

from lnb._checks import check_number
from lnb._features import FeatureSet, JacobianFeatures, TiedFeatureSet

AnyFeatureSet = FeatureSet | TiedFeatureSet | JacobianFeatures


class Solution(NamedTuple):
    """What a solver makes of a neuron's gradient."""

    direction: Array  # theta [g, i(+1), o]
    squared: Array  # theta . g [g]
    memory: Any


class Solver(Protocol):
    """Solves (M + ridge) theta = g for a neuron, the ridge on the weights and not on the bias (section 3.4).

    Statistics belong to a feature set and are shared by the neurons that read it; a memory belongs to one neuron.
    """

    @property
    def ridge(self) -> float:
        """Added to the diagonal of M."""
        ...

    @property
    def relative(self) -> bool:
        """Whether the ridge is a multiple of the features' mean variance."""
        ...

    @property
    def every(self) -> int:
        """Steps from one update of the statistics to the next."""
        ...

    def init(self, features: AnyFeatureSet, dtype: Any) -> Any:
        """The statistics before the first batch, a pytree of arrays."""
        ...

    def update(self, features: AnyFeatureSet, arrays: Sequence[Array], statistics: Any, count: Array) -> Any:
        """The statistics with one more batch in them; `count` is how many they hold then."""
        ...

    def init_memory(self, shape: tuple[int, int, int], dtype: Any) -> Any:
        """What the solver remembers of a neuron from step to step, a pytree of arrays."""
        ...

    def solve(
        self,
        features: AnyFeatureSet,
        arrays: Sequence[Array],
        statistics: Any,
        gradient: Array,
        memory: Any,
    ) -> Solution:
        """The direction for a gradient g [g, i(+1), o], and the new memory."""
        ...

    def operations(self, features: AnyFeatureSet, outputs: int) -> tuple[float, float]:
        """Floating-point operations of one update, shared by the neurons that read the features, and of one solve."""
        ...


def settings_of(solver: Solver) -> tuple[Any, dict[str, Any]]:
    """A solver's settings apart: what is hashable and compiled in, and the arrays, which may be traced.

    Hyper-parameters that `optax.inject_hyperparams` schedules are such arrays.
    """
    if not is_dataclass(solver):
        return solver, {}
    values = {field.name: getattr(solver, field.name) for field in fields(solver)}
    arrays = {name: value for name, value in values.items() if isinstance(value, (Array, np.ndarray))}
    return (type(solver), tuple((name, value) for name, value in values.items() if name not in arrays)), arrays


def with_settings(fixed: Any, arrays: dict[str, Any]) -> Any:
    """The solver of these settings."""
    if not isinstance(fixed, tuple):
        return fixed
    kind, values = fixed
    return kind(**dict(values), **arrays)


def check_range(solver: object, low: float, high: float, *names: str, closed: bool = False) -> None:
    """Raise unless these settings lie in [low, high), or in [low, high] if `closed`."""
    for name in names:
        check_number(f"`{name}` of {type(solver).__name__}", getattr(solver, name), low, high, closed=closed)


def check_share(solver: object, *names: str) -> None:
    """Raise unless these settings are shares, above 0 and at most 1."""
    for name in names:
        value = getattr(solver, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ValueError(f"`{name}` of {type(solver).__name__} must be above 0 and at most 1, got {value!r}.")


def check_count(solver: object, *names: str) -> None:
    """Raise unless these settings are whole numbers of at least one."""
    for name in names:
        value = getattr(solver, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` of {type(solver).__name__} must be a whole number of at least 1, got {value!r}."
            )
