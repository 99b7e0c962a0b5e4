"""Operations that are not linear in parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jax.extend.core import primitives

from lnb._finding._building import general_neuron, repeated_axes, samples_of
from lnb._finding._facts import Facts
from lnb._finding._values import Outcome, Parameter, Stopped, TrackedValue
from lnb._program import Equation, is_differentiable_in


def nonlinear(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """A value of parameters and constants alone is a weight that is reparametrised.

    One of parameters and data is the output of a neuron, whose features are its derivative.
    """
    parameters = [state for state in states if isinstance(state, Parameter)]
    leaves = tuple(dict.fromkeys(leaf for state in parameters for leaf in state.leaves))
    if equation.primitive is primitives.stop_gradient_p:
        return Outcome(Stopped(), reasons=((leaves, "its gradient is stopped by `stop_gradient`"),))
    if facts.is_alone(equation.inputs, states):
        return Outcome(states=computed(facts, equation, states, leaves))
    if not any(facts.is_inexact(value) for value in equation.outputs):
        return Outcome()
    positions = [k for k, state in enumerate(states) if state is not None]
    if len(equation.outputs) > 1 or not is_differentiable_in(equation, facts.program.avals, positions):
        return Outcome(excluded=((leaves, f"enters nonlinearly through `{equation.name}`"),))
    neuron = general_neuron(facts, equation, states, samples_of(facts, equation, states, is_affine=False))
    return Outcome(completed=(replace(neuron, is_affine=False),))


def computed(
    facts: Facts, equation: Equation, states: Sequence[TrackedValue], leaves: Sequence[int]
) -> tuple[TrackedValue, ...]:
    """The outputs of an operation on parameters and constants alone: each is a weight that these leaves give."""
    repeated = repeated_axes(facts, equation, states) if len(equation.outputs) == 1 else ()
    return tuple(
        facts.reparametrise(value, leaves, repeated) if facts.is_inexact(value) else Stopped()
        for value in equation.outputs
    )
