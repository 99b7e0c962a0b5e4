"""Equations that hold programs of their own: loops, branches, recomputed regions, calls with a derivative of their own.

A region is entered only when a parameter goes in. It is searched like a program of its own, whose leaves are the
parameters that go in, and evaluated so that what its neurons read comes out beside its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from lnb._finding._iterations import SLOTS, keep, slot_weights
from lnb._finding._uses import ParameterUse, RegionBoundary
from lnb._finding._values import Outcome, Parameter, PartialNeuron, Stopped, TrackedValue, UncoveredReasons
from lnb._finding.rules._nonlinear import computed
from lnb._program import (
    Equation,
    Program,
    Recorder,
    RegionRecord,
    RegionRule,
    Value,
    read_program,
    scan_of,
    shard_map_of,
    unlisted,
    while_of,
)


@dataclass
class Found:
    """The findings of a search.

    Fields:
        facts: of the program; they have its recorder, and the leaves that it computes from others.
        uses: of parameters.
        reasons: why leaves are not covered.
        outputs: the states of the program's outputs.
    """

    facts: Facts
    uses: list[ParameterUse] = field(default_factory=list)
    reasons: UncoveredReasons = field(default_factory=UncoveredReasons)
    outputs: tuple[TrackedValue, ...] = ()

    @property
    def recorder(self) -> Recorder:
        """What is recorded of the program."""
        return self.facts.recorder


Inside = Callable[[Facts, dict[int, TrackedValue], Sequence[int]], Found]
"""Search the program of these facts, whose inputs have these states, and of whose outputs these are differentiated."""


@dataclass(frozen=True)
class Region:
    """An equation that holds programs, in the program around it.

    Fields:
        facts: of the program around.
        position: of the equation.
        equation: the equation.
        states: of its inputs.
        differentiated: of each output, whether the loss depends on it.
        found: what is found is added to it.
        search: the search of a program.
        passed_on: the leaves of outputs that are weights inside, computed from these.
    """

    facts: Facts
    position: int
    equation: Equation
    states: list[TrackedValue]
    differentiated: tuple[bool, ...]
    found: Found
    search: Inside
    passed_on: dict[Value, tuple[int, ...]] = field(default_factory=dict)

    def search_inside(
        self,
        program: Program,
        states: Sequence[TrackedValue],
        *,
        carried: range | None = None,
        own_derivative: bool = False,
    ) -> Found:
        """Search a program of the region; its leaves are numbered as the inputs that parameters come in by.

        Args:
            program: the program.
            states: of its inputs.
            carried: of a loop's body, the inputs that its outputs go into again, so that the loss depends on all of its
                outputs or on none.
            own_derivative: whether the region has a derivative of its own.
        """
        shapes = {}
        for k, state in enumerate(states):
            if isinstance(state, Parameter):
                aval = program.avals[program.inputs[k]]
                shapes[k] = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        facts = Facts(program, shapes, own_derivative or self.facts.own_derivative)
        outside = self.equation.inputs[len(self.equation.inputs) - len(states) :]
        for value, outer in zip(program.inputs, outside, strict=True):
            if self.facts.ancestors.get(outer):  # as from a leaf that is none of the region's own
                facts.ancestors[value] = 1 << len(states)
            if outer in self.facts.carried:
                facts.carried.add(value)
        facts.carried.update(v for v in (program.inputs[k] for k in carried or ()) if facts.is_inexact(v))
        inside: dict[int, TrackedValue] = {program.inputs[k]: facts.leaf(k) for k in shapes}
        inside.update((program.inputs[k], state) for k, state in enumerate(states) if isinstance(state, Stopped))
        live = self.differentiated if carried is None else [any(self.differentiated)] * len(program.outputs)
        found = self.search(facts, inside, [v for v, is_live in zip(program.outputs, live, strict=True) if is_live])
        outside = self.found.reasons
        for own_reasons, reasons in (
            (found.reasons.reasons, outside.reasons),
            (found.reasons.excluded, outside.excluded),
        ):
            for own, reason in own_reasons.items():
                for leaf in self.facts.roots(_leaves_of(states[own])):
                    reasons.setdefault(leaf, reason)
        for value, output in zip(self.equation.outputs, program.outputs, strict=True):
            own_state = facts.states.get(output)
            if isinstance(own_state, Parameter):
                leaves = (leaf for own in facts.roots(own_state.leaves) for leaf in _leaves_of(states[own]))
                self.passed_on[value] = tuple(dict.fromkeys((*self.passed_on.get(value, ()), *leaves)))
        return found

    def lift(
        self,
        inside: Found,
        states: Sequence[TrackedValue],
        steps: int | None = None,
        stacked: frozenset[int] = frozenset(),
        start: int = 0,
        ran: int = -1,
        weights: Mapping[int, int] | None = None,
    ) -> None:
        """Lift what was found inside out of the region.

        The region records it from `start` on, and at `ran` whether it ran, or how many iterations each slot stands for.
        The weights that it has inside are recorded at `weights`, times those at `ran`.
        """
        recorder = self.found.recorder
        boundary = RegionBoundary(
            facts=self.facts,
            parameters={k: state for k, state in enumerate(states) if isinstance(state, Parameter)},
            source=lambda index: recorder.index(RegionRecord(self.position, start + index)),
            derive=recorder.derive,
            steps=steps,
            stacked=stacked,
            ran=recorder.index(RegionRecord(self.position, ran)) if ran >= 0 else -1,
            weights=weights or {},
        )
        boundary = boundary.with_leaves(inside.facts)
        self.found.uses.extend(boundary.lift(use) for use in inside.uses)

    def record(self, rule: RegionRule) -> None:
        """Evaluate the region by this rule, so that it records."""
        self.found.recorder.regions[self.position] = rule


def _leaves_of(state: TrackedValue) -> tuple[int, ...]:
    return state.leaves if isinstance(state, Parameter) else ()


Completed = tuple[PartialNeuron, ...]
"""The neurons that a region completes; its outputs are activations."""


def enter(region: Region) -> Completed | None:
    """Search the region; None for an equation that is no region that can be entered."""
    rule = _rules().get(region.equation.primitive)
    return rule(region) if rule else None


def weights_of(region: Region) -> Outcome | None:
    """The outputs of a call that parameters and constants alone go into, if each is a weight that they give."""
    facts, equation, states = region.facts, region.equation, region.states
    if _rules().get(equation.primitive) not in (_remat, _custom_derivative):
        return None
    program = read_program(equation.jaxprs[0])
    inside: dict[int, TrackedValue] = {}
    shapes = {}
    for k, (value, state) in enumerate(zip(equation.inputs, states, strict=True)):
        own = program.inputs[k]
        if isinstance(state, Parameter):
            shapes[k] = jax.ShapeDtypeStruct(facts.shape[value], facts.program.avals[value].dtype)
        elif state is None:
            program.constants[own] = facts.constant(value)
        else:
            inside[own] = state
    own_facts = Facts(program, shapes)
    inside.update((program.inputs[k], own_facts.leaf(k)) for k in shapes)
    found = region.search(own_facts, inside, program.outputs)
    if not all(isinstance(state, (Parameter, Stopped)) for state in found.outputs):
        return None
    leaves = dict.fromkeys(leaf for state in states if isinstance(state, Parameter) for leaf in state.leaves)
    return Outcome(states=computed(facts, equation, states, tuple(leaves)))


def _call(
    region: Region, evaluate: Callable[[Program, Recorder], RegionRule], own_derivative: bool = False
) -> Completed | None:
    """A region that runs once, on the equation's own inputs."""
    closed = region.equation.jaxprs
    if len(closed) != 1 or len(closed[0].jaxpr.invars) != len(region.equation.inputs):
        return None
    program = read_program(closed[0])
    inside = region.search_inside(program, region.states, own_derivative=own_derivative)
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

    return _call(region, evaluate, own_derivative=True)


def _scan(region: Region) -> Completed:
    """A loop: weights that are scanned over are one neuron a step, weights that every step uses are one neuron."""
    equation, states, avals = region.equation, region.states, region.facts.program.avals
    loop = scan_of(equation.parameters, [avals[v] for v in equation.inputs], [avals[v] for v in equation.outputs])
    program = read_program(loop.body)
    consts, carry = loop.consts, loop.carry
    inner = list(states)
    inner[consts : consts + carry] = [None] * carry
    completed = _carried(region, states[consts : consts + carry])
    stacked = frozenset(k for k in range(consts + carry, len(states)) if states[k] is not None)
    inside = region.search_inside(program, inner, carried=range(consts, consts + carry))
    region.lift(inside, inner, steps=loop.length, stacked=stacked)
    if not inside.recorder.entries:
        return completed

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
    return completed


def _carried(region: Region, states: Sequence[TrackedValue]) -> Completed:
    """The neurons of what a loop starts from: a parameter there is set beside data."""
    parameters = (state for state in states if isinstance(state, Parameter))
    return tuple(identity_neuron(region.facts, region.equation, state, apart=True) for state in parameters)


def _while(region: Region) -> Completed:
    """A loop of unknown length, whose weights every iteration shares: it records some of its iterations.

    It has no reverse derivative, so that what it uses counts only inside of a call that has a derivative of its own.
    Nothing is differentiated through its condition.
    """
    equation, states, avals = region.equation, region.states, region.facts.program.avals
    if not region.facts.own_derivative:
        for state in states:
            for leaf in region.facts.roots(_leaves_of(state)):
                reason = f"used inside a `{equation.name}`, which has no reverse derivative"
                region.found.reasons.reasons.setdefault(leaf, reason)
        return ()
    loop = while_of(equation.parameters, [avals[v] for v in equation.inputs], [avals[v] for v in equation.outputs])
    condition, program = read_program(loop.condition), read_program(loop.body)
    first, start = loop.condition_consts, loop.condition_consts + loop.body_consts
    completed = _carried(region, states[start:])
    inner = [*states[first:start], *[None] * len(states[start:])]
    inside = region.search_inside(program, inner, carried=range(start - first, len(inner)))
    if not inside.uses:
        return completed
    count = len(inside.recorder.entries)
    weighted = sorted({use.weight_source for use in inside.uses if use.weight_source >= 0})
    weights = {source: count + 1 + k for k, source in enumerate(weighted)}
    region.lift(inside, inner, steps=SLOTS, ran=count, weights=weights)

    def run(equation: Equation, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        consts, begin = inputs[first:start], list(inputs[start:])
        shapes = jax.eval_shape(partial(program.evaluate, recorder=inside.recorder), [*consts, *begin])[1]

        def goes_on(carried: list[Any]) -> Any:
            return condition.evaluate([*inputs[:first], *carried])[0][0]

        def iterate(state: tuple[Any, list[Any], list[Any]]) -> tuple[Any, list[Any], list[Any]]:
            iteration, carried, slots = state
            results, recorded = program.evaluate([*consts, *carried], inside.recorder)
            recorded, runs = lax.stop_gradient(recorded), goes_on(carried)
            if runs.ndim:  # of a `vmap`: an example that has ended keeps its values while others go on
                masks = [runs.reshape(*runs.shape, *[1] * (new.ndim - runs.ndim)) for new in results]
                results = [jnp.where(*each) for each in zip(masks, results, carried, strict=True)]
            slots = [keep(own, array, iteration) for own, array in zip(slots, recorded, strict=True)]
            return iteration + 1, results, slots

        slots = [lax.full_like(s, fill_value(s.dtype), shape=(SLOTS, *s.shape)) for s in shapes]
        start_state = (jnp.zeros((), jnp.int32), begin, slots)
        ran, last, slots = lax.while_loop(lambda state: goes_on(state[1]).any(), iterate, start_state)
        each = slot_weights(ran)  # [slot]
        products = [slots[k] * each.reshape(-1, *[1] * (slots[k].ndim - 1)) for k in weighted]
        return last, [*slots, each, *products]

    region.record(run)
    return completed


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
            for leaf in region.facts.roots(state.leaves):
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
        primitives.while_p: _while,
        primitives.cond_p: _cond,
        unlisted().checkpoint: _remat,
        unlisted().shard_map: _shard_map,
        primitives.custom_jvp_call_p: _custom_derivative,
        primitives.custom_vjp_call_p: _custom_derivative,
    }
