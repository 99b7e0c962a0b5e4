"""Batches of examples that lie on the device, and of examples that threads decode ahead of the training."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from lnb_experiments._errors import ExperimentError

PyTree = Any
Example = tuple[np.ndarray, ...]

_BATCHES_AHEAD = 3
_DRAWN_STEPS = 100


@dataclass(frozen=True)
class ShuffledBatches:
    """Batches in an order that seed and epoch determine, so that every optimizer sees the same."""

    examples: PyTree
    """Arrays whose first axis runs over the examples."""
    batch_size: int
    """Examples in a batch."""
    seed: int
    """Seed of the order."""
    prepare: Callable[[PyTree, Array], PyTree] | None = None
    """Makes a batch of the examples chosen for it and the batch's own random key."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return _count(self.examples) // self.batch_size

    def epoch(self, index: int, start: int = 0) -> Iterator[PyTree]:
        """The batches of an epoch from the `start`-th on; a remainder too small for a batch is left out."""
        for step, chosen in epoch_order(_count(self.examples), self.batch_size, self.seed, index, start):
            if self.prepare is None:
                yield _take(self.examples, chosen)
            else:
                yield _take_and_prepare(self.prepare, self.examples, chosen, batch_key(self.seed, index, step))


def shuffled_batches(
    examples: PyTree,
    batch_size: int,
    seed: int,
    prepare: Callable[[PyTree, Array], PyTree] | None = None,
) -> ShuffledBatches:
    """Batches of `examples`, a tree of arrays whose first axis runs over the examples.

    Args:
        examples: the arrays.
        batch_size: examples in a batch.
        seed: of the order and of the keys.
        prepare: a pure function from the chosen examples and a random key to the batch; None leaves them as they are.

    Raises:
        ExperimentError: there are not enough examples for a batch.
    """
    check_batch_size(batch_size, _count(examples))
    return ShuffledBatches(examples, batch_size, seed, prepare)


@dataclass(frozen=True)
class DrawnBatches:
    """Batches that are drawn at random, each from a key that seed, epoch and number determine."""

    draw: Callable[[Array], PyTree]
    """Makes a batch of a random key."""
    steps_per_epoch: int
    """Batches that are called an epoch."""
    seed: int
    """Seed of the keys."""

    def epoch(self, index: int, start: int = 0) -> Iterator[PyTree]:
        """The batches of an epoch from the `start`-th on."""
        for step in range(start, self.steps_per_epoch):
            yield self.draw(batch_key(self.seed, index, step))


def drawn_batches(draw: Callable[[Array], PyTree], seed: int) -> DrawnBatches:
    """Batches without a set of examples behind them; a hundred of them are called an epoch.

    Args:
        draw: a pure function from a random key to the batch.
        seed: of the keys.

    >>> batches = drawn_batches(jax.random.uniform, seed=0)
    >>> len(set(map(float, batches.epoch(0)))), len(list(batches.epoch(0, start=98)))
    (100, 2)
    """
    return DrawnBatches(jax.jit(draw), _DRAWN_STEPS, seed)


def check_batch_size(batch_size: int, count: int) -> None:
    """Check that `count` examples give a batch.

    Raises:
        ExperimentError: they do not.
    """
    if not 1 <= batch_size <= count:
        raise ExperimentError(f"`batch_size` must be from 1 to the number of examples, {count}, got {batch_size}.")


def epoch_order(count: int, batch_size: int, seed: int, index: int, start: int) -> Iterator[tuple[int, np.ndarray]]:
    """For each batch of an epoch from the `start`-th on: its number, and the examples that it takes, [batch].

    >>> [(step, len(chosen)) for step, chosen in epoch_order(10, 3, seed=0, index=0, start=1)]
    [(1, 3), (2, 3)]
    """
    order = np.random.default_rng((seed, index)).permutation(count)
    for step in range(start, count // batch_size):
        yield step, order[step * batch_size : (step + 1) * batch_size]


@jax.jit
def batch_key(seed: int, index: int, step: int) -> Array:
    """The random key of a batch: it depends on seed, epoch and number alone, so that a run can start anywhere."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), index), step)


@jax.jit
def _take(examples: PyTree, indices: Array) -> PyTree:
    return jax.tree.map(lambda array: array[indices], examples)


@partial(jax.jit, static_argnums=0)
def _take_and_prepare(
    prepare: Callable[[PyTree, Array], PyTree], examples: PyTree, indices: Array, key: Array
) -> PyTree:
    return prepare(_take(examples, indices), key)


def _count(examples: PyTree) -> int:
    return len(jax.tree.leaves(examples)[0])


class DecodedExamples:
    """A sequence of examples, each decoded when it is first asked for.

    Decoding happens in threads, while the caller does something else. Every example that was decoded stays in memory:
    after the first pass nothing is decoded again.
    """

    def __init__(self, encoded: Sequence[Any], decode: Callable[[Any], Example]) -> None:
        """Take the examples as `encoded`, and a `decode` for several threads, which gives arrays of one shape."""
        self._encoded = encoded
        self._decode = decode
        self._decoded: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self._encoded)

    def batches(self, chosen: Iterable[Sequence[int] | np.ndarray]) -> Iterator[Example]:
        """The arrays of each choice of examples, stacked."""
        pool = ThreadPoolExecutor(os.cpu_count())
        waiting: deque[list[Future[Example]]] = deque()
        try:
            for indices in chosen:
                waiting.append([pool.submit(self._get, int(index)) for index in indices])
                if len(waiting) > _BATCHES_AHEAD:
                    yield _stack(waiting.popleft())
            while waiting:
                yield _stack(waiting.popleft())
        finally:  # also where the caller stops asking
            pool.shutdown(cancel_futures=True)

    def _get(self, index: int) -> Example:
        if index not in self._decoded:
            self._decoded[index] = self._decode(self._encoded[index])
        return self._decoded[index]


def _stack(examples: Iterable[Future[Example]]) -> Example:
    return tuple(map(np.stack, zip(*(example.result() for example in examples), strict=True)))
