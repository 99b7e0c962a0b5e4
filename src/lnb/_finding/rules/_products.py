"""Products and quotients, element by element: scales, constant factors, and the outputs of scales times activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from jax.extend.core import primitives

from lnb._finding._building import as_parameter, general_neuron
from lnb._finding._facts import Facts
from lnb._finding._values import Outcome, Parameter, PartialNeuron, TrackedValue
from lnb._finding.rules._constants import fold_constants
from lnb._finding.rules._linear import continue_general
from lnb._finding.rules._nonlinear import nonlinear
from lnb._finding.rules._scale import scale, scale_again
from lnb._program import Equation


def negate(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """A constant factor of -1."""
    return Outcome(_times_constant(facts, equation, states, states[0], -1.0))


def product(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """A product or quotient."""
    dependent = [k for k, state in enumerate(states) if state is not None]
    divides = equation.primitive is primitives.div_p
    position = dependent[0]
    other = equation.inputs[1 - position]
    is_factor = len(dependent) == 1 and not (divides and position == 1)
    number = facts.number(other) if is_factor else None
    if number is not None and number != 0.0:
        return Outcome(_times_constant(facts, equation, states, states[position], 1 / number if divides else number))
    states = [as_parameter(facts, state) for state in states]
    if not is_factor:
        if any(isinstance(state, PartialNeuron) for state in states):
            return Outcome(ends_neurons=True)
        return nonlinear(facts, equation, states)
    state = states[position]
    if isinstance(state, PartialNeuron):
        return Outcome(_times_activation(facts, equation, states, state))
    assert isinstance(state, Parameter)
    value = equation.outputs[0]
    kept = prod(facts.shape[value]) == prod(state.shape)
    if kept and facts.is_constant(other):
        return Outcome(fold_constants(facts, equation, states))
    if kept and facts.depends_on(other, state.leaves) and prod(facts.shape[other]) < prod(state.shape):
        if facts.depends_only_on(other, state.leaves):
            # Spectral normalisation: a weight times a function of itself and of vectors that are kept as data.
            return Outcome(facts.reparametrise(value, state.leaves, absorbs=True))
        return Outcome(
            excluded=((state.leaves, f"scaled by a function of itself and other parameters in `{equation.name}`"),)
        )
    return Outcome(scale(facts, equation, states, state))


def _times_constant(
    facts: Facts, equation: Equation, states: Sequence[TrackedValue], state: TrackedValue, factor: complex
) -> TrackedValue:
    """Multiply a value by a constant, and so its derivative."""
    value = equation.outputs[0]
    shape = facts.shape[value]
    if isinstance(state, Parameter):
        if state.shape != shape:
            return fold_constants(facts, equation, states)
        return replace(state, value=value, factor=state.factor * factor)
    assert isinstance(state, PartialNeuron)
    if isinstance(factor, complex):
        return None
    return replace(state, value=value, factor=state.factor * factor, shape=shape, last_complete=state.completed())


def _times_activation(
    facts: Facts, equation: Equation, states: Sequence[TrackedValue], neuron: PartialNeuron
) -> PartialNeuron | None:
    shape = facts.shape[equation.outputs[0]]
    if not neuron.elementwise or neuron.bias is not None:
        return continue_general(facts, equation, states) if neuron.terms is None and neuron.constant else None
    general = general_neuron(facts, equation, states, neuron.samples)
    if neuron.shape != shape or neuron.terms is None:
        return scale_again(neuron, general) or replace(general, elementwise=neuron.elementwise)
    return replace(neuron, value=general.value, features=general.features, constant=general.constant)
