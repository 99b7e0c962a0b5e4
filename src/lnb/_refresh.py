"""When statistics are updated that are not updated at every step: in turn, so that steps cost alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class RefreshSchedule(NamedTuple):
    """The steps at which statistics are updated: the first `update_period`, and then every `update_period`-th.

    A network changes fastest at first, when old statistics would make steps too long.
    """

    steps: Array  # taken before this one []
    offset: Array  # how many steps an update comes before the multiples of `update_period` []

    def is_due(self, update_period: int) -> Array:
        """Whether statistics are updated at this step."""
        is_turn = jax.lax.rem(self.steps + self.offset, jnp.int32(update_period)) == 0
        return (self.steps < update_period) | is_turn

    def batches(self, update_period: int) -> Array:
        """The number of batches that the statistics hold once this step is taken."""
        if update_period == 1:
            return self.steps + 1
        divisor = jnp.int32(update_period)
        turns = jax.lax.div(self.steps + self.offset, divisor) - jax.lax.div(self.offset + (update_period - 1), divisor)
        return jnp.where(self.steps < update_period, self.steps + 1, update_period + turns)


def spread_refreshes(costs: Sequence[tuple[int, float]]) -> list[int]:
    """Choose offsets so that the updates at each step cost alike.

    Args:
        costs: `update_period` and the cost of an update, for each of the statistics.

    Returns:
        The offset of each, below its `update_period`.

    >>> spread_refreshes([(2, 1.0), (2, 3.0), (2, 2.0), (1, 5.0)])
    [1, 0, 1, 0]
    """
    load: dict[int, list[float]] = {}  # for each period, the cost at each offset
    offsets = [0] * len(costs)
    for k, (period, cost) in sorted(enumerate(costs), key=lambda item: -item[1][1]):
        steps = load.setdefault(period, [0.0] * period)
        offsets[k] = steps.index(min(steps))
        steps[offsets[k]] += cost
    return offsets
