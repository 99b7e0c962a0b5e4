"""Any operation, judged by its derivative: matrix products, convolutions and lookups in canonical form, others not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import prod
from types import ModuleType
from typing import Any

from jax.extend.core import primitives

from lnb._finding._building import AxisRoles, as_parameter, as_weight, canonical_neuron, complex_term, general_neuron
from lnb._finding._element_ids import varying_axes
from lnb._finding._facts import Facts
from lnb._finding._values import Outcome, Parameter, PartialNeuron, Stopped, TrackedValue
from lnb._finding.rules import _convolution, _dot, _lookup, _ragged
from lnb._finding.rules._constants import fold_constants
from lnb._finding.rules._nonlinear import computed, nonlinear
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
        if not is_linear or not all(_is_still_a_weight(equation, neuron) for neuron in neurons):
            return Outcome(ends_neurons=True)
        chosen = _ragged.chosen(facts, equation, states)
        weights = [as_parameter(facts, state) for state in states]
        if chosen or any(isinstance(state, PartialNeuron) for state in weights):
            return Outcome(chosen or continue_general(facts, equation, states))
        states = weights
    if not is_linear:
        return nonlinear(facts, equation, states)
    kind = _kinds().get(equation.primitive)
    roles = _roles(facts, equation, dependent[0]) if len(dependent) == 1 else None
    if (roles is None or kind is _lookup) and facts.is_alone(equation.inputs, states):
        folded = fold_constants(facts, equation, states)
        if roles is None or folded.distinct:
            return Outcome(folded)
    if roles is None:
        return Outcome(general_neuron(facts, equation, states))
    return Outcome(_begin(facts, equation, states, dependent[0], roles))


def with_stopped(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """The outcome of an operation on parameters, some of them without a derivative, and constants alone."""
    parameters = [state for state in states if isinstance(state, Parameter)]
    if not parameters:
        return Outcome(states=(Stopped(),) * len(equation.outputs))
    adds = equation.primitive in (primitives.add_p, primitives.add_jaxvals_p)
    subtracts = equation.primitive is primitives.sub_p and isinstance(states[1], Stopped)
    value = equation.outputs[0]
    if (adds or subtracts) and parameters[0].shape == facts.shape[value]:
        return Outcome(replace(parameters[0], value=value))  # its derivative stays as it is
    leaves = tuple(dict.fromkeys(leaf for state in parameters for leaf in state.leaves))
    return Outcome(states=computed(facts, equation, states, leaves))


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


def _begin(
    facts: Facts, equation: Equation, states: Sequence[TrackedValue], position: int, roles: AxisRoles
) -> PartialNeuron:
    """The neuron that begins where one parameter, the input at `position`, is multiplied, convolved or looked up."""
    parameter = states[position]
    assert isinstance(parameter, Parameter)
    kind = _kinds()[equation.primitive]
    selected = kind is _lookup and _lookup.selects(equation, parameter)
    shared = _dot.shared_axes(facts, equation, position) if kind is _dot else ()
    parameter = as_weight(facts, parameter, shared)
    states = [parameter if k == position else state for k, state in enumerate(states)]
    neuron = replace(general_neuron(facts, equation, states, roles.samples), selected=selected)
    term, outputs = complex_term(
        facts, parameter, lambda real: kind.term(facts, equation, position, real), roles.outputs
    )
    begun = canonical_neuron(neuron, term, replace(roles, outputs=outputs))
    return begun if outputs == roles.outputs else replace(begun, output_ids=None)


def _is_still_a_weight(equation: Equation, neuron: PartialNeuron) -> bool:
    """Whether a neuron's output has met no samples yet, and is a weight rather than an output."""
    if equation.primitive is primitives.reduce_sum_p and neuron.elementwise and neuron.output_ids is not None:
        return bool(set(varying_axes(neuron.output_ids)).intersection(equation.parameters["axes"]))
    if neuron.selected:
        return equation.primitive in _PRODUCTS
    return neuron.constant or (neuron.elementwise and neuron.samples == 1)
