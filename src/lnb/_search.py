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

from lnb import _begin, _regions
from lnb._jaxpr import Equation, Program, Recorder, Value, is_linear_in, jaxprs_of
from lnb._tracked import (
    Bias,
    Labels,
    Nonlinear,
    Output,
    Parameter,
    core,
    is_layout,
    lay_out,
    relabel,
    varying_axes,
)
from lnb._uses import Use, finish

State = Parameter | Nonlinear | Output | None

_SUMS = frozenset({primitives.add_p, primitives.sub_p, primitives.add_jaxvals_p})
_PRODUCTS = frozenset({primitives.mul_p, primitives.div_p})


@dataclass
class Notes:
    """Why leaves are not covered: for good (`fatal`), or only if nothing else covers them (`reasons`)."""

    reasons: dict[int, str] = field(default_factory=dict)
    fatal: dict[int, str] = field(default_factory=dict)

    def add(self, leaves: Sequence[int] | frozenset[int], reason: str) -> None:
        """Remember the first reason given for each leaf."""
        for leaf in leaves:
            self.reasons.setdefault(leaf, reason)

    def exclude(self, state: Nonlinear) -> None:
        """The data are multiplied by a nonlinear function of these leaves: no linear function of them is left."""
        for leaf in state.leaves:
            self.fatal.setdefault(leaf, state.reason)


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
        self._data.update(v for v, c in self.program.constants.items() if isinstance(c, jax.core.Tracer))
        for value, state in states.items():
            if isinstance(state, Parameter):
                self._ancestors[value] = sum(1 << leaf for leaf in state.leaves)
        for self.position, equation in enumerate(self.program.equations):
            self._visit(equation)
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

    def _state(self, value: Value) -> State:
        return self._states.get(value)

    def _set(self, value: Value, state: State) -> None:
        if isinstance(state, Output) and self._uses[value] > 1:
            self._close(state)
            state = None
        self._states[value] = state

    def _close(self, output: Output) -> None:
        self._ended.append(output.ended())

    def _end(self, value: Value) -> None:
        """A neuron's output meets something that the neuron does not take in: from here on it is an activation."""
        state = self._state(value)
        if isinstance(state, Output):
            self._close(state)
            self._states[value] = None

    def is_constant(self, value: Value) -> bool:
        """Whether an activation depends on the program's constants alone."""
        return value not in self._data and self._state(value) is None

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
        states = [self._state(value) for value in equation.inputs]
        if any(states) or equation.effects or any(value in self._data for value in equation.inputs):
            self._data.update(equation.outputs)
        if not any(states):
            return
        if jaxprs_of(equation):
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
        states = [self._state(value) for value in equation.inputs]
        if not any(states):
            return
        results = _regions.enter(self, equation, states)
        if results is None:
            leaves = [leaf for s in states if isinstance(s, (Parameter, Nonlinear)) for leaf in s.leaves]
            self.notes.add(leaves, f"used inside a `{equation.name}`, whose steps cannot be recorded")
            return
        for value, state in zip(equation.outputs, results, strict=True):
            self._set(value, state)

    def _pairs(self, equation: Equation) -> list[tuple[Value, State]]:
        return [(value, self._state(value)) for value in equation.inputs]

    def _transfer(self, equation: Equation, states: list[State]) -> State:
        """The state of what an equation with tracked inputs gives; None where it gives an activation."""
        if any(isinstance(state, Nonlinear) for state in states):
            return self._after_nonlinear(equation, states)
        if is_layout(equation) and self._is_inexact(equation.outputs[0]):
            return self._lay_out(equation, states)
        if equation.primitive in _SUMS:
            return self._sum(equation, states)
        if len(equation.inputs) == 1 and equation.primitive is primitives.neg_p:
            return self._scale_by_constant(equation, states[0], equation.inputs[0], -1.0)
        if equation.primitive in _PRODUCTS:
            return self._product(equation, states)
        if equation.primitive is primitives.concatenate_p:
            return self._concatenate(equation, states)
        return self._linear(equation, states)

    def _is_inexact(self, value: Value) -> bool:
        return bool(jnp.issubdtype(self.program.avals[value].dtype, jnp.inexact))

    def _after_nonlinear(self, equation: Equation, states: list[State]) -> State:
        nonlinear = [state for state in states if isinstance(state, Nonlinear)]
        others = [
            (value, state) for value, state in self._pairs(equation) if not isinstance(state, (Nonlinear, Parameter))
        ]
        if all(state is None and self.is_constant(value) for value, state in others):
            parameters = [state for state in states if isinstance(state, Parameter)]
            if parameters and equation.primitive in (
                primitives.dot_general_p,
                primitives.conv_general_dilated_p,
            ):
                return self._linear(equation, [None if isinstance(s, Nonlinear) else s for s in states])
            leaves = frozenset().union(*(s.leaves for s in (*nonlinear, *parameters)))
            return Nonlinear(leaves, nonlinear[0].reason)
        if equation.primitive not in _SUMS and self._is_inexact(equation.outputs[0]):
            for state in nonlinear:
                self.notes.exclude(state)
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

        columns, rows = (None if x is None else relabel(equation, x) for x in (state.columns, state.rows))
        return replace(state, function=function, columns=columns, rows=rows, shape=shape, joined=state.ended())

    def _nonlinear(self, equation: Equation, states: list[State]) -> State:
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
            return Nonlinear(leaves, reason)
        return None

    def _linear(self, equation: Equation, states: list[State]) -> State:
        """Any operation, judged by its derivative; matrix products, convolutions and lookups in canonical form."""
        tracked = [k for k, state in enumerate(states) if state is not None]
        linear = len(equation.outputs) == 1 and is_linear_in(equation, self.program.avals, tracked)
        outputs = [state for state in states if isinstance(state, Output)]
        if outputs:
            if linear and all(self._goes_on(equation, output) for output in outputs):
                return self._continue(equation, states)
            return self._without_outputs(equation, states, self._linear)
        if not linear:
            return self._nonlinear(equation, states)
        begun = _begin.begin(self, equation, states)
        others = [v for v, s in zip(equation.inputs, states, strict=True) if s is None]
        if all(self.is_constant(value) for value in others):
            if begun is None or equation.primitive is primitives.gather_p:
                return self._rearrange(equation, states)
        return begun or self._begin_general(equation, states)

    def _goes_on(self, equation: Equation, output: Output) -> bool:
        """Whether a neuron's output is still rather a weight than an output: it has met no samples yet."""
        if equation.primitive is primitives.reduce_sum_p and output.elementwise and output.columns is not None:
            return bool(set(varying_axes(output.columns)).intersection(equation.parameters["axes"]))
        return output.constant or (output.elementwise and output.samples == 1)

    def _without_outputs(
        self,
        equation: Equation,
        states: list[State],
        rule: Callable[[Equation, list[State]], State],
    ) -> State:
        """The neurons that come in end here; the parameters that come in meet them as activations."""
        for value in equation.inputs:
            self._end(value)
        states = [None if isinstance(state, Output) else state for state in states]
        return rule(equation, states) if any(states) else None

    def _rearrange(self, equation: Equation, states: list[State]) -> Parameter:
        """Parameters and constants in an operation linear in the parameters: a parameter still."""
        parameters = [state for state in states if isinstance(state, Parameter)]
        leaves = tuple(dict.fromkeys(leaf for parameter in parameters for leaf in parameter.leaves))
        constants = {k: self.constant(v) for k, v in enumerate(equation.inputs) if states[k] is None}

        def bind(values: Sequence[Any]) -> Any:
            free = iter(values)
            return equation.bind([constants[k] if k in constants else next(free) for k in range(len(states))])[0]

        def function(values: Mapping[int, Any]) -> Any:
            return bind([parameter.function(values) for parameter in parameters])

        shape = self.shape(equation.outputs[0])
        first = parameters[0]
        selects = equation.primitive in (primitives.gather_p, primitives.dynamic_slice_p)
        if not selects or first.layout is None or first.labels is None:
            return first.opaque(function, shape, leaves)
        layout, before = first.layout, first.labels
        with jax.ensure_compile_time_eval():
            labels = np.asarray(bind([jnp.asarray(before)]))
        if labels.min(initial=0) < 0:
            return first.opaque(function, shape, leaves)
        distinct = np.unique(labels).size == labels.size
        return replace(
            first,
            function=function,
            layout=lambda values: bind([layout(values)]),
            labels_of=lambda: labels,
            shape=shape,
            distinct=distinct,
            whole=first.whole and distinct and labels.size == before.size,
        )

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

    def _begin_general(self, equation: Equation, states: list[State]) -> Output:
        size = prod(self.shape(equation.outputs[0]))
        parameters = [state for state in states if isinstance(state, Parameter)]
        return self.general_output(equation, states, max(1, size // max(1, sum(prod(p.shape) for p in parameters))))

    def _continue(self, equation: Equation, states: list[State]) -> Output:
        samples = max(state.samples for state in states if isinstance(state, Output))
        output = self.general_output(equation, states, samples)
        if any(isinstance(state, Output) and state.constant for state in states):
            samples = max(1, prod(output.shape) // max(1, prod(output.shape[-1:])))
            output = replace(output, samples=samples)
        return output

    # Sums: biases, positions, several weights of one neuron

    def _sum(self, equation: Equation, states: list[State]) -> State:
        first, second = states
        sign = -1.0 if equation.primitive is primitives.sub_p else 1.0
        if isinstance(first, Parameter) and isinstance(second, Parameter):
            return self._rearrange(equation, states)
        if isinstance(first, Output) and isinstance(second, Output):
            return self._join(equation, first, second) if sign > 0 else None
        if isinstance(first, Output) and isinstance(second, Parameter):
            return self._add_bias(equation, states, first, replace(second, factor=sign * second.factor))
        if isinstance(first, Parameter) and isinstance(second, Output):
            if sign < 0:
                return self.begin_identity(equation, 0)
            return self._add_bias(equation, states, second, first)
        if isinstance(first, Output) or isinstance(second, Output):
            return None
        position = 0 if isinstance(first, Parameter) else 1
        parameter, other = states[position], equation.inputs[1 - position]
        assert isinstance(parameter, Parameter)
        if self.is_constant(other) and prod(self.shape(equation.outputs[0])) == prod(parameter.shape):
            return self._shift(equation, states, position, sign if position else 1.0)
        return self.begin_identity(equation, position)

    def _shift(self, equation: Equation, states: list[State], position: int, sign: float) -> State:
        """A parameter plus a constant: still a parameter, since only its derivative counts."""
        parameter = states[position]
        assert isinstance(parameter, Parameter)
        shifted = self._rearrange(equation, states)
        if parameter.shape != shifted.shape:
            return shifted
        return replace(parameter, function=shifted.function, factor=sign * parameter.factor)

    def begin_identity(self, equation: Equation, position: int) -> None:
        """A parameter that is only added to data or set beside it: its metric is the identity, and it ends here."""
        parameter = self._state(equation.inputs[position])
        assert isinstance(parameter, Parameter)
        apart = equation.primitive is primitives.concatenate_p or jaxprs_of(equation)
        shape = parameter.shape if apart else self.shape(equation.outputs[0])
        self._ended.append(_begin.identity(self, parameter, shape))

    def _add_bias(self, equation: Equation, states: list[State], output: Output, parameter: Parameter) -> State:
        if output.terms is None:
            joined = self.general_output(equation, states, output.samples)
            return replace(joined, constant=output.constant)
        output = self._with_factor_in_features(output)
        bias = self._as_bias(self.shape(equation.outputs[0]), output, parameter)
        if bias is None:
            self.begin_identity(equation, next(k for k, s in enumerate(states) if isinstance(s, Parameter)))
            return None
        joined = self.general_output(equation, states, output.samples)
        columns, rows = self._broadcast_labels(output, joined.shape)
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

    @staticmethod
    def _with_factor_in_features(output: Output) -> Output:
        """A constant factor of the output is one of its features, now that a bias may join; a scale's has it already."""
        if output.factor == 1.0 or any(term.kind == "embedding" for term in output.terms or ()):
            return output
        terms = tuple(
            term
            if term.features is None
            else replace(term, features=replace(term.features, factor=term.features.factor * output.factor))
            for term in output.terms or ()
        )
        return replace(output, terms=terms, factor=1.0)

    @staticmethod
    def _broadcast_labels(output: Output, shape: tuple[int, ...]) -> tuple[Labels | None, Labels | None]:
        if output.columns is None or output.rows is None:
            return None, None
        return np.broadcast_to(output.columns, shape), np.broadcast_to(output.rows, shape)

    def _as_bias(self, shape: tuple[int, ...], output: Output, parameter: Parameter) -> Bias | None:
        """The parameter as b[g, o], if it is one: an element for each (g, o), the same for every sample."""
        fits = output.bias is None and output.shape == shape and output.columns is not None
        once = prod(shape) == output.groups * output.outputs * output.samples
        if not fits or not once or output.factor != 1.0 or parameter.factor != 1.0 or parameter.labels is None:
            return None
        assert output.columns is not None
        axes = varying_axes(output.columns)
        columns, labels = (
            core(output.columns, axes),
            core(np.broadcast_to(parameter.labels, shape), axes),
        )
        if columns is None or labels is None or columns.size != output.groups * output.outputs:
            return None
        order = np.empty(columns.size, np.int64)
        order[columns.ravel()] = labels.ravel()
        if len(parameter.leaves) != 1 or np.unique(order).size != order.size:
            return None
        return _begin.bias(self, parameter, order, output.groups, output.outputs)

    def _join(self, equation: Equation, first: Output, second: Output) -> State:
        """Two weights whose products are added are one neuron: its features are both weights' features."""
        shape = self.shape(equation.outputs[0])
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
        joined = self.general_output(equation, [first, second], first.samples)
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

    # Products: scales, masks, constant factors

    def _product(self, equation: Equation, states: list[State]) -> State:
        tracked = [k for k, state in enumerate(states) if state is not None]
        divides = equation.primitive is primitives.div_p
        if len(tracked) > 1 or (divides and tracked[0] == 1):
            if any(isinstance(state, Output) for state in states):
                return self._without_outputs(equation, states, self._product)
            return self._nonlinear(equation, states)
        position = tracked[0]
        state, other = states[position], equation.inputs[1 - position]
        number = self.number(other)
        if number is not None and number != 0.0:
            return self._scale_by_constant(equation, state, other, 1 / number if divides else number)
        if isinstance(state, Output):
            return self._multiply_output(equation, states, state)
        assert isinstance(state, Parameter)
        kept = prod(self.shape(equation.outputs[0])) == prod(state.shape)
        if kept and self.is_constant(other):
            return self._rearrange(equation, states)
        if kept and self.depends_on(other, state.leaves) and prod(self.shape(other)) == 1 < prod(state.shape):
            reason = (
                f"divided by a function of itself in `{equation.name}`" if divides else "scaled by its own function"
            )
            self.notes.exclude(Nonlinear(frozenset(state.leaves), reason))
            return None
        return _begin.scale(self, equation, states) or self._begin_general(equation, states)

    def _scale_by_constant(self, equation: Equation, state: State, other: Value, factor: float) -> State:
        shape = self.shape(equation.outputs[0])
        if isinstance(state, Parameter):
            before = state

            def function(leaves: Mapping[int, Any]) -> Any:
                return equation.bind(self._with_constant(equation, before.function(leaves), other))[0]

            if state.shape != shape:
                return state.opaque(function, shape)
            return replace(state, function=function, factor=state.factor * factor)
        assert isinstance(state, Output)
        output = state

        def scaled(leaves: Mapping[int, Any], features: Sequence[Any]) -> Any:
            return equation.bind(self._with_constant(equation, output.function(leaves, features), other))[0]

        return replace(state, function=scaled, factor=state.factor * factor, shape=shape, joined=state.ended())

    def _with_constant(self, equation: Equation, tracked: Any, other: Value) -> list[Any]:
        if len(equation.inputs) == 1:
            return [tracked]
        constant = self.constant(other)
        return [constant if value == other else tracked for value in equation.inputs]

    def _multiply_output(self, equation: Equation, states: list[State], output: Output) -> State:
        if not output.elementwise or output.bias is not None:
            return self._continue(equation, states) if output.constant else None
        shape = self.shape(equation.outputs[0])
        product = self.general_output(equation, states, output.samples)
        if output.shape != shape or output.terms is None:
            return _begin.scale_again(output, product) or replace(product, elementwise=output.elementwise)
        return replace(output, function=product.function, features=product.features, constant=product.constant)

    def _concatenate(self, equation: Equation, states: list[State]) -> State:
        if all(isinstance(state, Parameter) for state in states):
            return _begin.concatenate(equation, [s for s in states if isinstance(s, Parameter)], self.shape)
        for position, state in enumerate(states):
            if isinstance(state, Parameter):
                self.begin_identity(equation, position)
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
