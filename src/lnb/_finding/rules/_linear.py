"""Any operation, judged by its derivative: matrix products, convolutions and lookups in canonical form, others not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import prod
from types import ModuleType
from typing import Any

from jax.extend.core import primitives

from lnb._finding._building import AxisRoles, canonical_neuron, general_neuron, repeats_in_product
from lnb._finding._element_ids import varying_axes
from lnb._finding._facts import Facts
from lnb._finding._values import Nonlinear, Outcome, Parameter, PartialNeuron, TrackedValue
from lnb._finding.rules import _convolution, _dot, _lookup, _ragged
from lnb._finding.rules._constants import fold_constants
from lnb._finding.rules._nonlinear import nonlinear
from lnb._program import Equation, is_linear_in, unlisted


@cache
def _kinds() -> dict[Any, ModuleType]:
    """The operations in which a weight meets its features: each module has `roles` and `term`."""
    return {
        primitives.dot_general_p: _dot,
        primitives.conv_general_dilated_p: _convolution,
        primitives.gather_p: _lookup,
        primitives.dynamic_slice_p: _lookup,
        unlisted().ragged_dot: _ragged,
    }


_PRODUCTS = (primitives.dot_general_p, primitives.conv_general_dilated_p)


def linear(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """Begin a neuron, go on with one, or give a value of parameters and constants alone."""
    dependent = [k for k, state in enumerate(states) if state is not None]
    is_linear = len(equation.outputs) == 1 and is_linear_in(equation, facts.program.avals, dependent)
    neurons = [state for state in states if isinstance(state, PartialNeuron)]
    if neurons:
        if is_linear and all(_is_still_a_weight(equation, neuron) for neuron in neurons):
            return Outcome(_ragged.chosen(facts, equation, states) or continue_general(facts, equation, states))
        return Outcome(ends_neurons=True)
    if not is_linear:
        return nonlinear(facts, equation, states)
    begun = _begin(facts, equation, states)
    others = [value for value, state in zip(equation.inputs, states, strict=True) if state is None]
    may_stay = begun is None or _kinds()[equation.primitive] is _lookup
    if may_stay and all(facts.is_constant(value) for value in others):
        return Outcome(fold_constants(facts, equation, states))
    return Outcome(begun or general_neuron(facts, equation, states))


def after_nonlinear(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """The outcome of an operation on a value that is not linear in its parameters."""
    found = [state for state in states if isinstance(state, Nonlinear)]
    parameters = [state for state in states if isinstance(state, Parameter)]
    others = [(v, s) for v, s in zip(equation.inputs, states, strict=True) if not isinstance(s, (Nonlinear, Parameter))]
    excluded = tuple((state.leaves, state.reason) for state in found)
    adds = equation.primitive in (primitives.add_p, primitives.sub_p, primitives.add_jaxvals_p)
    if adds and len(parameters) == 1 and (equation.primitive is not primitives.sub_p or states[0] is parameters[0]):
        # A shift that does not depend on the parameter: its derivative stays as it is.
        summed = parameters[0]
        return Outcome(summed, excluded=excluded, alias=summed.value)
    if equation.primitive is primitives.stop_gradient_p:
        return Outcome(Nonlinear(frozenset(), found[0].reason))
    if all(state is None and facts.is_constant(value) for value, state in others):
        if parameters and equation.primitive in _PRODUCTS:
            return linear(facts, equation, [None if isinstance(s, Nonlinear) else s for s in states])
        leaves = frozenset().union(*(state.leaves for state in (*found, *parameters)))
        return Outcome(Nonlinear(leaves, found[0].reason))
    met = not adds and facts.is_inexact(equation.outputs[0])
    reason = f"enters nonlinearly through `{equation.name}`"
    return Outcome(reasons=tuple((state.leaves, reason) for state in parameters), excluded=excluded if met else ())


def continue_general(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> PartialNeuron:
    """A neuron of no canonical form after one more operation that is linear in its parameters."""
    neurons = [state for state in states if isinstance(state, PartialNeuron)]
    roles = _roles(facts, equation, next(k for k, s in enumerate(states) if s is neurons[0]))
    samples = max(neuron.samples for neuron in neurons) * (roles.samples if roles else 1)
    if roles and neurons[0].selected:  # each of the matrices that were chosen from has samples of its own
        matrices = neurons[0].elements * neurons[0].samples // max(1, prod(neurons[0].shape))
        samples = -(-samples // max(1, matrices))
    return general_neuron(facts, equation, states, samples)


def _roles(facts: Facts, equation: Equation, position: int) -> AxisRoles | None:
    """The roles of the axes of what comes of a weight, the input at `position`; None for other operations."""
    kind = _kinds().get(equation.primitive)
    return kind.roles(facts, equation, position) if kind else None


def _begin(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> PartialNeuron | None:
    """The neuron that begins where one parameter is multiplied, convolved or looked up; None for other operations."""
    positions = [k for k, state in enumerate(states) if isinstance(state, Parameter)]
    roles = _roles(facts, equation, positions[0])
    if roles is None or len(positions) != 1:
        return None
    parameter = states[positions[0]]
    assert isinstance(parameter, Parameter)
    kind = _kinds()[equation.primitive]
    selected = kind is _lookup and _lookup.selects(equation, parameter)
    samples = roles.samples
    if kind is _dot:
        contracted = _dot.axes(facts, equation, positions[0])[1][0]
        samples = max(1, int(samples * repeats_in_product(facts, parameter, contracted)))
    neuron = replace(general_neuron(facts, equation, states, samples), selected=selected)
    if not parameter.is_weight:
        return neuron
    return canonical_neuron(neuron, kind.term(facts, equation, positions[0], parameter), roles)


def _is_still_a_weight(equation: Equation, neuron: PartialNeuron) -> bool:
    """Whether a neuron's output has met no samples yet, and is a weight rather than an output."""
    if equation.primitive is primitives.reduce_sum_p and neuron.elementwise and neuron.output_ids is not None:
        return bool(set(varying_axes(neuron.output_ids)).intersection(equation.parameters["axes"]))
    if neuron.selected:
        return equation.primitive in _PRODUCTS
    return neuron.constant or (neuron.elementwise and neuron.samples == 1)
