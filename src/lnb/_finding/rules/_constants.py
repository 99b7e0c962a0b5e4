"""Operations that combine parameters with constants: the result is a parameter still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives

from lnb._features._layout import Broadcast, Concatenate
from lnb._finding._building import pack_elements, repeated_axes
from lnb._finding._element_ids import ElementIds, are_distinct, distinct_ids
from lnb._finding._facts import Facts
from lnb._finding._values import Parameter, TrackedValue
from lnb._program import Equation


def fold_constants(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Parameter:
    """The result of an operation that is linear in its parameters and has otherwise constants alone.

    It is an arrangement of their elements, or a weight that is computed from them.
    """
    parameters = [state for state in states if isinstance(state, Parameter)]
    leaves = tuple(dict.fromkeys(leaf for parameter in parameters for leaf in parameter.leaves))
    value, first = equation.outputs[0], parameters[0]
    shape = facts.shape[value]
    scales = equation.primitive in (primitives.mul_p, primitives.div_p) and first.shape == shape
    if len(parameters) == 1 and scales and first.imaginary is None:
        return replace(first, value=value, shape=shape, scaled=True, whole=False)
    ids = None
    if all(parameter.is_arrangement and parameter.imaginary is None for parameter in parameters):
        ids = _ids_by_evaluation(facts, equation, states)
    if ids is None or len({parameter.factor for parameter in parameters}) > 1:
        return facts.reparametrise(value, leaves, repeated_axes(facts, equation, states))
    distinct = are_distinct(ids)
    whole = all(p.whole for p in parameters) and distinct and ids.size == sum(prod(p.shape) for p in parameters)
    every = replace(first, value=value, leaves=leaves, shape=shape, distinct=distinct, whole=whole)
    if equation.primitive is primitives.concatenate_p and len(parameters) == len(states):
        layouts = tuple(parameter.layout for parameter in parameters)
        return replace(every, layout=Concatenate(layouts, equation.parameters["dimension"]))
    repeated = [axis for axis in range(ids.ndim) if ids.shape[axis] > 1 and (ids == ids.take([0], axis)).all()]
    once = ids[tuple(slice(1) if axis in repeated else slice(None) for axis in range(ids.ndim))]
    layout = pack_elements(facts, every, once, once.shape)
    return replace(every, layout=Broadcast(layout, shape, tuple(range(ids.ndim))) if repeated else layout)


def _ids_by_evaluation(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> ElementIds | None:
    """The element ids after an operation that only selects elements; None for one that does more.

    It selects if what it makes of other numbers are these numbers at the places that it makes of the ids.
    """
    constants = {k: facts.constant(v) for k, v in enumerate(equation.inputs) if states[k] is None}
    given = [state.element_ids for state in states if isinstance(state, Parameter)]
    order = distinct_ids(np.concatenate([ids.ravel() for ids in given]))
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
