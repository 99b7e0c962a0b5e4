"""One pass over a program's equations: where neurons begin, what they take in, and where they end.

Each value is a parameter (`Parameter`), the output of a neuron under construction (`Output`), something computed from
parameters alone but not linearly (`Nonlinear`), or an activation (no state). A neuron begins where a parameter meets
an activation in an operation linear in the parameter, takes in the parameters added to it, and ends at any other use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives

from lnb import _begin, _combine, _regions
from lnb._program import Equation, NotUnderstoodError, Program, Recorder, Value, is_linear_in, is_traced
from lnb._rearrange import rearrange
from lnb._tracked import Nonlinear, Output, Parameter, is_layout, lay_out, relabeling, varying_axes
from lnb._uses import Use, finish

State = Parameter | Nonlinear | Output | None


@dataclass
class Notes:
    """Why leaves are not covered: for good (`fatal`), or only if nothing else covers them (`reasons`)."""

    reasons: dict[int, str] = field(default_factory=dict)
    fatal: dict[int, str] = field(default_factory=dict)

    def add(self, leaves: Sequence[int] | frozenset[int], reason: str) -> None:
        """Remember the first reason given for each leaf."""
        for leaf in leaves:
            self.reasons.setdefault(leaf, reason)

    def exclude(self, leaves: Sequence[int] | frozenset[int], reason: str) -> None:
        """Some use of these leaves is not linear, or unknown: no linear function of them is left, whatever else is."""
        for leaf in leaves:
            self.fatal.setdefault(leaf, reason)


class Search:
    """The pass itself; `run` fills `uses`, `recorder` and `notes`."""

    def __init__(self, program: Program, shapes: Mapping[int, jax.ShapeDtypeStruct]) -> None:
        self.program = program
        self.notes = Notes()
        self.shapes = shapes
        self.sizes = {leaf: prod(shape.shape) for leaf, shape in shapes.items()}
        ends = np.cumsum([0, *self.sizes.values()]).tolist()
        self.offsets = dict(zip(self.sizes, ends, strict=False))
        self.uses: list[Use] = []
        self.recorder = Recorder()
        self.position = 0
        self._ended: list[Output] = []
        self._states: dict[Value, State] = {}
        self._data: set[Value] = set()
        self._ancestors: dict[Value, int] = {}
        self._uses = program.uses()
        self._makers = {value: equation for equation in program.equations for value in equation.outputs}

    def run(self, states: Mapping[Value, State]) -> None:
        """Search the program, whose inputs have these states; the rest of the inputs are data."""
        self._states.update(states)
        self._data.update(v for v in self.program.inputs if states.get(v) is None)
        self._data.update(v for v, c in self.program.constants.items() if is_traced(c))
        for value, state in states.items():
            if isinstance(state, Parameter):
                self._ancestors[value] = sum(1 << leaf for leaf in state.leaves)
        for position, equation in enumerate(self.program.equations):
            self.position = position
            try:
                self._visit(equation)
            except NotUnderstoodError as error:
                self._pass_over(equation, f"used by a `{equation.name}` of an unknown form: {error}")
        for value in self.program.outputs:
            state = self._states.get(value)
            if isinstance(state, Parameter):
                self.notes.add(state.leaves, "reaches the loss without meeting any data")
            self._end(value)
        self.uses[:0] = [finish(output, self.recorder, self.shapes) for output in self._ended]

    def inner(self, program: Program, shapes: Mapping[int, jax.ShapeDtypeStruct]) -> Search:
        """The search of a program inside of this one."""
        return Search(program, shapes)

    def leaf(self, leaf: int) -> Parameter:
        """A parameter leaf as it comes in."""
        start, shape = self.offsets[leaf], tuple(self.shapes[leaf].shape)

        def read(leaves: Mapping[int, Any]) -> Any:
            return leaves[leaf]

        return Parameter((leaf,), read, read, lambda: np.arange(start, start + prod(shape)).reshape(shape), shape)

    # Bookkeeping

    def state(self, value: Value) -> State:
        return self._states.get(value)

    def _set(self, value: Value, state: State) -> None:
        if isinstance(state, Output) and self._uses[value] > 1:
            self.close(replace(state, repeats=self._repeats(value, state)))
            state = None
        self._states[value] = state

    def close(self, output: Output) -> None:
        """Keep a neuron that has ended."""
        self._ended.append(output.ended())

    def _end(self, value: Value) -> None:
        """A neuron's output meets something that the neuron does not take in: from here on it is an activation."""
        state = self.state(value)
        if isinstance(state, Output):
            self.close(replace(state, repeats=self._repeats(value, state)))
            self._states[value] = None

    def _repeats(self, value: Value, output: Output) -> int:
        """How many samples a row of an output of constant features is: as often as the data that it meets repeat it."""
        if not output.constant or output.terms is None:
            return 1
        met, sizes = {value}, [prod(output.shape)]
        for equation in self.program.equations:
            if met.intersection(equation.inputs):
                if is_layout(equation):
                    met.update(equation.outputs)
                elif _combine.rule_of(equation.primitive):
                    sizes.append(prod(self.shape(equation.outputs[0])))
        return max(1, max(sizes) // (output.groups * output.outputs * output.samples))

    def is_constant(self, value: Value) -> bool:
        """Whether an activation depends on the program's constants alone."""
        return value not in self._data and self.state(value) is None

    def constant(self, value: Value) -> Any:
        """The array of an activation that depends on the program's constants alone."""
        if value not in self.program.constants:
            equation = self._makers[value]
            with jax.ensure_compile_time_eval():
                results = equation.bind([self.constant(v) for v in equation.inputs])
            self.program.constants.update(zip(equation.outputs, results, strict=True))
        return self.program.constants[value]

    def number(self, value: Value) -> float | None:
        """The value of an activation that is one constant number."""
        if not self.is_constant(value) or prod(self.shape(value)) != 1 or not self._is_inexact(value):
            return None
        return float(np.asarray(self.constant(value), np.float64).reshape(()))

    def shape(self, value: Value) -> tuple[int, ...]:
        """Shape of a value."""
        return self.program.shape(value)

    def depends_on(self, value: Value, leaves: Sequence[int]) -> bool:
        """Whether an activation was computed from any of these leaves."""
        return bool(self._ancestors.get(value, 0) & sum(1 << leaf for leaf in leaves))

    # The pass

    def _visit(self, equation: Equation) -> None:
        ancestors = 0
        for value in equation.inputs:
            ancestors |= self._ancestors.get(value, 0)
        for value in equation.outputs:
            self._ancestors[value] = ancestors
        states = [self.state(value) for value in equation.inputs]
        if any(states) or equation.effects or any(value in self._data for value in equation.inputs):
            self._data.update(equation.outputs)
        if not any(states):
            return
        if equation.jaxprs:
            self._enter(equation, states)
            return
        result = self._transfer(equation, states)
        if not isinstance(result, (Parameter, Output)):
            for value in equation.inputs:
                self._end(value)
        for value in equation.outputs:
            self._set(value, result)

    def _enter(self, equation: Equation, states: list[State]) -> None:
        for value in equation.inputs:
            self._end(value)
        states = [self.state(value) for value in equation.inputs]
        if not any(states):
            return
        results = _regions.enter(self, equation, states)
        if results is None:
            reason = f"used inside a `{equation.name}`, whose steps cannot be recorded"
            if equation.primitive is primitives.while_p:  # it has no reverse derivative of its own
                self.notes.add(
                    [leaf for s in states if isinstance(s, (Parameter, Nonlinear)) for leaf in s.leaves], reason
                )
            else:
                self._pass_over(equation, reason)
            return
        for value, state in zip(equation.outputs, results, strict=True):
            self._set(value, state)

    def _pass_over(self, equation: Equation, reason: str) -> None:
        """Nothing is known of how an operation uses its parameters: they belong to no neuron, here or elsewhere."""
        for value in equation.inputs:
            state = self.state(value)
            if isinstance(state, (Parameter, Nonlinear)):
                self.notes.exclude(state.leaves, reason)
            self._end(value)
        for value in equation.outputs:
            self._set(value, None)

    def _pairs(self, equation: Equation) -> list[tuple[Value, State]]:
        return [(value, self.state(value)) for value in equation.inputs]

    def _transfer(self, equation: Equation, states: list[State]) -> State:
        """The state of what an equation with tracked inputs gives; None where it gives an activation."""
        if any(isinstance(state, Nonlinear) for state in states):
            return self._after_nonlinear(equation, states)
        if is_layout(equation) and self._is_inexact(equation.outputs[0]):
            return self._lay_out(equation, states)
        rule = _combine.rule_of(equation.primitive)
        return rule(self, equation, states) if rule else self._linear(equation, states)

    def _is_inexact(self, value: Value) -> bool:
        return bool(jnp.issubdtype(self.program.avals[value].dtype, jnp.inexact))

    def _after_nonlinear(self, equation: Equation, states: list[State]) -> State:
        nonlinear = [state for state in states if isinstance(state, Nonlinear)]
        others = [
            (value, state) for value, state in self._pairs(equation) if not isinstance(state, (Nonlinear, Parameter))
        ]
        summed = [state for state in states if isinstance(state, Parameter)]
        adds = _combine.rule_of(equation.primitive) is _combine.add
        if adds and len(summed) == 1 and (equation.primitive is not primitives.sub_p or states[0] is summed[0]):
            # A shift that does not depend on the parameter: its derivative stays as it is.
            for state in nonlinear:
                self.notes.exclude(state.leaves, state.reason)
            return summed[0]
        if equation.primitive is primitives.stop_gradient_p:
            return Nonlinear(frozenset(), nonlinear[0].reason)
        if all(state is None and self.is_constant(value) for value, state in others):
            parameters = [state for state in states if isinstance(state, Parameter)]
            if parameters and equation.primitive in (
                primitives.dot_general_p,
                primitives.conv_general_dilated_p,
            ):
                return self._linear(equation, [None if isinstance(s, Nonlinear) else s for s in states])
            leaves = frozenset().union(*(s.leaves for s in (*nonlinear, *parameters)))
            return Nonlinear(leaves, nonlinear[0].reason)
        if _combine.rule_of(equation.primitive) is not _combine.add and self._is_inexact(equation.outputs[0]):
            for state in nonlinear:
                self.notes.exclude(state.leaves, state.reason)
        for state in states:
            if isinstance(state, Parameter):
                self.notes.add(state.leaves, f"enters nonlinearly through `{equation.name}`")
        return None

    def _lay_out(self, equation: Equation, states: list[State]) -> State:
        shape = self.shape(equation.outputs[0])
        state = states[0]
        if any(other is not None for other in states[1:]):
            return self._linear(equation, states)
        if isinstance(state, Parameter):
            return lay_out(equation, state, shape)
        assert isinstance(state, Output)
        before = state

        def function(leaves: Mapping[int, Any], features: Sequence[Any]) -> Any:
            return equation.bind([before.function(leaves, features)])[0]

        relabel = relabeling(equation)
        columns, rows = (None if x is None else relabel(x) for x in (state.columns, state.rows))
        return replace(state, function=function, columns=columns, rows=rows, shape=shape, joined=state.ended())

    def nonlinear(self, equation: Equation, states: list[State]) -> State:
        """An operation that is not linear in the parameters that enter it."""
        parameters = [state for state in states if isinstance(state, Parameter)]
        leaves = frozenset(leaf for state in parameters for leaf in state.leaves)
        if equation.primitive is primitives.stop_gradient_p:
            reason = "its gradient is stopped by `stop_gradient`"
        elif len(parameters) > 1:
            reason = f"multiplied with another parameter by `{equation.name}` before either meets data"
        else:
            reason = f"enters nonlinearly through `{equation.name}`"
        if parameters and self._is_inexact(equation.outputs[0]):
            self.notes.add(leaves, reason)
        only_parameters = all(
            isinstance(state, Parameter) or (state is None and self.is_constant(value))
            for value, state in self._pairs(equation)
        )
        if parameters and only_parameters and self._is_inexact(equation.outputs[0]):
            # Nothing is differentiated through a stopped gradient: what comes of it depends on no leaf.
            return Nonlinear(frozenset() if equation.primitive is primitives.stop_gradient_p else leaves, reason)
        return None

    def _linear(self, equation: Equation, states: list[State]) -> State:
        """Any operation, judged by its derivative; matrix products, convolutions and lookups in canonical form."""
        tracked = [k for k, state in enumerate(states) if state is not None]
        linear = len(equation.outputs) == 1 and is_linear_in(equation, self.program.avals, tracked)
        outputs = [state for state in states if isinstance(state, Output)]
        if outputs:
            if linear and all(self._goes_on(equation, output) for output in outputs):
                return self.continue_general(equation, states)
            return self.without_outputs(equation, states)
        if not linear:
            return self.nonlinear(equation, states)
        begun = _begin.begin(self, equation, states)
        others = [v for v, s in zip(equation.inputs, states, strict=True) if s is None]
        still_layout = begun is None or equation.primitive in (primitives.gather_p, primitives.dynamic_slice_p)
        if still_layout and all(self.is_constant(value) for value in others):
            return rearrange(self, equation, states)
        return begun or self.begin_general(equation, states)

    def _goes_on(self, equation: Equation, output: Output) -> bool:
        """Whether a neuron's output is still rather a weight than an output: it has met no samples yet."""
        if equation.primitive is primitives.reduce_sum_p and output.elementwise and output.columns is not None:
            return bool(set(varying_axes(output.columns)).intersection(equation.parameters["axes"]))
        if output.selected:
            return equation.primitive in (primitives.dot_general_p, primitives.conv_general_dilated_p)
        return output.constant or (output.elementwise and output.samples == 1)

    def without_outputs(self, equation: Equation, states: list[State]) -> State:
        """The neurons that come in end here; the parameters that come in meet them as activations."""
        for value in equation.inputs:
            self._end(value)
        states = [None if isinstance(state, Output) else state for state in states]
        return self._transfer(equation, states) if any(states) else None

    def _inputs(self, equation: Equation, states: list[State]) -> tuple[tuple[Value, ...], Callable[..., list[Any]]]:
        """The activations that an equation adds to a neuron, and how its inputs come from leaves and features."""
        features: list[Value] = []
        readers: list[Callable[[Mapping[int, Any], Sequence[Any]], Any]] = []
        for value, state in zip(equation.inputs, states, strict=True):
            start = len(features)
            if isinstance(state, Parameter):
                readers.append(lambda leaves, _, p=state: p.function(leaves))
            elif isinstance(state, Output):
                features.extend(state.features)
                readers.append(
                    lambda leaves, f, o=state, s=start: o.function(leaves, f[s : s + len(o.features)]),
                )
            else:
                features.append(value)
                readers.append(lambda _, f, s=start: f[s])
        return tuple(features), lambda leaves, f: [reader(leaves, f) for reader in readers]

    def general_output(self, equation: Equation, states: list[State], samples: int) -> Output:
        """A neuron that this equation begins or continues, kept as its equations."""
        features, read = self._inputs(equation, states)
        tracked = [state for state in states if isinstance(state, (Parameter, Output))]
        leaves = tuple(dict.fromkeys(leaf for state in tracked for leaf in state.leaves))
        return Output(
            leaves=leaves,
            function=lambda values, f: equation.bind(read(values, f))[0],
            features=features,
            terms=None,
            columns=None,
            rows=None,
            shape=self.shape(equation.outputs[0]),
            groups=1,
            outputs=1,
            samples=samples,
            constant=all(self.is_constant(value) for value in features),
        )

    def begin_general(self, equation: Equation, states: list[State]) -> Output:
        """A neuron of no canonical form: each sample uses every parameter element once, as far as can be told."""
        size = prod(self.shape(equation.outputs[0]))
        parameters = [state for state in states if isinstance(state, Parameter)]
        leaves = {leaf for parameter in parameters for leaf in parameter.leaves}
        return self.general_output(equation, states, max(1, size // max(1, sum(self.sizes[leaf] for leaf in leaves))))

    def continue_general(self, equation: Equation, states: list[State]) -> Output:
        samples = max(state.samples for state in states if isinstance(state, Output))
        roles = _begin.roles(self, equation, next(k for k, s in enumerate(states) if isinstance(s, Output)))
        return self.general_output(equation, states, samples * (roles.samples if roles else 1))
