"""Examples that threads decode a few batches ahead of the training, and that are kept once they are decoded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

_BATCHES_AHEAD = 3

Example = tuple[np.ndarray, ...]


class DecodedExamples:
    """A sequence of examples, each decoded when it is first asked for.

    Decoding happens in threads, while the caller does something else. Every example that was decoded stays in memory:
    after the first pass nothing is decoded again.
    """

    def __init__(self, encoded: Sequence[Any], decode: Callable[[Any], Example]) -> None:
        """Of what is `encoded`, which `decode`, called from several threads, turns into arrays of one shape."""
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
