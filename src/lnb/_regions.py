"""Equations that hold programs of their own: loops, branches, recomputed regions, calls with a derivative of their own.

A region is entered only when a parameter goes in. It is searched like a program of its own, whose leaves are the
parameters that go in, and evaluated so that what its neurons read comes out beside its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives
from jax.sharding import PartitionSpec

from lnb._combine import begin_identity
from lnb._linear_maps import absent
from lnb._program import (
    Equation,
    Program,
    Recorder,
    RegionRecord,
    RegionRule,
    read_program,
    scan_of,
    shard_map_of,
    unlisted,
)
from lnb._tracked import Nonlinear, Parameter
from lnb._uses import Passage

if TYPE_CHECKING:
    from lnb._search import Search, State


def enter(search: Search, equation: Equation, states: Sequence[State]) -> list[State] | None:
    """Search the region; the states of its outputs, or None for an equation that is no region that can be entered."""
    rule = _rules().get(equation.primitive)
    return rule(search, equation, states) if rule else None


def _call(
    search: Search, equation: Equation, states: Sequence[State], evaluate: Callable[[Program, Recorder], RegionRule]
) -> list[State] | None:
    """A region that runs once, on the equation's own inputs."""
    closed = equation.jaxprs
    if len(closed) != 1 or len(closed[0].jaxpr.invars) != len(equation.inputs):
        return None
    program = read_program(closed[0])
    inside = _search_inside(search, program, states)
    _lift(search, inside, states)
    if inside.recorder.entries:
        search.recorder.regions[search.position] = evaluate(program, inside.recorder)
    return list[Any]([None] * len(equation.outputs))


def _remat(search: Search, equation: Equation, states: Sequence[State]) -> list[State] | None:
    def evaluate(program: Program, recorder: Recorder) -> RegionRule:
        def run(equation: Equation, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            parameters = equation.parameters
            recomputed = jax.checkpoint(
                lambda *values: program.evaluate(values, recorder),
                prevent_cse=parameters["prevent_cse"],
                policy=parameters["policy"],
            )
            return recomputed(*inputs)

        return run

    return _call(search, equation, states, evaluate)


def _custom_derivative(search: Search, equation: Equation, states: Sequence[State]) -> list[State] | None:
    """The call keeps its derivative, so it is bound whole; what its neurons read is computed beside it."""

    def evaluate(program: Program, recorder: Recorder) -> RegionRule:
        def run(equation: Equation, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            _, recorded = program.evaluate([lax.stop_gradient(value) for value in inputs], recorder)
            return equation.bind(inputs), recorded

        return run

    return _call(search, equation, states, evaluate)


def _scan(search: Search, equation: Equation, states: Sequence[State]) -> list[State] | None:
    """A loop: weights that are scanned over are one neuron a step, weights that every step uses are one neuron."""
    avals = search.program.avals
    loop = scan_of(equation.parameters, [avals[v] for v in equation.inputs], [avals[v] for v in equation.outputs])
    program = read_program(loop.body)
    consts, carry = loop.consts, loop.carry
    scanned = range(consts + carry, len(equation.inputs))
    inner: list[State] = list(states)
    outputs: list[State] = [None] * len(equation.outputs)
    for k in range(carry):
        state = states[consts + k]
        if state is None:
            continue
        if program.outputs[k] == program.inputs[consts + k]:  # handed on unchanged: a constant of the loop
            outputs[k] = state
            continue
        inner[consts + k] = None
        if isinstance(state, Parameter):
            begin_identity(search, equation, consts + k)
    stacked = frozenset(k for k in scanned if states[k] is not None)
    inside = _search_inside(search, program, inner)
    _lift(search, inside, inner, steps=loop.length, stacked=stacked)
    if not inside.recorder.entries:
        return outputs

    def run(equation: Equation, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        def body(carried: list[Any], slices: list[Any]) -> tuple[list[Any], tuple[list[Any], list[Any]]]:
            results, recorded = program.evaluate([*inputs[:consts], *carried, *slices], inside.recorder)
            return results[:carry], (results[carry:], recorded)

        start, slices = list(inputs[consts : consts + carry]), list(inputs[consts + carry :])
        last, (stacks, recorded) = lax.scan(
            body, start, slices, length=loop.length, reverse=loop.reverse, unroll=loop.unroll
        )
        return [*last, *stacks], recorded

    search.recorder.regions[search.position] = run
    return outputs


def _cond(search: Search, equation: Equation, states: Sequence[State]) -> list[State] | None:
    """Branches: each is searched, and records zeros while another runs; its samples count only when it ran."""
    operands = list(states[1:])
    programs = [read_program(closed) for closed in equation.parameters["branches"]]
    insides = [_search_inside(search, program, operands) for program in programs]
    position, starts = search.position, [0]
    for inside in insides:
        starts.append(starts[-1] + len(inside.recorder.entries))
    for branch, inside in enumerate(insides):
        _lift(search, inside, operands, start=starts[branch], ran=starts[-1] + branch)
    if not starts[-1] and not any(inside.uses for inside in insides):
        return list[Any]([None] * len(equation.outputs))

    def run(equation: Equation, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        chosen, *values = inputs
        shapes = [
            jax.eval_shape(partial(program.evaluate, recorder=inside.recorder), values)[1]
            for program, inside in zip(programs, insides, strict=True)
        ]

        def branch(k: int) -> Callable[..., tuple[list[Any], list[Any]]]:
            def evaluate(*values: Any) -> tuple[list[Any], list[Any]]:
                outputs, recorded = programs[k].evaluate(values, insides[k].recorder)
                every = [[jnp.full(s.shape, absent(s.dtype), s.dtype) for s in other] for other in shapes]
                every[k] = recorded
                return outputs, [array for arrays in every for array in arrays]

            return evaluate

        outputs, recorded = lax.switch(chosen, [branch(k) for k in range(len(programs))], *values)
        ran = [(chosen == k).astype(jnp.zeros(()).dtype) for k in range(len(programs))]
        return outputs, [*recorded, *ran]

    search.recorder.regions[position] = run
    return list[Any]([None] * len(equation.outputs))


def _shard_map(search: Search, equation: Equation, states: Sequence[State]) -> list[State] | None:
    """A map over devices: a loop whose steps are the devices, which share the parameters that are replicated."""
    devices = shard_map_of(equation.parameters)
    program = read_program(devices.body)
    inner: list[State] = list(states)
    for k, (state, spec) in enumerate(zip(states, devices.in_specs, strict=True)):
        if isinstance(state, Parameter) and any(axis is not None for axis in spec):
            search.notes.add(state.leaves, "split over devices by `shard_map`: give it to the map replicated, `P()`")
            inner[k] = None
    inside = _search_inside(search, program, inner)
    axes = devices.axes
    _lift(search, inside, inner, steps=prod(devices.mesh.shape[axis] for axis in axes))
    outputs = list[Any]([None] * len(equation.outputs))
    if not inside.recorder.entries:
        return outputs

    def run(equation: Equation, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        def body(*values: Any) -> tuple[list[Any], list[Any]]:
            results, recorded = program.evaluate(values, inside.recorder)
            return results, [array[None] for array in recorded]

        by_device = [PartitionSpec(axes)] * len(inside.recorder.entries)
        mapped = jax.shard_map(
            body,
            mesh=devices.mesh,
            in_specs=devices.in_specs,
            out_specs=(list(devices.out_specs), by_device),
            axis_names=set(axes),
            check_vma=devices.check_vma,
        )
        return mapped(*inputs)

    search.recorder.regions[search.position] = run
    return outputs


def _search_inside(search: Search, program: Program, states: Sequence[State]) -> Search:
    """Search a region's program; its own leaves are the numbers of the inputs that parameters come in by."""
    shapes = {}
    for k, state in enumerate(states):
        if isinstance(state, Parameter):
            aval = program.avals[program.inputs[k]]
            shapes[k] = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    inside = search.inner(program, shapes)
    inner: dict[int, State] = {program.inputs[k]: inside.leaf(k) for k in shapes}
    for k, state in enumerate(states):
        if isinstance(state, Nonlinear):
            inner[program.inputs[k]] = Nonlinear(frozenset({k}), state.reason)
    inside.run(inner)
    for notes, outside in (
        (inside.notes.reasons, search.notes.reasons),
        (inside.notes.fatal, search.notes.fatal),
    ):
        for own, reason in notes.items():
            state = states[own]
            assert isinstance(state, (Parameter, Nonlinear))
            for leaf in state.leaves:
                outside.setdefault(leaf, reason)
    return inside


def _lift(
    search: Search,
    inside: Search,
    states: Sequence[State],
    steps: int | None = None,
    stacked: frozenset[int] = frozenset(),
    start: int = 0,
    ran: int = -1,
) -> None:
    """Keep what was found inside; `start` is where the region's record of it starts, `ran` of whether it ran."""
    position = search.position
    passage = Passage(
        parameters={k: state for k, state in enumerate(states) if isinstance(state, Parameter)},
        offsets=inside.offsets,
        source=lambda index: search.recorder.index(RegionRecord(position, start + index)),
        steps=steps,
        stacked=stacked,
        ran=search.recorder.index(RegionRecord(position, ran)) if ran >= 0 else -1,
    )
    search.uses.extend(passage.lift(use) for use in inside.uses)


@cache
def _rules() -> dict[Any, Callable[[Any, Equation, Sequence[Any]], list[Any] | None]]:
    return {
        primitives.scan_p: _scan,
        primitives.cond_p: _cond,
        unlisted().checkpoint: _remat,
        unlisted().shard_map: _shard_map,
        primitives.custom_jvp_call_p: _custom_derivative,
        primitives.custom_vjp_call_p: _custom_derivative,
    }
