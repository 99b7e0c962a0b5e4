"""Operations that rearrange elements: a parameter stays a parameter, a neuron's output an output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

from jax.extend.core import primitives

from lnb._features._layout import Broadcast, Layout, Leaf, Reshape, Slice, Transpose
from lnb._finding._element_ids import ElementIds
from lnb._finding._facts import Facts
from lnb._finding._values import Outcome, Parameter, PartialNeuron, TrackedValue
from lnb._finding.rules._linear import linear
from lnb._program import Equation, unlisted


def _slice(of: Layout, shape: tuple[int, ...], parameters: Any) -> Layout:
    starts, limits = parameters["start_indices"], parameters["limit_indices"]
    strides = parameters["strides"] or (1,) * len(shape)
    return Slice(of, tuple(zip(starts, limits, strides, strict=True)))


def _flip(of: Layout, shape: tuple[int, ...], parameters: Any) -> Layout:
    flipped = parameters["dimensions"]
    return Slice(of, tuple((None, None, -1 if axis in flipped else 1) for axis in range(len(shape))))


_LAYOUTS: dict[Any, Callable[[Layout, tuple[int, ...], Any], Layout]] = {
    primitives.reshape_p: lambda of, shape, parameters: Reshape(of, shape),
    primitives.transpose_p: lambda of, shape, parameters: Transpose(of, tuple(parameters["permutation"])),
    primitives.squeeze_p: lambda of, shape, parameters: Reshape(of, shape),
    primitives.broadcast_in_dim_p: lambda of, shape, parameters: Broadcast(
        of, shape, tuple(parameters["broadcast_dimensions"])
    ),
    primitives.slice_p: _slice,
    primitives.rev_p: _flip,
}
"""The layout that each layout operation makes of another, from the output's shape and the operation's parameters."""

_SAME: frozenset[Any] = frozenset(
    {
        primitives.convert_element_type_p,
        primitives.copy_p,
        primitives.reduce_precision_p,
        primitives.sharding_constraint_p,
    }
)


def is_layout(equation: Equation) -> bool:
    """Whether the equation only rearranges, repeats, drops or casts the elements of its first input."""
    return equation.primitive in layout_primitives()


@cache
def layout_primitives() -> frozenset[Any]:
    """The operations whose rule is `lay_out`."""
    return frozenset({*_LAYOUTS, *_SAME, *_unlisted_same()})


def _unlisted_same() -> tuple[Any, ...]:
    return unlisted().name, unlisted().vary, unlisted().reshard


def keeps_elements(equation: Equation) -> bool:
    """Whether each element of the output is the same of the input, but for its type."""
    return equation.primitive in _SAME or equation.primitive in _unlisted_same()


def after(equation: Equation, shape: tuple[int, ...], of: Layout) -> Layout:
    """A layout after a layout equation, `shape` being the output's."""
    return of if keeps_elements(equation) else _LAYOUTS[equation.primitive](of, shape, equation.parameters)


def rearranged(equation: Equation, shape: tuple[int, ...], ids: ElementIds | None) -> ElementIds | None:
    """Element ids after a layout equation."""
    return None if ids is None else after(equation, shape, Leaf(0)).read({0: ids})


def split(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """The parts that `split` or `unstack` cuts a parameter into, which are parameters."""
    (state,) = states
    if isinstance(state, PartialNeuron):
        return Outcome(ends_neurons=True)
    assert isinstance(state, Parameter)
    axis, start, parts = equation.parameters["axis"], 0, []
    squeezes = equation.primitive is unlisted().unstack
    for value in equation.outputs:
        shape = facts.shape[value]
        stop = start + (1 if squeezes else shape[axis])
        bounds = tuple((start, stop, 1) if a == axis else (0, size, 1) for a, size in enumerate(state.shape))
        part = state.laid_out(value, shape, lambda of, bounds=bounds, shape=shape: Reshape(Slice(of, bounds), shape))
        parts.append(replace(part, whole=False))
        start = stop
    return Outcome(states=tuple(parts))


def lay_out(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """A parameter or a neuron's output in another layout."""
    state, value = states[0], equation.outputs[0]
    if any(states[1:]) or not facts.is_inexact(value):
        return linear(facts, equation, states)
    shape = facts.shape[value]
    if isinstance(state, PartialNeuron):
        return Outcome(
            replace(
                state,
                value=value,
                output_ids=rearranged(equation, shape, state.output_ids),
                sample_ids=rearranged(equation, shape, state.sample_ids),
                shape=shape,
                last_complete=state.completed(),
            )
        )
    assert isinstance(state, Parameter)
    repeats = equation.primitive is primitives.broadcast_in_dim_p and prod(shape) != prod(state.shape)
    return Outcome(
        replace(
            state.laid_out(value, shape, lambda of: after(equation, shape, of)),
            distinct=state.distinct and not repeats,
            whole=state.whole and equation.primitive is not primitives.slice_p,
        )
    )
