"""What the search knows of a value: a parameter's own layout, or the output of a neuron under construction.

Both are affine functions of parameter leaves, kept as Python closures over the equations met so far. Labels say which
element of what a value's elements are, as NumPy arrays that broadcast without memory: they carry every layout question
(is it a permutation, is this a bias, which axes are samples) without a rule for each layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jax.extend.core import primitives

from lnb._program import Equation, Value, unlisted

Labels = np.ndarray


@dataclass(frozen=True, eq=False)
class Parameter:
    """A value that is affine in parameter leaves and has met no data.

    Fields:
        leaves: the leaves' numbers.
        function: the value, from the leaves.
        layout: the same without casts, for packing; None where the value is more than a layout of its leaves.
        labels_of: gives for each element of the value the one leaf element that it depends on, (leaf, element) as one
            number; None where it depends on several.
        distinct: no element of a leaf appears twice.
        whole: every element of the leaves appears.
        factor: the constant that the layout's values are multiplied by.
    """

    leaves: tuple[int, ...]
    function: Callable[[Mapping[int, Any]], Any]
    layout: Callable[[Mapping[int, Any]], Any] | None
    labels_of: Callable[[], Labels] | None
    shape: tuple[int, ...]
    distinct: bool = True
    whole: bool = True
    factor: float = 1.0

    @cached_property
    def labels(self) -> Labels | None:
        """`labels_of()`, computed when first asked for."""
        return None if self.labels_of is None else self.labels_of()

    @property
    def is_layout(self) -> bool:
        """Whether the value is its leaves' elements rearranged, each at most once."""
        return self.layout is not None and self.distinct

    def opaque(
        self,
        function: Callable[[Mapping[int, Any]], Any],
        shape: tuple[int, ...],
        leaves: tuple[int, ...] = (),
    ) -> Parameter:
        """A value of which only the function is known."""
        return Parameter(leaves or self.leaves, function, None, None, shape, distinct=False, whole=False)


@dataclass(frozen=True, eq=False)
class Nonlinear:
    """A value computed from parameters alone, and not linearly; `reason` says by what."""

    leaves: frozenset[int]
    reason: str


@dataclass(frozen=True, eq=False)
class Term:
    """One weight of a neuron in canonical form: `pack(leaves)` is W [g, i, o], `features` reads its X.

    `labels()` is which elements of the leaves W holds, in the same order; `source` is the activation that it reads.
    A scale's X is derived from its output's equations, and has neither `features` nor `source` here.
    """

    kind: str
    parameter: Parameter
    pack: Callable[[Mapping[int, Any]], Any]
    labels: Callable[[], Labels | None]
    features: Any
    source: Value | None
    inputs: int


@dataclass(frozen=True, eq=False)
class Output:
    """A value that is affine in the parameters of a neuron under construction.

    Fields:
        leaves: the leaves' numbers.
        function: the value, from the leaves and the activations `features`.
        features: the activations' values, in the order in which `function` takes them.
        terms: the weights in canonical form; None where the neuron is kept as its equations.
        bias: the bias packed as [g, 1, o], with its leaf's labels in that order.
        columns: labels of (g, o) for each element of the value; None where they were lost.
        rows: labels of n, likewise.
        shape: of the value.
        groups, outputs, samples: g, o and n.
        elementwise: each element of the value depends on one parameter element alone, through products.
        constant: its features so far are constants of the program.
        selected: a weight that data chose out of a stack of weights: it has met no features yet.
        joined: the neuron's output as it was when its last parameter joined.
        repeats: how many samples each row stands for: an output of constant features, the same for all data.
    """

    leaves: tuple[int, ...]
    function: Callable[[Mapping[int, Any], Sequence[Any]], Any]
    features: tuple[Value, ...]
    terms: tuple[Term, ...] | None
    columns: Labels | None
    rows: Labels | None
    shape: tuple[int, ...]
    groups: int
    outputs: int
    samples: int
    bias: Bias | None = None
    elementwise: bool = False
    constant: bool = False
    selected: bool = False
    factor: float = 1.0
    joined: Output | None = None
    repeats: int = 1

    def ended(self) -> Output:
        """The neuron as it was when its last parameter joined."""
        return replace(self.joined or self, repeats=self.repeats)

    def general(self) -> Output:
        """The same neuron kept as its equations alone."""
        return replace(self, terms=None, bias=None, columns=None, rows=None)


@dataclass(frozen=True, eq=False)
class Bias:
    """A bias that adds b[g, o] to every sample: `pack(leaves)` is [g, 1, o]."""

    parameter: Parameter
    pack: Callable[[Mapping[int, Any]], Any]
    labels: Labels


def _broadcast_in_dim(labels: Labels, shape: Sequence[int], axes: Sequence[int]) -> Labels:
    sizes = [1] * len(shape)
    for axis, size in zip(axes, labels.shape, strict=True):
        sizes[axis] = size
    return np.broadcast_to(labels.reshape(sizes), shape)


def _slice(labels: Labels, starts: Sequence[int], limits: Sequence[int], strides: Sequence[int] | None) -> Labels:
    bounds = zip(starts, limits, strides or (1,) * labels.ndim, strict=True)
    return labels[tuple(slice(*each) for each in bounds)]


_LAYOUTS: dict[Any, tuple[Callable[..., Labels], tuple[str, ...]]] = {
    primitives.reshape_p: (np.reshape, ("new_sizes",)),
    primitives.transpose_p: (np.transpose, ("permutation",)),
    primitives.squeeze_p: (np.squeeze, ("dimensions",)),
    primitives.broadcast_in_dim_p: (_broadcast_in_dim, ("shape", "broadcast_dimensions")),
    primitives.slice_p: (_slice, ("start_indices", "limit_indices", "strides")),
    primitives.rev_p: (np.flip, ("dimensions",)),
}
"""What each layout operation does to labels, and the parameters that it does it by."""
_SAME: frozenset[Any] = frozenset(
    {
        primitives.convert_element_type_p,
        primitives.copy_p,
        primitives.reduce_precision_p,
        primitives.sharding_constraint_p,
    }
)
_KEEPS_ALL = frozenset({primitives.reshape_p, primitives.transpose_p, primitives.squeeze_p, primitives.rev_p})


def is_layout(equation: Equation) -> bool:
    """Whether the equation only rearranges, repeats, drops or casts the elements of its first input."""
    return equation.primitive in _LAYOUTS or _keeps_elements(equation)


def _keeps_elements(equation: Equation) -> bool:
    """Whether each element of the output is the same of the input, but for its type."""
    return equation.primitive in _SAME or equation.primitive is unlisted().name


def relabeling(equation: Equation) -> Callable[[Labels], Labels]:
    """From the labels of a layout equation's input to those of its output."""
    if _keeps_elements(equation):
        return lambda labels: labels
    function, names = _LAYOUTS[equation.primitive]
    arguments = [equation.parameters[name] for name in names]
    return lambda labels: function(labels, *arguments)


def lay_out(equation: Equation, parameter: Parameter, shape: tuple[int, ...]) -> Parameter:
    """A parameter after a layout equation."""

    def function(leaves: Mapping[int, Any]) -> Any:
        return equation.bind([parameter.function(leaves)])[0]

    layout, labels_of = parameter.layout, parameter.labels_of
    if _keeps_elements(equation):
        return replace(parameter, function=function)
    relabel = relabeling(equation)
    repeats = equation.primitive is primitives.broadcast_in_dim_p and np.prod(shape) != np.prod(parameter.shape)
    return replace(
        parameter,
        function=function,
        layout=layout and (lambda leaves: equation.bind([layout(leaves)])[0]),
        labels_of=labels_of and (lambda: relabel(labels_of())),
        shape=shape,
        distinct=parameter.distinct and not repeats,
        whole=parameter.whole and equation.primitive is not primitives.slice_p,
    )


def core(labels: Labels, axes: Sequence[int]) -> Labels | None:
    """`labels` at index 0 of every other axis, if they repeat along those axes; None if they do not."""
    others = [axis for axis in range(labels.ndim) if axis not in axes and labels.shape[axis] > 1]
    if any(labels.strides[axis] != 0 for axis in others):
        return None
    return labels[tuple(slice(None) if axis in axes else 0 for axis in range(labels.ndim))]


def varying_axes(labels: Labels) -> tuple[int, ...]:
    """The axes along which the labels are not one repeated value."""
    return tuple(a for a in range(labels.ndim) if labels.shape[a] > 1 and labels.strides[a] != 0)


def place(sizes: Sequence[int], axes: Sequence[int], shape: Sequence[int]) -> Labels:
    """Numbers 0, 1, ... counting over `axes` of an array of `shape`, in the order of `axes`, repeated over the rest."""
    count = np.arange(int(np.prod(sizes, dtype=np.int64)), dtype=np.int32).reshape(tuple(sizes))
    order = np.argsort(axes)
    count = count.transpose(order)
    full = [1] * len(shape)
    for axis in axes:
        full[axis] = shape[axis]
    return np.broadcast_to(count.reshape(full), tuple(shape))
