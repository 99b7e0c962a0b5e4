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
from lnb._finding._regions import Found, Region, enter, weights_of
from lnb._finding._uses import finish
from lnb._finding._values import Outcome, Parameter, PartialNeuron, Stopped, TrackedValue
from lnb._finding.rules._layouts import is_layout, lay_out, layout_primitives, split
from lnb._finding.rules._linear import linear, with_stopped
from lnb._finding.rules._products import negate, product
from lnb._finding.rules._sums import add, complex_number, concatenate
from lnb._program import Equation, NotUnderstoodError, Value, unlisted

Rule = Callable[[Facts, Equation, Sequence[TrackedValue]], Outcome]

_STOPPED = "the loss is not differentiated through its use"

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
    layouts = {**dict.fromkeys(layout_primitives(), lay_out), unlisted().split: split, unlisted().unstack: split}
    return {**_COMBINING, **layouts, primitives.complex_p: complex_number}


def search(facts: Facts, states: Mapping[Value, TrackedValue], differentiated: Sequence[Value] | None = None) -> Found:
    """Search a program.

    Args:
        facts: of the program.
        states: of its inputs; the rest of its inputs are data.
        differentiated: its outputs that the loss depends on; by default all.
    """
    return _Search(facts, facts.program.outputs if differentiated is None else differentiated).run(states)


class _Search:
    def __init__(self, facts: Facts, differentiated: Sequence[Value]) -> None:
        self._facts = facts
        self._states = facts.states
        self._found = Found(facts)
        self._live = _differentiated(facts, differentiated)
        self._completed: list[PartialNeuron] = []
        self._uses = facts.program.uses()
        self._rules = _rules()

    def run(self, states: Mapping[Value, TrackedValue]) -> Found:
        facts, program = self._facts, self._facts.program
        self._states.update(states)
        facts.data.update(v for v in program.inputs if states.get(v) is None and v not in program.constants)
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
        self._found.outputs = tuple(self._states.get(value) for value in program.outputs)
        kept = [neuron for neuron in self._completed if not self._is_absorbed(neuron)]
        cuts = self._cuts()
        self._found.uses[:0] = [finish(facts, neuron, cuts) for neuron in kept]
        return self._found

    def _is_absorbed(self, neuron: PartialNeuron) -> bool:
        """Whether the neuron's output goes into the computation of a weight alone."""
        if not self._facts.absorbed:
            return False
        return self._facts.absorbed.issuperset(self._facts.program.readers.get(neuron.value, ()))

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
        if not facts.carried.isdisjoint(equation.inputs):
            facts.carried.update(equation.outputs)
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
            outcome = self._look_at(equation, states)
        self._note(outcome)
        self._keep(equation, outcome.completed)
        if not isinstance(outcome.state, (Parameter, PartialNeuron)):
            self._complete_inputs(equation)
        states = outcome.states or (outcome.state,) * len(equation.outputs)
        for value, state in zip(equation.outputs, states, strict=True):
            self._set(value, state)

    def _look_at(self, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
        """Apply the operation's rule."""
        if any(isinstance(state, Stopped) for state in states):
            if self._facts.is_alone(equation.inputs, states):
                return with_stopped(self._facts, equation, states)
            states = [None if isinstance(state, Stopped) else state for state in states]  # data to what it meets
        if not any(states):
            return Outcome()
        return self._rules.get(equation.primitive, linear)(self._facts, equation, states)

    def _enter(self, position: int, equation: Equation) -> None:
        states = self._complete_inputs(equation)
        if not any(states):
            return
        live = tuple(value in self._live for value in equation.outputs)
        region = Region(self._facts, position, equation, states, live, self._found, search)
        if self._facts.is_alone(equation.inputs, states) and (outcome := weights_of(region)):
            self._note(outcome)
            for value, state in zip(equation.outputs, outcome.states, strict=True):
                self._set(value, state)
            return
        completed = enter(region)
        if completed is None:
            self._pass_over(equation, f"used inside a `{equation.name}`, whose steps cannot be recorded")
            return
        self._keep(equation, completed)
        for value in equation.outputs:
            leaves = region.passed_on.get(value)
            is_weight = leaves is not None and self._facts.is_inexact(value)
            self._set(value, self._facts.reparametrise(value, leaves) if is_weight and leaves else None)

    def _pass_over(self, equation: Equation, reason: str) -> None:
        """Nothing is known of how an operation uses its parameters: they belong to no neuron, here or elsewhere."""
        states = [self._states.get(value) for value in equation.inputs]
        self._note(Outcome(excluded=_reasons(states, reason)))
        self._complete_inputs(equation)
        for value in equation.outputs:
            self._set(value, None)

    def _note(self, outcome: Outcome) -> None:
        if outcome.reasons or outcome.excluded:
            self._found.reasons.add(outcome, self._facts.roots)

    def _keep(self, equation: Equation, completed: Sequence[PartialNeuron]) -> None:
        """Keep neurons that an equation completes, unless the loss is not differentiated through its outputs."""
        if self._live.isdisjoint(equation.outputs):
            self._note(Outcome(reasons=tuple((neuron.leaves, _STOPPED) for neuron in completed)))
        else:
            self._completed += [neuron.completed() for neuron in completed]

    def _set(self, value: Value, state: TrackedValue) -> None:
        self._states[value] = state
        if isinstance(state, PartialNeuron) and self._uses[value] > 1 and not self._meets_again(value, state):
            self._complete(value)

    def _meets_again(self, value: Value, neuron: PartialNeuron) -> bool:
        """Whether two activations multiply a scale's output, and a sum takes in both products.

        One product may go through a sum of its own before. Keras writes normalisations like this:
        x * (s / d) + (b - m * (s / d)).
        """
        program = self._facts.program
        readers = [program.equations[k] for k in program.readers.get(value, ())]
        if not neuron.elementwise or not neuron.terms or neuron.bias or len(readers) != 2 or self._uses[value] != 2:
            return False
        sums = []
        for equation in readers:
            others = [other for other in equation.inputs if other != value]
            if equation.primitive is not primitives.mul_p or len(others) != 1 or not self._is_activation(others[0]):
                return False
            sums.append(self._sum_of(equation))
        first, second = sums
        if first is None or second is None:
            return False
        return first is second or self._sum_of(first) is second or self._sum_of(second) is first

    def _is_activation(self, value: Value, depth: int = 4) -> bool:
        """Whether no parameter is known to reach a value, whose equation may be up to `depth` equations ahead."""
        if self._states.get(value) is not None:
            return False
        maker = self._facts.program.makers.get(value)
        if maker is None or value in self._facts.ancestors:
            return True
        equation = self._facts.program.equations[maker]
        return depth > 0 and all(self._is_activation(other, depth - 1) for other in equation.inputs)

    def _sum_of(self, equation: Equation) -> Equation | None:
        """The sum or difference that alone reads what an equation gives."""
        program, (value, *_) = self._facts.program, equation.outputs
        if self._uses[value] != 1 or not (readers := program.readers.get(value)):
            return None
        reader = program.equations[readers[0]]
        return reader if reader.primitive in (primitives.add_p, primitives.sub_p) else None

    def _complete_inputs(self, equation: Equation) -> list[TrackedValue]:
        """The states of an equation's inputs once the neurons among them have ended."""
        for value in equation.inputs:
            self._complete(value)
        return [self._states.get(value) for value in equation.inputs]

    def _complete(self, value: Value) -> None:
        """A neuron's output meets something that the neuron does not take in: from here on it is an activation."""
        state = self._states.get(value)
        if isinstance(state, PartialNeuron):
            if value in self._live:
                self._completed.append(replace(state, repeats=self._repeats(value, state)).completed())
            else:
                self._note(Outcome(reasons=((state.leaves, _STOPPED),)))
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
    return tuple((state.leaves, reason) for state in states if isinstance(state, Parameter))


def _differentiated(facts: Facts, outputs: Sequence[Value]) -> set[Value]:
    """The values that these outputs depend on, other than through a stopped gradient."""
    live = set(outputs)
    for equation in reversed(facts.program.equations):
        if equation.primitive is not primitives.stop_gradient_p and not live.isdisjoint(equation.outputs):
            live.update(value for value in equation.inputs if facts.is_inexact(value))
    return live
