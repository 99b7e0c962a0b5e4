"""The questions that rules of the search may ask about the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnb._checks import is_traced
from lnb._features._layout import Broadcast, ElementNumbers, Leaf
from lnb._finding._values import Parameter, Reparametrised, Stopped, TrackedValue
from lnb._program import Program, Recorder, Slice, Value


class Facts:
    """The program, its leaves, and the state of the search.

    The search writes them. Rules only read them, and add leaves (`reparametrise`).

    Fields:
        program: the program that is searched.
        shapes: of the leaves. Those of `params` are known by their place among the program's inputs, and reparametrised
            ones by numbers after all inputs.
        sizes: of the leaves, how many elements they have.
        ids: of the leaves, their elements' ids.
        values: of the leaves, their values in the program.
        reparametrised: of the leaves, those that are computed from others.
        absorbed: the places of the equations that compute reparametrised leaves from data too: what uses a leaf there
            is no use of its own.
        states: what is known of values that depend on parameters.
        data: the values that depend on data.
        ancestors: of each value, the leaves that it was computed from, as bits.
        carried: the values that follow from what a loop around the program carries.
        shape: of each value.
        recorder: what is recorded of the program.
        own_derivative: whether the program stands inside of a call that has a derivative of its own.
    """

    def __init__(
        self, program: Program, shapes: Mapping[int, jax.ShapeDtypeStruct], own_derivative: bool = False
    ) -> None:
        self.program = program
        self.own_derivative = own_derivative
        self.shapes = dict(shapes)
        self.sizes = {leaf: prod(shape.shape) for leaf, shape in shapes.items()}
        self.ids = ElementNumbers({leaf: shape.shape for leaf, shape in shapes.items()})
        self.values: dict[int, Value] = {leaf: program.inputs[leaf] for leaf in shapes}
        self.reparametrised: dict[int, Reparametrised] = {}
        self.absorbed: set[int] = set()
        self._weights: dict[Any, Parameter] = {}
        self.states: dict[Value, TrackedValue] = {}
        self.data: set[Value] = {v for v, constant in program.constants.items() if is_traced(constant)}
        self.ancestors: dict[Value, int] = {}
        self.carried: set[Value] = set()
        self.shape: list[tuple[int, ...]] = [tuple(getattr(aval, "shape", ())) for aval in program.avals]
        self.recorder = Recorder()

    def leaf(self, leaf: int) -> Parameter:
        """A leaf as it comes in."""
        return Parameter(self.values[leaf], (leaf,), tuple(self.shapes[leaf].shape), Leaf(leaf), self.ids)

    def roots(self, leaves: Sequence[int] | frozenset[int]) -> tuple[int, ...]:
        """The leaves of `params` among these, and those that the others are computed from."""
        found: dict[int, None] = {}
        for leaf in leaves:
            known = self.reparametrised.get(leaf)
            found.update(dict.fromkeys((leaf,) if known is None else sorted(known.roots)))
        return tuple(found)

    def add_leaf(self, shape: tuple[int, ...], dtype: Any, made: Reparametrised, value: Value | None = None) -> int:
        """Add a reparametrised leaf, and give its number; `value` is None for one of a region inside."""
        number = len(self.program.inputs) + len(self.reparametrised)
        self.shapes[number] = jax.ShapeDtypeStruct(shape, dtype)
        self.sizes[number] = prod(shape)
        self.ids.add(number, shape)
        self.values[number] = -number if value is None else value
        self.reparametrised[number] = made
        return number

    def reparametrise(
        self, value: Value, leaves: Sequence[int], repeated: Sequence[int] = (), *, absorbs: bool = False
    ) -> Parameter:
        """A leaf for a value that is computed from these leaves.

        Args:
            value: the value.
            leaves: the leaves; whatever else it is computed from is recorded as data.
            repeated: the axes along which the value repeats.
            absorbs: whether the leaves have met data on the way, in uses that belong to this computation.
        """
        key = (value, tuple(repeated))
        if key in self._weights:
            return self._weights[key]
        roots = self.roots(leaves)
        own, data = self._sources_of(value, {self.values[leaf]: leaf for leaf in (*roots, *leaves)})
        leaves, inputs = tuple(own.values()), tuple(own)
        shape, dtype = self.shape[value], self.program.avals[value].dtype
        kept = tuple(1 if axis in repeated else size for axis, size in enumerate(shape))
        part = Slice(self.program, (*inputs, *data), value)
        if absorbs:
            self.absorbed.update(self.program.makers[equation.outputs[0]] for equation in part.equations)
        function = Computed(part, leaves, kept)
        sources = tuple(self.recorder.index(each) for each in data)
        number = self.add_leaf(kept, dtype, Reparametrised(leaves, function, sources, frozenset(roots)), value)
        layout = Leaf(number) if kept == shape else Broadcast(Leaf(number), shape, tuple(range(len(shape))))
        self._weights[key] = Parameter(value, (number,), shape, layout, self.ids, distinct=kept == shape)
        return self._weights[key]

    def _sources_of(self, value: Value, leaves: Mapping[Value, int]) -> tuple[dict[Value, int], tuple[Value, ...]]:
        """Which of these leaves a value is computed from, and which values that do not depend on them."""
        bits = self._bits(tuple(leaves.values()))
        wanted, seen, own, data = [value], set[Value](), dict[Value, int](), list[Value]()
        while wanted:
            each = wanted.pop()
            if each in seen:
                continue
            seen.add(each)
            maker = self.program.makers.get(each)
            if each in leaves:
                own[each] = leaves[each]
            elif each in self.data and not self.ancestors.get(each, 0) & bits:
                data.append(each)
            elif maker is not None:
                wanted += self.program.equations[maker].inputs
        return own, tuple(data)

    def is_inexact(self, value: Value) -> bool:
        """Whether a value is of a floating-point or complex type."""
        return bool(jnp.issubdtype(self.program.avals[value].dtype, jnp.inexact))

    def is_constant(self, value: Value) -> bool:
        """Whether an activation depends on the program's constants alone."""
        return value not in self.data and self.states.get(value) is None

    def is_alone(self, values: Sequence[Value], states: Sequence[TrackedValue]) -> bool:
        """Whether these values, of these states, depend on parameters and constants alone."""
        return all(
            isinstance(state, (Parameter, Stopped)) or (state is None and self.is_constant(value))
            for value, state in zip(values, states, strict=True)
        )

    def constant(self, value: Value) -> Any:
        """The array of an activation that depends on the program's constants alone."""
        constants = self.program.constants
        if value not in constants:
            equation = self.program.equations[self.program.makers[value]]
            with jax.ensure_compile_time_eval():
                results = equation.bind([self.constant(v) for v in equation.inputs])
            constants.update(zip(equation.outputs, results, strict=True))
        return constants[value]

    def number(self, value: Value) -> complex | None:
        """The number that an activation is, if it is one constant number."""
        if not self.is_constant(value) or prod(self.shape[value]) != 1 or not self.is_inexact(value):
            return None
        number = complex(np.asarray(self.constant(value)).astype(np.complex128).reshape(()))
        return number if number.imag else number.real

    def is_complex(self, value: Value) -> bool:
        """Whether a value is of a complex type."""
        return bool(jnp.issubdtype(self.program.avals[value].dtype, jnp.complexfloating))

    def depends_on(self, value: Value, leaves: Sequence[int]) -> bool:
        """Whether an activation was computed from any of these leaves."""
        return bool(self.ancestors.get(value, 0) & self._bits(leaves))

    def depends_only_on(self, value: Value, leaves: Sequence[int]) -> bool:
        """Whether an activation was computed from no leaves but these."""
        return not self.ancestors.get(value, 0) & ~self._bits(leaves)

    def is_hidden(self, value: Value) -> bool:
        """Whether an activation depends on parameters, and moves as they are trained."""
        return bool(self.ancestors.get(value)) or value in self.carried

    def _bits(self, leaves: Sequence[int] | frozenset[int]) -> int:
        return sum(1 << leaf for leaf in self.roots(leaves))


@dataclass(frozen=True, eq=False)
class Computed:
    """A weight computed from leaves and from recorded data.

    Fields:
        slice: the equations, whose inputs are the leaves and then the data.
        leaves: the leaves.
        shape: of the weight. An axis of size 1 along which the value repeats has its first index.
    """

    slice: Slice
    leaves: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, leaves: Mapping[int, Any], data: Sequence[Any]) -> Any:
        value = self.slice([*(leaves[leaf] for leaf in self.leaves), *data])
        return value[tuple(slice(size) for size in self.shape)]
