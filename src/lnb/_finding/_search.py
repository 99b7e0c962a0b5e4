"""One pass over a program's equations: where neurons begin, what they take in, and where they end.

A neuron begins where a parameter meets an activation in an operation linear in the parameter, takes in the parameters
added to it, and ends at any other use. What an equation does to what is known of its inputs is up to its rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

from jax.extend.core import primitives

from lnb._finding._facts import Facts
from lnb._finding._regions import Found, Region, enter
from lnb._finding._uses import finish
from lnb._finding._values import Nonlinear, Outcome, Parameter, PartialNeuron, TrackedValue
from lnb._finding.rules._layouts import is_layout, lay_out, layout_primitives
from lnb._finding.rules._linear import after_nonlinear, linear
from lnb._finding.rules._products import negate, product
from lnb._finding.rules._sums import add, concatenate
from lnb._program import Equation, NotUnderstoodError, Value, unlisted

Rule = Callable[[Facts, Equation, Sequence[TrackedValue]], Outcome]

_COMBINING: dict[Any, Rule] = {
    primitives.add_p: add,
    primitives.sub_p: add,
    primitives.add_jaxvals_p: add,
    primitives.mul_p: product,
    primitives.div_p: product,
    primitives.neg_p: negate,
    primitives.concatenate_p: concatenate,
}


@cache
def _rules() -> dict[Any, Rule]:
    """The rule of each operation that has one; `linear` is that of all others."""
    return {**_COMBINING, **dict.fromkeys(layout_primitives(), lay_out)}


def search(facts: Facts, states: Mapping[Value, TrackedValue]) -> Found:
    """Search a program, whose inputs have these states; the rest of its inputs are data."""
    return _Search(facts).run(states)


class _Search:
    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._states = facts.states
        self._found = Found()
        self._completed: list[PartialNeuron] = []
        self._uses = facts.program.uses()
        self._rules = _rules()

    def run(self, states: Mapping[Value, TrackedValue]) -> Found:
        facts, program = self._facts, self._facts.program
        self._states.update(states)
        facts.data.update(v for v in program.inputs if not isinstance(states.get(v), Parameter))
        for value, state in states.items():
            if isinstance(state, Parameter):
                facts.ancestors[value] = sum(1 << leaf for leaf in state.leaves)
        for position, equation in enumerate(program.equations):
            try:
                self._visit(position, equation)
            except NotUnderstoodError as error:
                self._pass_over(equation, f"used by a `{equation.name}` of an unknown form: {error}")
        for value in program.outputs:
            state = self._states.get(value)
            if isinstance(state, Parameter):
                self._note(Outcome(reasons=((state.leaves, "reaches the loss without meeting any data"),)))
            self._complete(value)
        cuts = self._cuts()
        self._found.uses[:0] = [finish(facts, neuron, self._found.recorder, cuts) for neuron in self._completed]
        return self._found

    def _cuts(self) -> bool:
        """Whether the program cuts any value apart."""
        cutting = {primitives.slice_p, primitives.dynamic_slice_p, primitives.gather_p}
        cutting |= {unlisted().split, unlisted().unstack}
        return any(equation.primitive in cutting for equation in self._facts.program.equations)

    def _visit(self, position: int, equation: Equation) -> None:
        facts = self._facts
        ancestors, states = 0, []
        for value in equation.inputs:
            ancestors |= facts.ancestors.get(value, 0)
            states.append(self._states.get(value))
        for value in equation.outputs:
            facts.ancestors[value] = ancestors
        dependent = any(states)
        if dependent or equation.effects or any(value in facts.data for value in equation.inputs):
            facts.data.update(equation.outputs)
        if not dependent:
            return
        if equation.jaxprs:
            self._enter(position, equation)
            return
        outcome = self._look_at(equation, states)
        if outcome.ends_neurons:
            states = self._complete_inputs(equation)
            outcome = self._look_at(equation, states) if any(states) else Outcome()
        self._note(outcome)
        if not isinstance(outcome.state, (Parameter, PartialNeuron)):
            self._complete_inputs(equation)
        if outcome.alias is not None:
            facts.program.aliases[equation.outputs[0]] = outcome.alias
        for value in equation.outputs:
            self._set(value, outcome.state)

    def _look_at(self, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
        """Apply the operation's rule."""
        if any(isinstance(state, Nonlinear) for state in states):
            return after_nonlinear(self._facts, equation, states)
        return self._rules.get(equation.primitive, linear)(self._facts, equation, states)

    def _enter(self, position: int, equation: Equation) -> None:
        states = self._complete_inputs(equation)
        if not any(states):
            return
        completed = enter(Region(self._facts, position, equation, states, self._found, search))
        if completed is None:
            reason = f"used inside a `{equation.name}`, whose steps cannot be recorded"
            if equation.primitive is primitives.while_p:  # it has no reverse derivative of its own
                self._note(Outcome(reasons=_reasons(states, reason)))
            else:
                self._pass_over(equation, reason)
            return
        self._completed += [neuron.completed() for neuron in completed]
        for value in equation.outputs:
            self._set(value, None)

    def _pass_over(self, equation: Equation, reason: str) -> None:
        """Nothing is known of how an operation uses its parameters: they belong to no neuron, here or elsewhere."""
        states = [self._states.get(value) for value in equation.inputs]
        self._note(Outcome(excluded=_reasons(states, reason)))
        self._complete_inputs(equation)
        for value in equation.outputs:
            self._set(value, None)

    def _note(self, outcome: Outcome) -> None:
        if outcome.reasons or outcome.excluded:
            self._found.reasons.add(outcome)
        self._completed += [neuron.completed() for neuron in outcome.completed]

    def _set(self, value: Value, state: TrackedValue) -> None:
        self._states[value] = state
        if isinstance(state, PartialNeuron) and self._uses[value] > 1:
            self._complete(value)

    def _complete_inputs(self, equation: Equation) -> list[TrackedValue]:
        """The states of an equation's inputs once the neurons among them have ended."""
        for value in equation.inputs:
            self._complete(value)
        return [self._states.get(value) for value in equation.inputs]

    def _complete(self, value: Value) -> None:
        """A neuron's output meets something that the neuron does not take in: from here on it is an activation."""
        state = self._states.get(value)
        if isinstance(state, PartialNeuron):
            self._completed.append(replace(state, repeats=self._repeats(value, state)).completed())
            self._states[value] = None

    def _repeats(self, value: Value, neuron: PartialNeuron) -> int:
        """How many samples a row of the output stands for: with constant features, as many as the data it meets has."""
        if not neuron.constant or neuron.terms is None:
            return 1
        met, sizes = {value}, [prod(neuron.shape)]
        for equation in self._facts.program.equations:
            if met.intersection(equation.inputs):
                if is_layout(equation):
                    met.update(equation.outputs)
                elif equation.primitive in _COMBINING:
                    sizes.append(prod(self._facts.shape[equation.outputs[0]]))
        return max(1, max(sizes) // (neuron.groups * neuron.outputs * neuron.samples))


def _reasons(states: Sequence[TrackedValue], reason: str) -> tuple[tuple[Sequence[int] | frozenset[int], str], ...]:
    return tuple((state.leaves, reason) for state in states if isinstance(state, (Parameter, Nonlinear)))
