"""Builds neurons under construction, with their weights in canonical form or kept as equations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from lnb._features._layout import Layout, Leaf, Reshape, Slice, Take, Transpose, ravel
from lnb._finding._element_ids import ElementIds, count_over
from lnb._finding._facts import Facts
from lnb._finding._values import Parameter, PartialNeuron, TrackedValue, WeightTerm
from lnb._program import Equation, Value


@dataclass(frozen=True)
class AxisRoles:
    """Which axes of an operation's output count (g, o) and which count n, and how far."""

    output_axes: tuple[int, ...]
    sample_axes: tuple[int, ...]
    groups: int
    outputs: int
    samples: int


def general_neuron(
    facts: Facts, equation: Equation, states: Sequence[TrackedValue], samples: int | None = None
) -> PartialNeuron:
    """Begin or continue a neuron that is kept as its equations.

    Args:
        facts: of the program.
        equation: the equation.
        states: of its inputs.
        samples: n; by default as if each sample used every parameter element once.
    """
    value = equation.outputs[0]
    leaves: dict[int, None] = {}
    features: dict[Value, None] = {}
    addends: dict[Value, None] = {}
    for given, state in zip(equation.inputs, states, strict=True):
        if isinstance(state, (Parameter, PartialNeuron)):
            leaves.update(dict.fromkeys(state.leaves))
            features.update(dict.fromkeys(state.features if isinstance(state, PartialNeuron) else ()))
            addends.update(dict.fromkeys(state.addends if isinstance(state, PartialNeuron) else ()))
        else:
            features[given] = None
    if samples is None:
        samples = max(1, prod(facts.shape[value]) // max(1, sum(facts.sizes[leaf] for leaf in leaves)))
    return PartialNeuron(
        value=value,
        leaves=tuple(leaves),
        features=tuple(features),
        shape=facts.shape[value],
        groups=1,
        outputs=1,
        samples=samples,
        constant=facts.data.isdisjoint(features),
        addends=tuple(value for value in addends if value not in features),
    )


def canonical_neuron(neuron: PartialNeuron, term: WeightTerm, roles: AxisRoles) -> PartialNeuron:
    """Put a neuron's only weight into canonical form."""
    shape = neuron.shape
    return replace(
        neuron,
        terms=(term,),
        output_ids=count_over([shape[a] for a in roles.output_axes], roles.output_axes, shape),
        sample_ids=count_over([shape[a] for a in roles.sample_axes], roles.sample_axes, shape),
        groups=roles.groups,
        outputs=roles.outputs,
        samples=roles.samples,
    )


def as_matrix(layout: Layout | None, order: Sequence[int], sizes: tuple[int, int, int]) -> Layout:
    """W [g, i, o] of a weight whose axes in `order` are (groups, inputs, outputs), of these sizes."""
    assert layout is not None
    return Reshape(Transpose(layout, tuple(order)), sizes)


def pack_elements(facts: Facts, parameter: Parameter, order: ElementIds, sizes: tuple[int, ...]) -> Layout:
    """Lay out the elements with these ids, in this order, in an array of these sizes."""
    if len(parameter.leaves) == 1:
        (leaf,) = parameter.leaves
        box = _box(order.ravel() - facts.ids.starts[leaf], facts.ids.shapes[leaf])
        if box is not None:
            return Reshape(Leaf(leaf) if order.size == facts.sizes[leaf] else Slice(Leaf(leaf), box), sizes)
    starts = np.cumsum([0, *(facts.sizes[leaf] for leaf in parameter.leaves)])
    places = order.ravel().copy()
    for leaf, start in zip(parameter.leaves, starts, strict=False):
        offset = facts.ids.starts[leaf]
        inside = (order.ravel() >= offset) & (order.ravel() < offset + facts.sizes[leaf])
        places[inside] += start - offset
    raveled = {leaf: facts.sizes[leaf] for leaf in parameter.leaves}
    if np.array_equal(places, np.arange(starts[-1])):
        return ravel(raveled, sizes)
    return Reshape(Take(ravel(raveled, (int(starts[-1]),)), places), sizes)


def _box(places: ElementIds, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], ...] | None:
    """Find the part [start:stop, ..] of an array whose raveled elements stand at these places, if there is one."""
    if not places.size:
        return None
    corners = zip(np.unravel_index(places[0], shape), np.unravel_index(places[-1], shape), strict=True)
    box = tuple((int(first), int(last) + 1, 1) for first, last in corners)
    if prod(stop - start for start, stop, _ in box) != places.size:
        return None
    inside = np.arange(prod(shape)).reshape(shape)[tuple(slice(*bounds) for bounds in box)]
    return box if np.array_equal(inside.ravel(), places) else None


def identity_neuron(facts: Facts, equation: Equation, parameter: Parameter, apart: bool = False) -> PartialNeuron:
    """Make a neuron of a parameter that is only added to data, or is set `apart` beside it.

    Its metric is the identity: each element is repeated for each sample.
    """
    shape = parameter.shape if apart else facts.shape[equation.outputs[0]]
    size = sum(facts.sizes[leaf] for leaf in parameter.leaves)
    return PartialNeuron(
        value=parameter.value,
        leaves=parameter.leaves,
        features=(),
        shape=shape,
        groups=size,
        outputs=1,
        samples=max(1, prod(shape) // max(1, size)),
        terms=() if parameter.is_arrangement and abs(parameter.factor) == 1.0 else None,
    )
