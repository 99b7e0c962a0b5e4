"""Operations that rearrange elements: a parameter stays a parameter, a neuron's output an output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives

from lnb._features._layout import Broadcast, Concatenate, Layout, Reshape, Slice, Transpose
from lnb._finding._building import pack_elements
from lnb._finding._element_ids import ElementIds
from lnb._finding._facts import Facts
from lnb._finding._values import Outcome, Parameter, PartialNeuron, TrackedValue
from lnb._program import Equation, unlisted


def _squeeze(of: Any, shape: tuple[int, ...], parameters: Any) -> Layout:
    _ = parameters["dimensions"]
    return Reshape(of, shape)


def _slice(of: Any, shape: tuple[int, ...], parameters: Any) -> Layout:
    starts, limits = parameters["start_indices"], parameters["limit_indices"]
    strides = parameters["strides"] or (1,) * len(shape)
    return Slice(of, tuple(zip(starts, limits, strides, strict=True)))


def _flip(of: Any, shape: tuple[int, ...], parameters: Any) -> Layout:
    flipped = parameters["dimensions"]
    return Slice(of, tuple((None, None, -1 if axis in flipped else 1) for axis in range(len(shape))))


_LAYOUTS: dict[Any, Callable[[Any, tuple[int, ...], Any], Layout]] = {
    primitives.reshape_p: lambda of, shape, parameters: Reshape(of, tuple(parameters["new_sizes"])),
    primitives.transpose_p: lambda of, shape, parameters: Transpose(of, tuple(parameters["permutation"])),
    primitives.squeeze_p: _squeeze,
    primitives.broadcast_in_dim_p: lambda of, shape, parameters: Broadcast(
        of, tuple(parameters["shape"]), tuple(parameters["broadcast_dimensions"])
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
    return equation.primitive in _LAYOUTS or keeps_elements(equation)


def keeps_elements(equation: Equation) -> bool:
    """Whether each element of the output is the same of the input, but for its type."""
    return equation.primitive in _SAME or equation.primitive in (unlisted().name, unlisted().vary)


def after(equation: Equation, shape: tuple[int, ...], of: Any) -> Any:
    """A layout after a layout equation, `shape` being the output's."""
    return of if keeps_elements(equation) else _LAYOUTS[equation.primitive](of, shape, equation.parameters)


def rearranged(equation: Equation, shape: tuple[int, ...], ids: ElementIds | None) -> ElementIds | None:
    """Element ids after a layout equation."""
    if ids is None or keeps_elements(equation):
        return ids
    return _LAYOUTS[equation.primitive](None, shape, equation.parameters).apply(ids)  # pyright: ignore[reportAttributeAccessIssue]


def lay_out(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """A parameter or a neuron's output in another layout."""
    state, value = states[0], equation.outputs[0]
    shape = facts.shape(value)
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
            state,
            value=value,
            layout=None if state.layout is None else after(equation, shape, state.layout),
            shape=shape,
            distinct=state.distinct and not repeats,
            whole=state.whole and equation.primitive is not primitives.slice_p,
        )
    )


def fold_constants(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Parameter:
    """What an operation linear in the parameters gives of these and constants alone."""
    parameters = [state for state in states if isinstance(state, Parameter)]
    leaves = tuple(dict.fromkeys(leaf for parameter in parameters for leaf in parameter.leaves))
    value, first = equation.outputs[0], parameters[0]
    shape = facts.shape(value)
    scales = equation.primitive in (primitives.mul_p, primitives.div_p) and first.shape == shape
    if len(parameters) == 1 and scales:
        layout = first.layout
        return replace(first.opaque(value, shape), layout=layout, scaled=True)
    ids = None
    if all(parameter.is_arrangement for parameter in parameters):
        ids = _ids_by_evaluation(facts, equation, states)
    if ids is None or len({parameter.factor for parameter in parameters}) > 1:
        return first.opaque(value, shape, leaves)
    distinct = np.unique(ids).size == ids.size
    whole = all(p.whole for p in parameters) and distinct and ids.size == sum(prod(p.shape) for p in parameters)
    every = replace(first, value=value, leaves=leaves, shape=shape, distinct=distinct, whole=whole)
    if equation.primitive is primitives.concatenate_p and len(parameters) == len(states):
        layouts = tuple(parameter.layout for parameter in parameters if parameter.layout is not None)
        return replace(every, layout=Concatenate(layouts, equation.parameters["dimension"]))
    return replace(every, layout=pack_elements(facts, every, ids, shape))


def _ids_by_evaluation(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> ElementIds | None:
    """The element ids after an operation that only selects elements; None for one that does more.

    It selects if what it makes of other numbers are these numbers at the places that it makes of the ids.
    """
    constants = {k: facts.constant(v) for k, v in enumerate(equation.inputs) if states[k] is None}
    given = [s.element_ids for s in states if isinstance(s, Parameter) and s.element_ids is not None]
    order = np.unique(np.concatenate([ids.ravel() for ids in given]))
    numbers = np.random.default_rng(0).integers(1, 2**30, order.size + 1).astype(np.int32)
    places = [np.searchsorted(order, ids).astype(np.int32) + 1 for ids in given]

    def evaluate(arrays: Sequence[ElementIds]) -> ElementIds:
        free = iter(arrays)
        inputs = [constants[k] if k in constants else jnp.asarray(next(free)) for k in range(len(states))]
        return np.asarray(equation.bind(inputs)[0])

    try:
        with jax.ensure_compile_time_eval():
            moved = evaluate(places)
            check = evaluate([numbers[array] for array in places])
    except (TypeError, ValueError, NotImplementedError):
        return None
    if moved.min(initial=1) < 1 or moved.max(initial=1) > order.size or not np.array_equal(numbers[moved], check):
        return None
    return order[moved - 1]
