"""JAX programs as numbered values: the only module that knows how JAX represents a traced function.

A traced function is read into a `Program`. Calls (`jax.jit`, whatever JAX names it this year) are inlined,
equal equations on equal inputs become one value, and equations that reach no output are dropped. A program is
evaluated equation by equation, and can hand out any of its values beside its outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.core import Tracer
from jax.extend.core import primitives
from jax.sharding import AbstractMesh, PartitionSpec

Value = int
"""A number of a value within its program."""


@dataclass(frozen=True, eq=False)
class Equation:
    """One operation of a program: its JAX primitive and parameters, and the numbers of what it reads and gives."""

    primitive: jex.Primitive
    parameters: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    effects: bool
    context: Any = None

    @property
    def name(self) -> str:
        """The name JAX prints for the operation; for messages only."""
        return self.primitive.name

    def bind(self, inputs: Sequence[Any]) -> list[Any]:
        """Apply the operation to arrays or tracers, its custom derivatives included."""
        parameters = self.primitive.get_bind_params(self.parameters)
        # Before JAX 0.9 the functions that a call binds come apart from its parameters.
        functions, parameters = parameters if isinstance(parameters, tuple) else ((), parameters)
        with getattr(self.context, "manager", None) or nullcontext():
            outputs = self.primitive.bind(*functions, *inputs, **parameters)
        return list(outputs) if self.primitive.multiple_results else [outputs]


@dataclass(eq=False)
class Program:
    """A traced function: `equations` in order, reading `inputs` and `constants`, giving `outputs`."""

    inputs: tuple[Value, ...]
    constants: dict[Value, Any]
    equations: list[Equation]
    outputs: tuple[Value, ...]
    avals: list[Any]

    def uses(self) -> Counter[Value]:
        """How often each value is read, being an output included."""
        counts = Counter(self.outputs)
        for equation in self.equations:
            counts.update(equation.inputs)
        return counts

    def shape(self, value: Value) -> tuple[int, ...]:
        """Shape of a value."""
        return tuple(self.avals[value].shape)

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
            if isinstance(entry, Derived):
                # Statistics are taken of what the pass computed; nothing is differentiated through them.
                features = [jax.lax.stop_gradient(recorded[source]) for source in entry.sources]
                recorded.append(entry.function(features))
            elif isinstance(entry, Inner):
                recorded.append(inner[entry.position][entry.index])
            else:
                recorded.append(environment[entry])
        return [environment[value] for value in self.outputs], recorded


@dataclass(frozen=True)
class Inner:
    """What the region at an equation records at an index."""

    position: int
    index: int


@dataclass(frozen=True, eq=False)
class Derived:
    """An array computed from recorded ones."""

    function: Callable[[Sequence[Any]], Any]
    sources: tuple[int, ...]


RegionRule = Callable[[Equation, Sequence[Any]], tuple[list[Any], list[Any]]]
"""Evaluates an equation that holds programs: its outputs, and what its programs record."""


@dataclass
class Recorder:
    """What an evaluation of a program hands out beside its outputs, and the rules for regions that record too."""

    entries: list[Value | Inner | Derived] = field(default_factory=list)
    regions: dict[int, RegionRule] = field(default_factory=dict)

    def index(self, entry: Value | Inner) -> int:
        """The place of this entry among what is recorded; it is added when it is new."""
        if entry not in self.entries:
            self.entries.append(entry)
        return self.entries.index(entry)

    def derive(self, function: Callable[[Sequence[Any]], Any], sources: tuple[int, ...]) -> int:
        """The place of a new array, computed from those recorded at `sources`."""
        self.entries.append(Derived(function, sources))
        return len(self.entries) - 1


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


def is_traced(array: Any) -> bool:
    """Whether an array's values are not known now, but belong to a trace around this one."""
    return isinstance(array, Tracer)


def jaxprs_of(equation: Equation) -> list[Any]:
    """The closed jaxprs among an equation's parameters, found by type."""
    found = []
    for parameter in equation.parameters.values():
        for item in parameter if isinstance(parameter, (tuple, list)) else (parameter,):
            if isinstance(item, jex.ClosedJaxpr):
                found.append(item)
            elif isinstance(item, jex.Jaxpr) and not item.constvars:
                found.append(jex.ClosedJaxpr(item, ()))
    return found


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
                key = (str(atom.aval), np.asarray(atom.val).tobytes())
                return self.constant(atom.val, atom.aval, key)
            return environment[atom]

        for eqn in jaxpr.eqns:
            arguments = tuple(read(atom) for atom in eqn.invars)
            called = _called(eqn)
            if called is not None:
                inner = [
                    self.constant(c, v.aval, id(c)) for c, v in zip(called.consts, called.jaxpr.constvars, strict=True)
                ]
                results: Sequence[Value] = self.inline(called.jaxpr, inner, arguments)
            else:
                results = self._apply(eqn, arguments)
            environment.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, eqn: Any, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        effects = bool(eqn.effects)
        key = (
            eqn.primitive,
            tuple((k, self._hashable(v)) for k, v in sorted(eqn.params.items())),
            inputs,
        )
        if effects or key not in self._numbers:
            outputs = tuple(self.new_value(variable.aval) for variable in eqn.outvars)
            self.equations.append(Equation(eqn.primitive, eqn.params, inputs, outputs, effects, eqn.ctx))
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


def _called(eqn: Any) -> Any | None:
    """The jaxpr that an equation merely calls: as many values in and out, of the same types, and no rule of its own."""
    if eqn.primitive in _CONTROL_FLOW:
        return None
    jaxprs = [p for p in eqn.params.values() if isinstance(p, jex.ClosedJaxpr)]
    if len(jaxprs) != 1 or any(isinstance(p, jex.Jaxpr) for p in eqn.params.values()):
        return None
    (called,) = jaxprs
    same_in = [_signature(v.aval) for v in called.jaxpr.invars] == [_signature(v.aval) for v in eqn.invars]
    same_out = [_signature(v.aval) for v in called.jaxpr.outvars] == [_signature(v.aval) for v in eqn.outvars]
    return called if same_in and same_out else None


def _first_equation(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Any:
    """The first equation that a function traces to."""
    return jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).jaxpr.eqns[0]


# Operations that JAX, or the oldest one supported, does not list.
CHECKPOINT = _first_equation(jax.checkpoint(lambda x: x + 1), ()).primitive
CHECKPOINT_NAME = _first_equation(lambda x: checkpoint_name(x, "name"), ()).primitive
_sharded_sum = _first_equation(
    jax.shard_map(
        jnp.add,
        mesh=AbstractMesh((1,), ("device",)),
        in_specs=(PartitionSpec(), PartitionSpec("device")),
        out_specs=PartitionSpec("device"),
    ),
    (1,),
    (1,),
)
SHARD_MAP = _sharded_sum.primitive
# What a value that all devices share passes through where it meets one that they do not.
VARY = _sharded_sum.params["jaxpr"].eqns[0].primitive

# What repeats, chooses, recomputes or differentiates its jaxpr in a way of its own: entered by _find, never inlined.
_CONTROL_FLOW = frozenset(
    {
        primitives.scan_p,
        primitives.while_p,
        primitives.cond_p,
        CHECKPOINT,
        SHARD_MAP,
        primitives.custom_jvp_call_p,
        primitives.custom_vjp_call_p,
        primitives.linear_solve_p,
    }
)


def _signature(aval: Any) -> tuple[Any, ...]:
    return (getattr(aval, "shape", None), getattr(aval, "dtype", None))


def _drop_dead(equations: Sequence[Equation], outputs: Sequence[Value]) -> list[Equation]:
    alive, kept = set(outputs), []
    for equation in reversed(equations):
        if equation.effects or alive.intersection(equation.outputs):
            alive.update(equation.inputs)
            kept.append(equation)
    return kept[::-1]


_linearity: dict[Hashable, bool] = {}


def is_linear_in(equation: Equation, avals: Sequence[Any], positions: Sequence[int]) -> bool:
    """Whether the operation is affine in the inputs at `positions` taken together, the others held fixed.

    Its derivative in these inputs, as JAX traces it, must not read them. Only outputs of an inexact type count.
    """
    shapes = [jax.ShapeDtypeStruct(avals[value].shape, avals[value].dtype) for value in equation.inputs]
    key = None
    try:
        signature = tuple((s.shape, s.dtype) for s in shapes)
        key = (
            equation.primitive,
            tuple(sorted(equation.parameters.items())),
            signature,
            tuple(positions),
        )
        if key in _linearity:
            return _linearity[key]
    except TypeError:
        key = None
    result = _derivative_is_constant(equation, shapes, tuple(positions))
    if key is not None:
        _linearity[key] = result
    return result


def _derivative_is_constant(equation: Equation, shapes: Sequence[Any], positions: tuple[int, ...]) -> bool:
    if not all(jnp.issubdtype(shapes[p].dtype, jnp.inexact) for p in positions):
        return False

    def derivative(inputs: list[Any], tangents: list[Any]) -> Any:
        def function(*chosen: Any) -> list[Any]:
            full = list(inputs)
            for position, value in zip(positions, chosen, strict=True):
                full[position] = value
            return [o for o in equation.bind(full) if jnp.issubdtype(o.dtype, jnp.inexact)]

        return jax.jvp(function, [inputs[p] for p in positions], tangents)[1]

    try:
        closed = jax.make_jaxpr(derivative)(list(shapes), [shapes[p] for p in positions])
    except (
        TypeError,
        NotImplementedError,
        NameError,
    ):  # no derivative in this mode, or one over the devices of a map, so nothing is known to be linear
        return False
    if not closed.jaxpr.outvars:
        return False
    program = read_program(closed)
    read = set(program.outputs).union(*(e.inputs for e in program.equations))
    tangent_inputs = program.inputs[len(shapes) :]
    # An operation whose derivative is zero (floor, stop_gradient) is flat, not linear.
    return bool(read.intersection(tangent_inputs)) and not read.intersection(program.inputs[p] for p in positions)
