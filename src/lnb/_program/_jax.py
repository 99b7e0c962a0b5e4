"""The facts about JAX's programs that everything else relies on, each stated once.

This is the only module that knows how a version of JAX writes a traced function down. Every fact has a test of its own
in `tests/program/test_jax.py`: a JAX that changes a fact breaks that test by name. A fact that does not hold for an
equation raises `NotUnderstoodError`, and the search then lists the equation's parameters with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from threading import Thread
from typing import Any

import jax
import jax.core
import jax.extend.core as jex
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import primitives
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec


class NotUnderstoodError(Exception):
    """An operation is not written down as it is known to be."""


class Parameters(dict[str, Any]):
    """An equation's parameters; one that is missing raises `NotUnderstoodError`."""

    def __missing__(self, key: str) -> Any:
        raise NotUnderstoodError(f"it has no `{key}`, but {', '.join(sorted(self)) or 'no parameters'}")


def close(parameter: Any) -> jex.ClosedJaxpr | None:
    """The parameter as a jaxpr that needs no constants, if it is one: JAX 0.11 made `Jaxpr` and `ClosedJaxpr` one."""
    if isinstance(parameter, jex.ClosedJaxpr):
        return parameter
    if isinstance(parameter, jex.Jaxpr) and not parameter.constvars:
        return jex.ClosedJaxpr(parameter, ())
    return None


def jaxprs_of(parameters: dict[str, Any]) -> list[jex.ClosedJaxpr]:
    """The closed jaxprs among an equation's parameters, or in a tuple or list there; found by type."""
    items: list[Any] = []
    for parameter in parameters.values():
        items += parameter if isinstance(parameter, (tuple, list)) else (parameter,)
    return [closed for item in items if (closed := close(item)) is not None]


def programs_of(jaxpr: Any) -> list[tuple[jex.ClosedJaxpr | None, tuple[jex.ClosedJaxpr, ...]]]:
    """For each equation, the jaxpr that it merely calls, if it does, and the jaxprs that it holds."""
    programs = [tuple(jaxprs_of(eqn.params)) for eqn in jaxpr.eqns]
    return [(called(eqn, held), held) for eqn, held in zip(jaxpr.eqns, programs, strict=True)]


def called(eqn: Any, held: Sequence[jex.ClosedJaxpr]) -> jex.ClosedJaxpr | None:
    """Find the jaxpr that an equation merely calls, as `jax.jit` does, among those that it holds.

    Neither a region, which repeats, recomputes or differentiates its jaxpr in a way of its own, nor a jaxpr that works
    on references is a call.
    """
    if len(held) != 1 or is_region(eqn.primitive):
        return None
    (jaxpr,) = held
    same_in = [_signature(v) for v in jaxpr.jaxpr.invars] == [_signature(v) for v in eqn.invars]
    same_out = [_signature(v) for v in jaxpr.jaxpr.outvars] == [_signature(v) for v in eqn.outvars]
    return jaxpr if same_in and same_out else None


def _signature(variable: Any) -> tuple[Any, ...]:
    return _signature_of(variable.aval)


def _signature_of(aval: Any) -> tuple[Any, ...]:
    return (type(aval), getattr(aval, "shape", None), getattr(aval, "dtype", None))


def bind(primitive: jex.Primitive, inputs: Sequence[Any], parameters: dict[str, Any], context: Any) -> list[Any]:
    """Apply an operation to arrays or tracers, its custom derivatives included."""
    parameters = primitive.get_bind_params(parameters)
    # Before JAX 0.9 the functions that a call binds come apart from its parameters.
    functions, parameters = parameters if isinstance(parameters, tuple) else ((), parameters)
    manager: AbstractContextManager[Any] = getattr(context, "manager", None) or nullcontext()
    with manager:
        outputs = primitive.bind(*functions, *inputs, **parameters)
    return list(outputs) if primitive.multiple_results else [outputs]


@dataclass(frozen=True)
class Scan:
    """A scan's body and operands, which are `consts` constants, `carry` carried values and the scanned arrays."""

    body: jex.ClosedJaxpr
    consts: int
    carry: int
    length: int
    reverse: bool
    unroll: Any


def scan_of(parameters: Parameters, inputs: Sequence[Any], outputs: Sequence[Any]) -> Scan:
    """Read a scan's parts from the shapes of its inputs and outputs: only scanned arrays have one axis more outside.

    JAX 0.11 renamed the parameters that count them.
    """
    body, length = parameters["jaxpr"], parameters["length"]
    scanned = [_is_stack(outer, inner, length) for outer, inner in zip(inputs, body.in_avals, strict=True)]
    stacks = [_is_stack(outer, inner, length) for outer, inner in zip(outputs, body.out_avals, strict=True)]
    carry = stacks.count(False)
    consts = scanned.count(False) - carry
    if consts < 0 or any(scanned[: consts + carry]) or any(stacks[:carry]):
        raise NotUnderstoodError("its operands are not constants, carried values and scanned arrays, in this order")
    return Scan(body, consts, carry, length, parameters["reverse"], parameters["unroll"])


def _is_stack(outer: Any, inner: Any, length: int) -> bool:
    return outer.shape == (length, *inner.shape)


@dataclass(frozen=True)
class While:
    """A loop of unknown length, whose operands are the condition's constants, the body's, and the carried values."""

    condition: jex.ClosedJaxpr
    body: jex.ClosedJaxpr
    condition_consts: int
    body_consts: int


def while_of(parameters: Parameters, inputs: Sequence[Any], outputs: Sequence[Any]) -> While:
    """Read a loop's parts: both its programs read constants of their own, and the carried values after them."""
    condition, body = (close(parameters[name]) for name in ("cond_jaxpr", "body_jaxpr"))
    if condition is None or body is None:
        raise NotUnderstoodError("its condition or its body is no program")
    counts = [len(program.in_avals) - len(outputs) for program in (condition, body)]
    shapes = [_signature_of(aval) for aval in inputs]
    expected = [
        aval for avals in (condition.in_avals[: counts[0]], body.in_avals) for aval in map(_signature_of, avals)
    ]
    if min(counts) < 0 or shapes != expected:
        raise NotUnderstoodError("its operands are not constants and carried values, in this order")
    return While(condition, body, *counts)


@dataclass(frozen=True)
class ShardMap:
    """A map over devices: `axes` are the mesh axes that it maps over."""

    body: jex.ClosedJaxpr
    mesh: Any
    in_specs: tuple[Any, ...]
    out_specs: tuple[Any, ...]
    axes: tuple[str, ...]
    check_vma: bool


def shard_map_of(parameters: Parameters) -> ShardMap:
    """The parts of a `shard_map`; JAX has renamed its axes, but they are its only set."""
    axes = [value for value in parameters.values() if isinstance(value, frozenset)]
    jaxprs = jaxprs_of(parameters)
    if len(axes) != 1 or len(jaxprs) != 1:
        raise NotUnderstoodError(f"it has {len(jaxprs)} programs and {len(axes)} sets of axes")
    names = ("mesh", "in_specs", "out_specs", "check_vma")
    mesh, in_specs, out_specs, check_vma = (parameters[name] for name in names)
    return ShardMap(jaxprs[0], mesh, tuple(in_specs), tuple(out_specs), tuple(sorted(axes[0])), check_vma)


@dataclass(frozen=True)
class RaggedDot:
    """A product in which each row of the left operand meets one of the right operand's matrices.

    Fields:
        rows: the left operand's axis whose rows are parted, in order, among the groups.
        groups: the right operand's axis of groups.
        contracted: the axes summed over, of the left and of the right operand.
    """

    rows: int
    groups: int
    contracted: tuple[tuple[int, ...], tuple[int, ...]]


def ragged_dot_of(parameters: Parameters) -> RaggedDot | None:
    """The axes of a ragged product; None for one of another mode, or with batch axes, or with an offset of its groups.

    Its operands are the left one, the right one and the sizes of the groups. The product has the left operand's free
    axes first, then the right one's.
    """
    numbers = parameters["ragged_dot_dimension_numbers"]
    contracted, batch = numbers.dot_dimension_numbers
    rows, groups = tuple(numbers.lhs_ragged_dimensions), tuple(numbers.rhs_group_dimensions)
    parts_rows = len(rows) == len(groups) == 1 and rows[0] not in contracted[0]
    if not parts_rows or any(map(len, batch)) or parameters["group_offset"] is not None:
        return None
    return RaggedDot(rows[0], groups[0], (tuple(contracted[0]), tuple(contracted[1])))


@dataclass(frozen=True)
class Unlisted:
    """Operations that some supported version of JAX does not export; None for one that its example does not hold.

    Fields:
        checkpoint: of `jax.checkpoint`.
        name: of `checkpoint_name`.
        shard_map: of `jax.shard_map`.
        split: of `jnp.split`.
        vary: the mark of a value that all devices of a map share, where it meets one that they do not.
        ragged_dot: of `jax.lax.ragged_dot`.
        unstack: of `jax.lax.unstack`.
        reshard: of `jax.sharding.reshard`.
    """

    checkpoint: Any
    name: Any
    shard_map: Any
    split: Any
    vary: Any
    ragged_dot: Any
    unstack: Any
    reshard: Any


@cache
def unlisted() -> Unlisted:
    """Find the operations in small examples, which are traced when they are first asked for.

    They are traced in a thread of their own, where no trace and no mesh of the caller's is in force.
    """
    found = []
    thread = Thread(target=lambda: found.append(_unlisted()))
    thread.start()
    thread.join()
    return found[0]


def _unlisted() -> Unlisted:
    mapped = _example(_over_devices)
    inside = [jaxpr.eqns[0] for jaxpr in jaxprs_of(mapped.params)] if mapped else []
    return Unlisted(
        checkpoint=_primitive(_example(jax.checkpoint(jnp.sin))),
        name=_primitive(_example(lambda x: checkpoint_name(x, "name"))),
        shard_map=_primitive(mapped),
        split=_primitive(_example(lambda x: jax.lax.split(x, (1,)))),
        vary=_primitive(inside[0] if inside else None),
        ragged_dot=_primitive(_example(lambda x: jax.lax.ragged_dot(x[None], x[None, None], jnp.ones(1, jnp.int32)))),
        unstack=_primitive(_example(lambda x: jax.lax.unstack(x))),
        reshard=_primitive(_example(_laid_out)),
    )


def _mesh(kind: AxisType) -> AbstractMesh:
    return AbstractMesh((1,), ("device",), axis_types=(kind,))


def _over_devices(x: Any) -> Any:
    split, whole = PartitionSpec("device"), PartitionSpec()
    return jax.shard_map(jnp.add, mesh=_mesh(AxisType.Auto), in_specs=(whole, split), out_specs=split)(x, x)


def _laid_out(x: Any) -> Any:
    return jax.sharding.reshard(x, NamedSharding(_mesh(AxisType.Explicit), PartitionSpec()))


def _example(function: Callable[[Any], Any]) -> Any:
    """The last equation that a function of one number traces to; None where this JAX refuses it."""
    try:
        return jax.make_jaxpr(function)(jax.ShapeDtypeStruct((1,), jnp.float32)).jaxpr.eqns[-1]
    except (TypeError, ValueError, AttributeError, IndexError, NotImplementedError):
        return None


def _primitive(eqn: Any) -> Any:
    return None if eqn is None else eqn.primitive


@cache
def _regions() -> frozenset[Any]:
    return frozenset(
        {
            primitives.scan_p,
            primitives.while_p,
            primitives.cond_p,
            primitives.custom_jvp_call_p,
            primitives.custom_vjp_call_p,
            primitives.linear_solve_p,
            unlisted().checkpoint,
            unlisted().shard_map,
        }
    )


def is_region(primitive: Any) -> bool:
    """Whether an operation runs its jaxpr in a way of its own: the search may enter it, and it is never inlined."""
    return primitive in _regions()


def axes_in_scope() -> tuple[Any, ...]:
    """The names of the mapped axes in force, of `shard_map`, `pmap` and `vmap` alike.

    JAX exports them for its own libraries, first from `jax.core` and later from `jax.extend.core`. Without, the axes of
    `vmap` are missing.
    """
    name = "unsafe_get_axis_names_DO_NOT_USE"
    exported = getattr(jex, name, None) or getattr(jax.core, name, None)
    return tuple(exported()) if exported else jax.sharding.get_abstract_mesh().manual_axes


def varying_axes(array: Any) -> frozenset[Any]:
    """The mapped axes that an array may differ along by its type; none but in a `shard_map` that checks types.

    JAX 0.10 moved them into an attribute of the type's own.
    """
    kind = jax.typeof(array)
    return kind.mat.varying if hasattr(kind, "mat") else getattr(kind, "vma", frozenset())
