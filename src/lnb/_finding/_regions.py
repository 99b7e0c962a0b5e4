"""Equations that hold programs of their own: loops, branches, recomputed regions, calls with a derivative of their own.

A region is entered only when a parameter goes in. It is searched like a program of its own, whose leaves are the
parameters that go in, and evaluated so that what its neurons read comes out beside its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives
from jax.sharding import PartitionSpec

from lnb._features import fill_value
from lnb._finding._building import identity_neuron
from lnb._finding._facts import Facts
from lnb._finding._uses import ParameterUse, RegionBoundary
from lnb._finding._values import Nonlinear, Parameter, PartialNeuron, TrackedValue, UncoveredReasons
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


@dataclass
class Found:
    """The findings of a search: uses of parameters, the values to record, and why leaves are not covered."""

    uses: list[ParameterUse] = field(default_factory=list)
    recorder: Recorder = field(default_factory=Recorder)
    reasons: UncoveredReasons = field(default_factory=UncoveredReasons)


Inside = Callable[[Facts, dict[int, TrackedValue]], Found]
"""Search the program of these facts, whose inputs have these states."""


@dataclass(frozen=True)
class Region:
    """An equation that holds programs, in the program around it.

    Fields:
        facts: of the program around.
        position: of the equation.
        equation: the equation.
        states: of its inputs.
        found: what is found is added to it.
        search: the search of a program.
    """

    facts: Facts
    position: int
    equation: Equation
    states: list[TrackedValue]
    found: Found
    search: Inside

    def search_inside(self, program: Program, states: Sequence[TrackedValue]) -> Found:
        """Search a program of the region; its leaves are numbered as the inputs that parameters come in by."""
        shapes = {}
        for k, state in enumerate(states):
            if isinstance(state, Parameter):
                aval = program.avals[program.inputs[k]]
                shapes[k] = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        facts = Facts(program, shapes)
        outside = self.equation.inputs[len(self.equation.inputs) - len(states) :]
        for value, outer in zip(program.inputs, outside, strict=True):
            if self.facts.ancestors.get(outer):  # as from a leaf that is none of the region's own
                facts.ancestors[value] = 1 << len(states)
        inside: dict[int, TrackedValue] = {program.inputs[k]: facts.leaf(k) for k in shapes}
        for k, state in enumerate(states):
            if isinstance(state, Nonlinear):
                inside[program.inputs[k]] = Nonlinear(frozenset({k}), state.reason)
        found = self.search(facts, inside)
        outside = self.found.reasons
        for own_reasons, reasons in (
            (found.reasons.reasons, outside.reasons),
            (found.reasons.excluded, outside.excluded),
        ):
            for own, reason in own_reasons.items():
                state = states[own]
                assert isinstance(state, (Parameter, Nonlinear))
                for leaf in state.leaves:
                    reasons.setdefault(leaf, reason)
        return found

    def lift(
        self,
        inside: Found,
        states: Sequence[TrackedValue],
        steps: int | None = None,
        stacked: frozenset[int] = frozenset(),
        start: int = 0,
        ran: int = -1,
    ) -> None:
        """Lift what was found inside out of the region.

        The region records it from `start` on, and at `ran` whether it ran.
        """
        recorder = self.found.recorder
        boundary = RegionBoundary(
            facts=self.facts,
            parameters={k: state for k, state in enumerate(states) if isinstance(state, Parameter)},
            source=lambda index: recorder.index(RegionRecord(self.position, start + index)),
            steps=steps,
            stacked=stacked,
            ran=recorder.index(RegionRecord(self.position, ran)) if ran >= 0 else -1,
        )
        self.found.uses.extend(boundary.lift(use) for use in inside.uses)

    def record(self, rule: RegionRule) -> None:
        """Evaluate the region by this rule, so that it records."""
        self.found.recorder.regions[self.position] = rule


Completed = tuple[PartialNeuron, ...]
"""The neurons that a region completes; its outputs are activations."""


def enter(region: Region) -> Completed | None:
    """Search the region; None for an equation that is no region that can be entered."""
    rule = _rules().get(region.equation.primitive)
    return rule(region) if rule else None


def _call(region: Region, evaluate: Callable[[Program, Recorder], RegionRule]) -> Completed | None:
    """A region that runs once, on the equation's own inputs."""
    closed = region.equation.jaxprs
    if len(closed) != 1 or len(closed[0].jaxpr.invars) != len(region.equation.inputs):
        return None
    program = read_program(closed[0])
    inside = region.search_inside(program, region.states)
    region.lift(inside, region.states)
    if inside.recorder.entries:
        region.record(evaluate(program, inside.recorder))
    return ()


def _remat(region: Region) -> Completed | None:
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

    return _call(region, evaluate)


def _custom_derivative(region: Region) -> Completed | None:
    """The call keeps its derivative, so it is bound whole; what its neurons read is computed beside it."""

    def evaluate(program: Program, recorder: Recorder) -> RegionRule:
        def run(equation: Equation, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            _, recorded = program.evaluate([lax.stop_gradient(value) for value in inputs], recorder)
            return equation.bind(inputs), recorded

        return run

    return _call(region, evaluate)


def _scan(region: Region) -> Completed:
    """A loop: weights that are scanned over are one neuron a step, weights that every step uses are one neuron."""
    equation, states, avals = region.equation, region.states, region.facts.program.avals
    loop = scan_of(equation.parameters, [avals[v] for v in equation.inputs], [avals[v] for v in equation.outputs])
    program = read_program(loop.body)
    consts, carry = loop.consts, loop.carry
    inner, completed = list(states), []
    for k in range(carry):
        state = states[consts + k]
        if state is None:
            continue
        inner[consts + k] = None
        if isinstance(state, Parameter):
            completed.append(identity_neuron(region.facts, equation, state, apart=True))
    stacked = frozenset(k for k in range(consts + carry, len(states)) if states[k] is not None)
    inside = region.search_inside(program, inner)
    region.lift(inside, inner, steps=loop.length, stacked=stacked)
    if not inside.recorder.entries:
        return tuple(completed)

    def run(equation: Equation, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        def body(carried: list[Any], slices: list[Any]) -> tuple[list[Any], tuple[list[Any], list[Any]]]:
            results, recorded = program.evaluate([*inputs[:consts], *carried, *slices], inside.recorder)
            return results[:carry], (results[carry:], recorded)

        start, slices = list(inputs[consts : consts + carry]), list(inputs[consts + carry :])
        last, (stacks, recorded) = lax.scan(
            body, start, slices, length=loop.length, reverse=loop.reverse, unroll=loop.unroll
        )
        return [*last, *stacks], recorded

    region.record(run)
    return tuple(completed)


def _cond(region: Region) -> Completed:
    """Branches: each is searched, and records zeros while another runs; its samples count only when it ran."""
    operands = region.states[1:]
    programs = [read_program(closed) for closed in region.equation.parameters["branches"]]
    insides = [region.search_inside(program, operands) for program in programs]
    starts = [0]
    for inside in insides:
        starts.append(starts[-1] + len(inside.recorder.entries))
    for branch, inside in enumerate(insides):
        region.lift(inside, operands, start=starts[branch], ran=starts[-1] + branch)
    if not starts[-1] and not any(inside.uses for inside in insides):
        return ()

    def run(equation: Equation, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        chosen, *values = inputs
        shapes = [
            jax.eval_shape(partial(program.evaluate, recorder=inside.recorder), values)[1]
            for program, inside in zip(programs, insides, strict=True)
        ]

        def branch(k: int) -> Callable[..., tuple[list[Any], list[Any]]]:
            def evaluate(*values: Any) -> tuple[list[Any], list[Any]]:
                outputs, recorded = programs[k].evaluate(values, insides[k].recorder)
                every = [[jnp.full(s.shape, fill_value(s.dtype), s.dtype) for s in other] for other in shapes]
                every[k] = recorded
                return outputs, [array for arrays in every for array in arrays]

            return evaluate

        outputs, recorded = lax.switch(chosen, [branch(k) for k in range(len(programs))], *values)
        ran = [(chosen == k).astype(jnp.zeros(()).dtype) for k in range(len(programs))]
        return outputs, [*recorded, *ran]

    region.record(run)
    return ()


def _shard_map(region: Region) -> Completed:
    """A map over devices: a loop whose steps are the devices, which share the parameters that are replicated."""
    devices = shard_map_of(region.equation.parameters)
    program = read_program(devices.body)
    inner = list(region.states)
    for k, (state, spec) in enumerate(zip(inner, devices.in_specs, strict=True)):
        if isinstance(state, Parameter) and any(axis is not None for axis in spec):
            for leaf in state.leaves:
                reason = "split over devices by `shard_map`: give it to the map replicated, `P()`"
                region.found.reasons.reasons.setdefault(leaf, reason)
            inner[k] = None
    inside = region.search_inside(program, inner)
    axes = devices.axes
    region.lift(inside, inner, steps=prod(devices.mesh.shape[axis] for axis in axes))
    if not inside.recorder.entries:
        return ()

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

    region.record(run)
    return ()


@cache
def _rules() -> dict[Any, Callable[[Region], Completed | None]]:
    return {
        primitives.scan_p: _scan,
        primitives.cond_p: _cond,
        unlisted().checkpoint: _remat,
        unlisted().shard_map: _shard_map,
        primitives.custom_jvp_call_p: _custom_derivative,
        primitives.custom_vjp_call_p: _custom_derivative,
    }
