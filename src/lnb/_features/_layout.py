"""Where a weight's elements come from: the layout of parameter leaves, as data.

A `Layout` says how an array is made of leaves by rearranging their elements. It reads arrays and element numbers alike:
given the leaves it packs a neuron's parameters, given the numbers of their elements it says which element stands where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Layout:
    """An array whose elements are those of parameter leaves."""

    def read(self, leaves: Mapping[int, Any]) -> Any:
        """The array, of the leaves by their numbers: NumPy's from NumPy's, JAX's from JAX's."""
        raise NotImplementedError

    def replace_leaves(self, layouts: Mapping[int, Layout]) -> Layout:
        """The same layout of leaves that are laid out themselves."""
        raise NotImplementedError


@dataclass(frozen=True)
class Leaf(Layout):
    """A leaf as it is."""

    number: int

    def read(self, leaves: Mapping[int, Any]) -> Any:
        return leaves[self.number]

    def replace_leaves(self, layouts: Mapping[int, Layout]) -> Layout:
        return layouts[self.number]


@dataclass(frozen=True)
class _Of(Layout):
    """A layout of another."""

    of: Layout

    def read(self, leaves: Mapping[int, Any]) -> Any:
        return self.apply(self.of.read(leaves))

    def apply(self, array: Any) -> Any:
        """The rearranged array."""
        raise NotImplementedError

    def replace_leaves(self, layouts: Mapping[int, Layout]) -> Layout:
        settings = {name: value for name, value in vars(self).items() if name != "of"}
        return type(self)(self.of.replace_leaves(layouts), **settings)


@dataclass(frozen=True)
class Reshape(_Of):
    """`of.reshape(shape)`."""

    shape: tuple[int, ...]

    def apply(self, array: Any) -> Any:
        return array.reshape(self.shape)


@dataclass(frozen=True)
class Transpose(_Of):
    """`of.transpose(axes)`."""

    axes: tuple[int, ...]

    def apply(self, array: Any) -> Any:
        return array.transpose(self.axes)


@dataclass(frozen=True)
class Broadcast(_Of):
    """`lax.broadcast_in_dim(of, shape, axes)`."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def apply(self, array: Any) -> Any:
        sizes = [1] * len(self.shape)
        for axis, size in zip(self.axes, array.shape, strict=True):
            sizes[axis] = size
        array = array.reshape(sizes)
        return array if array.shape == self.shape else _numpy_of(array).broadcast_to(array, self.shape)


@dataclass(frozen=True)
class Slice(_Of):
    """`of[start:stop:step, ...]`, `bounds` being (start, stop, step) of each axis."""

    bounds: tuple[tuple[int | None, int | None, int], ...]

    def apply(self, array: Any) -> Any:
        return array[tuple(slice(*bound) for bound in self.bounds)]


@dataclass(frozen=True)
class Pad(_Of):
    """`of` with zeros before and after; for layouts of biases that stand in a larger array."""

    widths: tuple[tuple[int, int], ...]

    def apply(self, array: Any) -> Any:
        return _numpy_of(array).pad(array, self.widths)


@dataclass(frozen=True, eq=False)
class Take(_Of):
    """The elements of `of`, raveled, at these places."""

    places: np.ndarray

    def apply(self, array: Any) -> Any:
        return array.reshape(-1)[self.places]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Take) and self.of == other.of and np.array_equal(self.places, other.places)

    def __hash__(self) -> int:
        return hash((self.of, self.places.tobytes()))


@dataclass(frozen=True)
class Concatenate(Layout):
    """Layouts side by side along an axis."""

    parts: tuple[Layout, ...]
    axis: int

    def read(self, leaves: Mapping[int, Any]) -> Any:
        arrays = [part.read(leaves) for part in self.parts]
        return _numpy_of(arrays[0]).concatenate(arrays, axis=self.axis)

    def replace_leaves(self, layouts: Mapping[int, Layout]) -> Layout:
        return Concatenate(tuple(part.replace_leaves(layouts) for part in self.parts), self.axis)


@dataclass(frozen=True)
class Steps(Layout):
    """A layout [g, i, o] of each step's own slices of stacked arrays, [step * g, i, o].

    Fields:
        each: the layout of one step, of leaves that are its slices.
        stacks: of these leaves, by number, the stacked array.
    """

    each: Layout
    stacks: tuple[tuple[int, Layout], ...]

    def read(self, leaves: Mapping[int, Any]) -> Any:
        stacks = {number: layout.read(leaves) for number, layout in self.stacks}
        first = next(iter(stacks.values()))
        if isinstance(first, np.ndarray):
            slices = [{number: stack[k] for number, stack in stacks.items()} for k in range(len(first))]
            steps = np.stack([self.each.read(own) for own in slices])
        else:
            steps = jax.vmap(self.each.read)(stacks)  # [step, g, i, o]
        return steps.reshape(-1, *steps.shape[2:])

    def replace_leaves(self, layouts: Mapping[int, Layout]) -> Layout:
        return Steps(self.each, tuple((number, stack.replace_leaves(layouts)) for number, stack in self.stacks))


def ravel(sizes: Mapping[int, int], shape: tuple[int, ...]) -> Layout:
    """Leaves one after the other, in an array of this shape."""
    parts = tuple(Reshape(Leaf(leaf), (size,)) for leaf, size in sizes.items())
    return Reshape(parts[0].of if len(parts) == 1 else Concatenate(parts, 0), shape)


def unpack(layout: Layout, packed: Any, shapes: Mapping[int, tuple[int, ...]]) -> dict[int, Any]:
    """The leaves of which `layout` reads this array; elements that it does not read are zero."""
    like = {leaf: jax.ShapeDtypeStruct(shape, packed.dtype) for leaf, shape in shapes.items()}
    (leaves,) = jax.linear_transpose(layout.read, like)(packed)
    return leaves


class ElementNumbers(dict[int, np.ndarray]):
    """By leaf, a number for each of its elements, in the order of the leaves and of their elements.

    The numbers are made when they are asked for, and not kept: together they are as large as the parameters.
    """

    def __init__(self, shapes: Mapping[int, tuple[int, ...]]) -> None:
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.starts: dict[int, int] = {}
        self._end = 0
        for leaf, shape in shapes.items():
            self.add(leaf, shape)

    def add(self, leaf: int, shape: tuple[int, ...]) -> None:
        """Number the elements of one more leaf."""
        self.shapes[leaf], self.starts[leaf] = shape, self._end
        self._end += prod(shape)

    def __missing__(self, leaf: int) -> np.ndarray:
        shape, start = self.shapes[leaf], self.starts[leaf]
        end = start + prod(shape)
        return np.arange(start, end, dtype=np.int32 if end < 2**31 else np.int64).reshape(shape)


def _numpy_of(array: Any) -> Any:
    return np if isinstance(array, np.ndarray) else jnp
