"""A part of a program, from some of its values to one that is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from lnb._program import _jax
from lnb._program._equation import Equation, Value
from lnb._program._program import Program


@dataclass(frozen=True, eq=False)
class Slice:
    """The equations of a program that compute `output` from `inputs` and constants, with zeros for `addends`."""

    program: Program
    inputs: tuple[Value, ...]
    output: Value
    addends: tuple[Value, ...] = ()

    @cached_property
    def equations(self) -> list[Equation]:
        """In the order of the program."""
        wanted, stops, positions = [self.output], {*self.inputs, *self.addends}, set()
        while wanted:
            value = wanted.pop()
            position = self.program.makers.get(value)
            if value not in stops and position is not None and position not in positions:
                positions.add(position)
                wanted += self.program.equations[position].inputs
        return [self.program.equations[position] for position in sorted(positions)]

    def __call__(self, arrays: Sequence[Any]) -> Any:
        """The output for these inputs; one that has the size 1 along an axis repeats along it."""
        environment = dict(self.program.constants)
        avals = self.program.avals
        environment.update((value, jnp.zeros(avals[value].shape, avals[value].dtype)) for value in self.addends)
        for value, array in zip(self.inputs, arrays, strict=True):
            known = 0 <= value < len(avals)
            environment[value] = jnp.broadcast_to(array, avals[value].shape) if known else array
        for equation in self.equations:
            results = _evaluate(equation, [environment[value] for value in equation.inputs])
            environment.update(zip(equation.outputs, results, strict=True))
        return environment[self.output]


def _evaluate(equation: Equation, inputs: Sequence[Any]) -> list[Any]:
    if equation.primitive is not _jax.unlisted().vary:
        return equation.bind(inputs)
    try:
        return equation.bind(inputs)
    except NameError:  # outside of the map its axis has no name, and there is nothing to mark
        return list(inputs)
