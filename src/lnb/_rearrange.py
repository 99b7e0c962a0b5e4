"""Parameters and constants in an operation linear in the parameters: what comes of it is a parameter still."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives

from lnb._program import Equation
from lnb._tracked import Labels, Parameter

if TYPE_CHECKING:
    from lnb._search import Search, State


def rearrange(search: Search, equation: Equation, states: Sequence[State]) -> Parameter:
    """What an operation linear in the parameters gives of these and constants alone."""
    parameters = [state for state in states if isinstance(state, Parameter)]
    leaves = tuple(dict.fromkeys(leaf for parameter in parameters for leaf in parameter.leaves))
    constants = {k: search.constant(v) for k, v in enumerate(equation.inputs) if states[k] is None}

    def bind(values: Sequence[Any]) -> Any:
        free = iter(values)
        return equation.bind([constants[k] if k in constants else next(free) for k in range(len(states))])[0]

    def function(values: Mapping[int, Any]) -> Any:
        return bind([parameter.function(values) for parameter in parameters])

    shape = search.shape(equation.outputs[0])
    first = parameters[0]
    scales = equation.primitive in (primitives.mul_p, primitives.div_p) and first.shape == shape
    if len(parameters) == 1 and scales:
        return replace(first.opaque(function, shape), labels_of=first.labels_of)
    labels = None
    if all(p.layout is not None and p.labels is not None for p in parameters):
        labels = _labels_by_evaluation(bind, [p.labels for p in parameters if p.labels is not None])
    if labels is None or len({p.factor for p in parameters}) > 1:
        return first.opaque(function, shape, leaves)
    layouts = [p.layout for p in parameters if p.layout is not None]
    distinct = np.unique(labels).size == labels.size
    known = labels
    return Parameter(
        leaves,
        function,
        lambda values: bind([layout(values) for layout in layouts]),
        lambda: known,
        shape,
        distinct,
        all(p.whole for p in parameters) and distinct and labels.size == sum(prod(p.shape) for p in parameters),
        first.factor,
    )


def _labels_by_evaluation(bind: Callable[[Sequence[Any]], Any], labels: Sequence[Labels]) -> Labels | None:
    """The labels after an operation that only selects elements; None for one that does more.

    It selects if what it makes of other numbers are these numbers at the places that it makes of the labels.
    """
    order = np.unique(np.concatenate([array.ravel() for array in labels]))
    numbers = np.random.default_rng(0).integers(1, 2**30, order.size + 1).astype(np.int32)
    places = [np.searchsorted(order, array).astype(np.int32) + 1 for array in labels]
    try:
        with jax.ensure_compile_time_eval():
            moved = np.asarray(bind([jnp.asarray(array) for array in places]))
            check = np.asarray(bind([jnp.asarray(numbers[array]) for array in places]))
    except (TypeError, ValueError, NotImplementedError):
        return None
    if moved.min(initial=1) < 1 or moved.max(initial=1) > order.size or not np.array_equal(numbers[moved], check):
        return None
    return order[moved - 1]
