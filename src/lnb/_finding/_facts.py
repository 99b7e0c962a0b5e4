"""The questions that rules of the search may ask about the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnb._features._layout import ElementNumbers, Leaf
from lnb._finding._values import Parameter, TrackedValue
from lnb._program import Program, Value, is_traced


class Facts:
    """The program, its parameter leaves, and the state of the search. The search writes them, and rules only read.

    Fields:
        program: the program that is searched.
        shapes: of the leaves, which are inputs of the program, by their place among them.
        sizes: of the leaves, how many elements they have.
        ids: of the leaves, their elements' ids.
        states: what is known of values that depend on parameters.
        data: the values that depend on data.
        ancestors: of each value, the leaves that it was computed from, as bits.
        shape: of each value.
        own_derivative: whether the program stands inside of a call that has a derivative of its own.
    """

    def __init__(
        self, program: Program, shapes: Mapping[int, jax.ShapeDtypeStruct], own_derivative: bool = False
    ) -> None:
        self.program = program
        self.own_derivative = own_derivative
        self.shapes = shapes
        self.sizes = {leaf: prod(shape.shape) for leaf, shape in shapes.items()}
        self.ids = ElementNumbers({leaf: shape.shape for leaf, shape in shapes.items()})
        self.states: dict[Value, TrackedValue] = {}
        self.data: set[Value] = {v for v, constant in program.constants.items() if is_traced(constant)}
        self.ancestors: dict[Value, int] = {}
        self.shape: list[tuple[int, ...]] = [tuple(getattr(aval, "shape", ())) for aval in program.avals]

    def leaf(self, leaf: int) -> Parameter:
        """A parameter leaf as it comes in."""
        shape = tuple(self.shapes[leaf].shape)
        return Parameter(self.program.inputs[leaf], (leaf,), shape, Leaf(leaf), self.ids)

    def is_inexact(self, value: Value) -> bool:
        """Whether a value is of a floating-point or complex type."""
        return bool(jnp.issubdtype(self.program.avals[value].dtype, jnp.inexact))

    def is_constant(self, value: Value) -> bool:
        """Whether an activation depends on the program's constants alone."""
        return value not in self.data and self.states.get(value) is None

    def constant(self, value: Value) -> Any:
        """The array of an activation that depends on the program's constants alone."""
        constants = self.program.constants
        if value not in constants:
            equation = self.program.equations[self.program.makers[value]]
            with jax.ensure_compile_time_eval():
                results = equation.bind([self.constant(v) for v in equation.inputs])
            constants.update(zip(equation.outputs, results, strict=True))
        return constants[value]

    def number(self, value: Value) -> float | None:
        """The number that an activation is, if it is one constant number."""
        if not self.is_constant(value) or prod(self.shape[value]) != 1 or not self.is_inexact(value):
            return None
        return float(np.asarray(self.constant(value), np.float64).reshape(()))

    def depends_on(self, value: Value, leaves: Sequence[int]) -> bool:
        """Whether an activation was computed from any of these leaves."""
        return bool(self.ancestors.get(value, 0) & sum(1 << leaf for leaf in leaves))
