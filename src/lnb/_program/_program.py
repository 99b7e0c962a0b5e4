"""A traced function as numbered values.

Calls (`jax.jit`) are inlined, equal equations on equal inputs become one value, and equations that reach no output are
dropped. A program is evaluated equation by equation, and can hand out any of its values beside its outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import jax
import jax.extend.core as jex
import numpy as np

from lnb._program import _jax
from lnb._program._equation import Equation, Value
from lnb._program._recorder import DerivedRecord, Recorder, RegionRecord


@dataclass(eq=False)
class Program:
    """A traced function: `equations` in order, reading `inputs` and `constants`, giving `outputs`."""

    inputs: tuple[Value, ...]
    constants: dict[Value, Any]
    equations: list[Equation]
    outputs: tuple[Value, ...]
    avals: list[Any]

    @cached_property
    def makers(self) -> dict[Value, int]:
        """The place of the equation that makes each value."""
        return {value: position for position, equation in enumerate(self.equations) for value in equation.outputs}

    @cached_property
    def readers(self) -> dict[Value, list[int]]:
        """The places of the equations that read each value."""
        readers: dict[Value, list[int]] = {}
        for position, equation in enumerate(self.equations):
            for value in dict.fromkeys(equation.inputs):
                readers.setdefault(value, []).append(position)
        return readers

    def uses(self) -> Counter[Value]:
        """How often each value is read, being an output included."""
        counts = Counter(self.outputs)
        for equation in self.equations:
            counts.update(equation.inputs)
        return counts

    def evaluate(self, inputs: Sequence[Any], recorder: Recorder | None = None) -> tuple[list[Any], list[Any]]:
        """The outputs for these inputs, and the values that `recorder` names, in its order."""
        recorder = recorder or Recorder()
        environment: dict[Value, Any] = dict(self.constants)
        environment.update(zip(self.inputs, inputs, strict=True))
        inner: dict[int, list[Any]] = {}
        for position, equation in enumerate(self.equations):
            arguments = [environment[value] for value in equation.inputs]
            region = recorder.regions.get(position)
            if region is None:
                results = equation.bind(arguments)
            else:
                results, inner[position] = region(equation, arguments)
            environment.update(zip(equation.outputs, results, strict=True))
        recorded: list[Any] = []
        for entry in recorder.entries:
            if isinstance(entry, DerivedRecord):
                # Statistics are taken of what the pass computed; nothing is differentiated through them.
                features = [jax.lax.stop_gradient(recorded[source]) for source in entry.sources]
                recorded.append(entry.function(features))
            elif isinstance(entry, RegionRecord):
                recorded.append(inner[entry.position][entry.index])
            else:
                recorded.append(environment[entry])
        return [environment[value] for value in self.outputs], recorded


def trace(function: Callable[..., Any], *arguments: Any) -> tuple[Program, Any]:
    """The program of `function` at `arguments` (arrays or shapes), and the shapes of what it returns."""
    closed, result = cast(tuple[Any, Any], jax.make_jaxpr(function, return_shape=True)(*arguments))
    return read_program(closed), result


def read_program(closed: Any) -> Program:
    """The program of a closed jaxpr: calls inlined, equal values merged, dead equations dropped."""
    builder = _Builder()
    jaxpr = closed.jaxpr
    inputs = tuple(builder.new_value(variable.aval) for variable in jaxpr.invars)
    constants = [
        builder.constant(constant, variable.aval, id(constant))
        for constant, variable in zip(closed.consts, jaxpr.constvars, strict=True)
    ]
    outputs = tuple(builder.inline(jaxpr, constants, inputs))
    equations = _drop_dead(builder.equations, outputs)
    return Program(inputs, builder.constants, equations, outputs, builder.avals)


class _Builder:
    def __init__(self) -> None:
        self.avals: list[Any] = []
        self.constants: dict[Value, Any] = {}
        self.equations: list[Equation] = []
        self._numbers: dict[Hashable, Any] = {}
        self._alive: list[Any] = []

    def new_value(self, aval: Any) -> Value:
        self.avals.append(aval)
        return len(self.avals) - 1

    def constant(self, array: Any, aval: Any, key: Hashable) -> Value:
        key = ("constant", key)
        if key not in self._numbers:
            self._numbers[key] = self.new_value(aval)
            self.constants[self._numbers[key]] = array
            self._alive.append(array)
        return self._numbers[key]

    def inline(self, jaxpr: Any, constants: Sequence[Value], inputs: Sequence[Value]) -> list[Value]:
        environment = dict(zip(jaxpr.constvars, constants, strict=True))
        environment.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, jex.Literal):
                # With explicit axes a literal belongs to a mesh.
                key = (str(atom.aval), getattr(atom.aval, "sharding", None), np.asarray(atom.val).tobytes())
                return self.constant(atom.val, atom.aval, key)
            return environment[atom]

        for eqn, (called, held) in zip(jaxpr.eqns, _jax.programs_of(jaxpr), strict=True):
            arguments = tuple(read(atom) for atom in eqn.invars)
            if called is not None:
                inner = [
                    self.constant(c, v.aval, id(c)) for c, v in zip(called.consts, called.jaxpr.constvars, strict=True)
                ]
                results: Sequence[Value] = self.inline(called.jaxpr, inner, arguments)
            else:
                results = self._apply(eqn, arguments, held)
            environment.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, eqn: Any, inputs: tuple[Value, ...], jaxprs: tuple[Any, ...]) -> tuple[Value, ...]:
        effects = bool(eqn.effects)
        key = (
            eqn.primitive,
            tuple((k, self._hashable(v)) for k, v in sorted(eqn.params.items())),
            inputs,
        )
        if effects or key not in self._numbers:
            outputs = tuple(self.new_value(variable.aval) for variable in eqn.outvars)
            parameters = _jax.Parameters(eqn.params)
            self.equations.append(Equation(eqn.primitive, parameters, inputs, outputs, jaxprs, effects, eqn.ctx))
            if effects:
                return outputs
            self._numbers[key] = outputs
        return self._numbers[key]

    def _hashable(self, parameter: Any) -> Hashable:
        try:
            hash(parameter)
        except TypeError:
            self._alive.append(parameter)
            return ("by identity", id(parameter))
        return (type(parameter), parameter)


def _drop_dead(equations: Sequence[Equation], outputs: Sequence[Value]) -> list[Equation]:
    alive, kept = set(outputs), []
    for equation in reversed(equations):
        if equation.effects or alive.intersection(equation.outputs):
            alive.update(equation.inputs)
            kept.append(equation)
    return kept[::-1]
