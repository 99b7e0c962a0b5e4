"""What every solver answers, and the checks of their settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from jax import Array

from lnb._equations import EquationFeatureSet
from lnb._feature_sets import FeatureSet, TiedFeatureSet

AnyFeatureSet = FeatureSet | TiedFeatureSet | EquationFeatureSet


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


def check_range(solver: object, low: float, high: float, *names: str) -> None:
    """Raise unless these settings lie in [low, high)."""
    for name in names:
        value = getattr(solver, name)
        if isinstance(value, bool) or (isinstance(value, (int, float)) and not low <= value < high):
            bounds = f"at least {low:g}" if high == float("inf") else f"in [{low:g}, {high:g})"
            raise ValueError(f"`{name}` of {type(solver).__name__} must be {bounds}, got {value!r}.")


def check_share(solver: object, *names: str) -> None:
    """Raise unless these settings are shares, above 0 and at most 1."""
    for name in names:
        value = getattr(solver, name)
        if isinstance(value, bool) or not 0 < value <= 1:
            raise ValueError(f"`{name}` of {type(solver).__name__} must be above 0 and at most 1, got {value!r}.")


def check_count(solver: object, *names: str) -> None:
    """Raise unless these settings are whole numbers of at least one."""
    for name in names:
        value = getattr(solver, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` of {type(solver).__name__} must be a whole number of at least 1, got {value!r}."
            )
