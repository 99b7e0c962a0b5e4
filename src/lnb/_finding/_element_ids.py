"""Which element of what each element of a value is, as NumPy arrays that broadcast without memory.

Element ids answer every question about layouts (is it a permutation, is this a bias, which axes are samples) without a
rule for each layout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ElementIds = np.ndarray


def ids_along(ids: ElementIds, axes: Sequence[int]) -> ElementIds | None:
    """The ids at index 0 of every other axis, if they repeat along those axes; None if they do not."""
    others = [axis for axis in range(ids.ndim) if axis not in axes and ids.shape[axis] > 1]
    if any(ids.strides[axis] != 0 for axis in others):
        return None
    return ids[tuple(slice(None) if axis in axes else 0 for axis in range(ids.ndim))]


def varying_axes(ids: ElementIds) -> tuple[int, ...]:
    """The axes along which the ids are not one repeated value."""
    return tuple(a for a in range(ids.ndim) if ids.shape[a] > 1 and ids.strides[a] != 0)


def count_over(sizes: Sequence[int], axes: Sequence[int], shape: Sequence[int]) -> ElementIds:
    """Numbers 0, 1, ... counting over `axes` of an array of `shape`, in the order of `axes`, repeated over the rest."""
    count = np.arange(int(np.prod(sizes, dtype=np.int64)), dtype=np.int32).reshape(tuple(sizes))
    order = np.argsort(axes)
    count = count.transpose(order)
    full = [1] * len(shape)
    for axis in axes:
        full[axis] = shape[axis]
    return np.broadcast_to(count.reshape(full), tuple(shape))


def distinct_ids(ids: ElementIds) -> ElementIds:
    """The different ids in order, like `np.unique`, by marks in place of a sort: ids are numbers of a few leaves."""
    if not ids.size:
        return ids.reshape(-1)
    low, marked = _marked(ids)
    return np.flatnonzero(marked) + low


def are_distinct(ids: ElementIds) -> bool:
    """Whether no id stands there twice."""
    return distinct_ids(ids).size == ids.size


def have_common(first: ElementIds, second: ElementIds) -> bool:
    """Whether an id stands in both."""
    if not first.size or not second.size:
        return False
    low, marked = _marked(first)
    inside = (second >= low) & (second < low + marked.size)
    return bool(marked[second[inside] - low].any())


def _marked(ids: ElementIds) -> tuple[int, np.ndarray]:
    """The least id, and of each number from it on whether it is among the ids."""
    low = int(ids.min())
    marked = np.zeros(int(ids.max()) - low + 1, bool)
    marked[(ids - low).reshape(-1)] = True
    return low, marked


def repeat_alike(first: ElementIds | None, second: ElementIds | None) -> bool:
    """Whether two arrays of ids are known, and equal."""
    if first is None or second is None:
        return False
    axes = varying_axes(first)
    ours, theirs = ids_along(first, axes), ids_along(second, axes)
    return ours is not None and theirs is not None and np.array_equal(ours, theirs)
