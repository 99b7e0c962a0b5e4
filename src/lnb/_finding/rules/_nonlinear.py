"""Operations that are not linear in the parameters that enter them."""

from __future__ import annotations

from collections.abc import Sequence

from jax.extend.core import primitives

from lnb._finding._facts import Facts
from lnb._finding._values import Nonlinear, Outcome, Parameter, TrackedValue
from lnb._program import Equation


def nonlinear(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """A value that no neuron is made of; one of parameters alone is remembered as `Nonlinear`."""
    parameters = [state for state in states if isinstance(state, Parameter)]
    leaves = frozenset(leaf for state in parameters for leaf in state.leaves)
    stopped = equation.primitive is primitives.stop_gradient_p
    if stopped:
        reason = "its gradient is stopped by `stop_gradient`"
    elif len(parameters) > 1:
        reason = f"multiplied with another parameter by `{equation.name}` before either meets data"
    else:
        reason = f"enters nonlinearly through `{equation.name}`"
    if not parameters or not facts.is_inexact(equation.outputs[0]):
        return Outcome()
    alone = all(
        isinstance(state, Parameter) or (state is None and facts.is_constant(value))
        for value, state in zip(equation.inputs, states, strict=True)
    )
    # Nothing is differentiated through a stopped gradient: what comes of it depends on no leaf.
    state = Nonlinear(frozenset() if stopped else leaves, reason) if alone else None
    if alone or stopped:
        return Outcome(state, reasons=((leaves, reason),))
    return Outcome(excluded=((leaves, reason),))
