"""Batches of examples that lie on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from lnb.experiments._errors import ExperimentError

PyTree = Any


@dataclass(frozen=True)
class ShuffledBatches:
    """Batches in an order that seed and epoch determine, so that every optimizer sees the same."""

    examples: PyTree
    """Arrays whose first axis runs over the examples."""
    batch_size: int
    """Examples in a batch."""
    seed: int
    """Of the order."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return _count(self.examples) // self.batch_size

    def epoch(self, index: int, start: int = 0) -> Iterator[PyTree]:
        """The batches of an epoch from the `start`-th on; a remainder too small for a batch is left out."""
        order = np.random.default_rng((self.seed, index)).permutation(_count(self.examples))
        for batch in range(start, self.steps_per_epoch):
            yield _take(self.examples, order[batch * self.batch_size : (batch + 1) * self.batch_size])


def shuffled_batches(examples: PyTree, batch_size: int, seed: int) -> ShuffledBatches:
    """Batches of `examples`, a tree of arrays whose first axis runs over the examples.

    Raises:
        ExperimentError: there are not enough examples for a batch.
    """
    if not 1 <= batch_size <= _count(examples):
        raise ExperimentError(
            f"`batch_size` must be from 1 to the number of examples, {_count(examples)}, got {batch_size}."
        )
    return ShuffledBatches(examples, batch_size, seed)


@jax.jit
def _take(examples: PyTree, indices: Array) -> PyTree:
    return jax.tree.map(lambda array: array[indices], examples)


def _count(examples: PyTree) -> int:
    return len(jax.tree.leaves(examples)[0])
