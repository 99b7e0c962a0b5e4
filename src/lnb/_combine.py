"""How parameters and neurons under construction combine: sums, products and concatenations.

Added parameters are a neuron's bias, or have the identity metric; added weights are one neuron; a product with an
activation begins a scale or goes on with one; constant factors stay a property of the neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.extend.core import primitives

from lnb import _begin
from lnb._program import Equation, Value, unlisted
from lnb._rearrange import rearrange
from lnb._tracked import Bias, Labels, Output, Parameter, core, varying_axes

if TYPE_CHECKING:
    from lnb._search import Search, State


def negate(search: Search, equation: Equation, states: list[State]) -> State:
    """A constant factor of -1."""
    return scale_by_constant(search, equation, states[0], equation.inputs[0], -1.0)


def add(search: Search, equation: Equation, states: list[State]) -> State:
    """A sum or difference."""
    first, second = states
    sign = -1.0 if equation.primitive is primitives.sub_p else 1.0
    if isinstance(first, Parameter) and isinstance(second, Parameter):
        return rearrange(search, equation, states)
    if isinstance(first, Output) and isinstance(second, Output):
        return _join(search, equation, first, second) if sign > 0 else None
    if isinstance(first, Output) and isinstance(second, Parameter):
        return _add_bias(search, equation, states, first, replace(second, factor=sign * second.factor))
    if isinstance(first, Parameter) and isinstance(second, Output):
        if sign < 0:
            return begin_identity(search, equation, 0)
        return _add_bias(search, equation, states, second, first)
    if isinstance(first, Output) or isinstance(second, Output):
        return _add_activation(search, equation, states, sign)
    position = 0 if isinstance(first, Parameter) else 1
    parameter, other = states[position], equation.inputs[1 - position]
    assert isinstance(parameter, Parameter)
    if search.is_constant(other) and prod(search.shape(equation.outputs[0])) == prod(parameter.shape):
        return _shift(search, equation, states, position, sign if position else 1.0)
    return begin_identity(search, equation, position)


def _add_activation(search: Search, equation: Equation, states: list[State], sign: float) -> State:
    """A residual: the neuron's derivative stays as it is, and a bias may yet follow."""
    output = states[0] or states[1]
    assert isinstance(output, Output)
    subtracted = sign < 0 and states[0] is None
    if subtracted or output.shape != search.shape(equation.outputs[0]):
        return None
    return replace(output, joined=output.ended())


def _shift(search: Search, equation: Equation, states: list[State], position: int, sign: float) -> State:
    """A parameter plus a constant: still a parameter, since only its derivative counts."""
    parameter = states[position]
    assert isinstance(parameter, Parameter)
    shifted = rearrange(search, equation, states)
    if parameter.shape != shifted.shape:
        return shifted
    return replace(parameter, function=shifted.function, factor=sign * parameter.factor)


def vary(search: Search, equation: Equation, states: list[State]) -> State:
    """The mark of a value that all devices of a map share, where it meets one that they do not: the value itself."""
    del search
    state = states[0]
    assert isinstance(state, (Parameter, Output))

    def marked(value: Any) -> Any:
        try:
            return equation.bind([value])[0]
        except NameError:  # outside of the map its axis has no name, and there is nothing to mark
            return value

    function = state.function
    return replace(state, function=lambda *arguments: marked(function(*arguments)))


def begin_identity(search: Search, equation: Equation, position: int) -> None:
    """A parameter that is only added to data or set beside it: its metric is the identity, and it ends here."""
    parameter = search.state(equation.inputs[position])
    assert isinstance(parameter, Parameter)
    apart = equation.primitive is primitives.concatenate_p or equation.jaxprs
    shape = parameter.shape if apart else search.shape(equation.outputs[0])
    search.close(_begin.identity(search, parameter, shape))


def _add_bias(search: Search, equation: Equation, states: list[State], output: Output, parameter: Parameter) -> State:
    if output.terms is None:
        joined = search.general_output(equation, states, output.samples)
        return replace(joined, constant=output.constant)
    output = _with_factor_in_features(output)
    bias = _as_bias(search, search.shape(equation.outputs[0]), output, parameter)
    if bias is None:
        begin_identity(search, equation, next(k for k, s in enumerate(states) if isinstance(s, Parameter)))
        return None
    joined = search.general_output(equation, states, output.samples)
    columns, rows = _broadcast_labels(output, joined.shape)
    return replace(
        output,
        leaves=joined.leaves,
        function=joined.function,
        features=joined.features,
        bias=bias,
        columns=columns,
        rows=rows,
        shape=joined.shape,
        elementwise=False,
        constant=False,
        joined=None,
    )


def _with_factor_in_features(output: Output) -> Output:
    """A constant factor of the output is one of its features, now that a bias may join; a scale's has it already."""
    if output.factor == 1.0:
        return output
    terms = tuple(
        term
        if term.features is None
        else replace(term, features=replace(term.features, factor=term.features.factor * output.factor))
        for term in output.terms or ()
    )
    return replace(output, terms=terms, factor=1.0)


def _broadcast_labels(output: Output, shape: tuple[int, ...]) -> tuple[Labels | None, Labels | None]:
    if output.columns is None or output.rows is None:
        return None, None
    return np.broadcast_to(output.columns, shape), np.broadcast_to(output.rows, shape)


def _as_bias(search: Search, shape: tuple[int, ...], output: Output, parameter: Parameter) -> Bias | None:
    """The parameter as b[g, o], if it is one: an element for each (g, o), the same for every sample."""
    fits = output.bias is None and output.shape == shape and output.columns is not None
    once = prod(shape) == output.groups * output.outputs * output.samples
    if not fits or not once or output.factor != 1.0 or parameter.factor != 1.0 or parameter.layout is None:
        return None
    assert output.columns is not None
    assert parameter.labels is not None
    axes = varying_axes(output.columns)
    columns, labels = (
        core(output.columns, axes),
        core(np.broadcast_to(parameter.labels, shape), axes),
    )
    if columns is None or labels is None or columns.size != output.groups * output.outputs:
        return None
    order = np.empty(columns.size, np.int64)
    order[columns.ravel()] = labels.ravel()
    if np.unique(order).size != order.size:
        return None
    return _begin.bias(search, parameter, order, output.groups, output.outputs)


def _join(search: Search, equation: Equation, first: Output, second: Output) -> State:
    """Two weights whose products are added are one neuron: its features are both weights' features."""
    shape = search.shape(equation.outputs[0])
    unformed = [output.terms is None for output in (first, second)]
    if any(unformed) and all(output.terms is None or output.selected for output in (first, second)):
        return search.general_output(equation, [first, second], max(first.samples, second.samples))
    kinds = {term.kind for output in (first, second) for term in output.terms or ()}
    joinable = kinds and kinds <= {"dense", "convolution"} and first.terms and second.terms
    same = first.shape == second.shape == shape and (first.groups, first.outputs) == (
        second.groups,
        second.outputs,
    )
    if not (joinable and same and first.samples == second.samples and not (first.bias and second.bias)):
        return None
    if set(first.leaves) & set(second.leaves) or not _same_labels(first, second):
        return None
    joined = search.general_output(equation, [first, second], first.samples)
    return replace(
        first,
        leaves=joined.leaves,
        function=joined.function,
        features=joined.features,
        terms=(first.terms or ()) + (second.terms or ()),
        bias=first.bias or second.bias,
        constant=False,
        joined=None,
    )


def product(search: Search, equation: Equation, states: list[State]) -> State:
    """A product or quotient, element by element."""
    tracked = [k for k, state in enumerate(states) if state is not None]
    divides = equation.primitive is primitives.div_p
    if len(tracked) > 1 or (divides and tracked[0] == 1):
        if any(isinstance(state, Output) for state in states):
            return search.without_outputs(equation, states)
        return search.nonlinear(equation, states)
    position = tracked[0]
    state, other = states[position], equation.inputs[1 - position]
    number = search.number(other)
    if number is not None and number != 0.0:
        return scale_by_constant(search, equation, state, other, 1 / number if divides else number)
    if isinstance(state, Output):
        return _multiply_output(search, equation, states, state)
    assert isinstance(state, Parameter)
    kept = prod(search.shape(equation.outputs[0])) == prod(state.shape)
    if kept and search.is_constant(other):
        return rearrange(search, equation, states)
    if kept and search.depends_on(other, state.leaves) and prod(search.shape(other)) == 1 < prod(state.shape):
        reason = f"divided by a function of itself in `{equation.name}`" if divides else "scaled by its own function"
        search.notes.exclude(state.leaves, reason)
        return None
    return _begin.scale(search, equation, states) or search.begin_general(equation, states)


def scale_by_constant(search: Search, equation: Equation, state: State, other: Value, factor: float) -> State:
    """The value times a constant, which its derivative is then multiplied by."""
    shape = search.shape(equation.outputs[0])
    if isinstance(state, Parameter):
        before = state

        def function(leaves: Mapping[int, Any]) -> Any:
            return equation.bind(_with_constant(search, equation, before.function(leaves), other))[0]

        if state.shape != shape:
            return state.opaque(function, shape)
        return replace(state, function=function, factor=state.factor * factor)
    assert isinstance(state, Output)
    output = state

    def scaled(leaves: Mapping[int, Any], features: Sequence[Any]) -> Any:
        return equation.bind(_with_constant(search, equation, output.function(leaves, features), other))[0]

    return replace(state, function=scaled, factor=state.factor * factor, shape=shape, joined=state.ended())


def _with_constant(search: Search, equation: Equation, tracked: Any, other: Value) -> list[Any]:
    if len(equation.inputs) == 1:
        return [tracked]
    constant = search.constant(other)
    return [constant if value == other else tracked for value in equation.inputs]


def _multiply_output(search: Search, equation: Equation, states: list[State], output: Output) -> State:
    shape = search.shape(equation.outputs[0])
    if not output.elementwise or output.bias is not None:
        if output.terms is None:
            return search.continue_general(equation, states) if output.constant else None
        return None
    product = search.general_output(equation, states, output.samples)
    if output.shape != shape or output.terms is None:
        return _begin.scale_again(output, product) or replace(product, elementwise=output.elementwise)
    return replace(output, function=product.function, features=product.features, constant=product.constant)


def concatenate(search: Search, equation: Equation, states: list[State]) -> State:
    """Values side by side."""
    if all(isinstance(state, Parameter) for state in states):
        return rearrange(search, equation, states)
    for position, state in enumerate(states):
        if isinstance(state, Parameter):
            begin_identity(search, equation, position)
    return None


def _same_labels(first: Output, second: Output) -> bool:
    for a, b in ((first.columns, second.columns), (first.rows, second.rows)):
        if a is None or b is None:
            return False
        axes = varying_axes(a)
        core_a, core_b = core(a, axes), core(b, axes)
        if core_a is None or core_b is None or not np.array_equal(core_a, core_b):
            return False
    return True


_RULES: dict[Any, Callable[[Any, Equation, list[Any]], Any]] = {
    primitives.add_p: add,
    primitives.sub_p: add,
    primitives.add_jaxvals_p: add,
    primitives.mul_p: product,
    primitives.div_p: product,
    primitives.neg_p: negate,
    primitives.concatenate_p: concatenate,
}


def rule_of(primitive: Any) -> Callable[[Any, Equation, list[Any]], Any] | None:
    """The rule of an operation that combines, if it is one: `rule(search, equation, states)` is its output's state."""
    return vary if primitive is unlisted().vary else _RULES.get(primitive)
