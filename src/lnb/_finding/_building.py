"""Builds neurons under construction, with their weights in canonical form or kept as equations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from lnb._features._layout import Layout, Leaf, Reshape, Slice, Take, Transpose, ravel
from lnb._finding._element_ids import ElementIds, count_over, ids_along, varying_axes
from lnb._finding._facts import Facts
from lnb._finding._values import Parameter, PartialNeuron, TrackedValue, WeightTerm
from lnb._program import Equation, Value


@dataclass(frozen=True)
class AxisRoles:
    """Which axes of an operation's output count (g, o) and which count n, and how far.

    `output_axes` is None where g is not counted by axes.
    """

    output_axes: tuple[int, ...] | None
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
        samples: n; by default as `samples_of` has it.
    """
    value = equation.outputs[0]
    leaves: dict[int, None] = {}
    features: dict[Value, None] = {}
    elements = 0
    for given, state in zip(equation.inputs, states, strict=True):
        if isinstance(state, (Parameter, PartialNeuron)):
            leaves.update(dict.fromkeys(state.leaves))
            features.update(dict.fromkeys(state.features if isinstance(state, PartialNeuron) else ()))
            elements += state.elements if isinstance(state, PartialNeuron) else _own_size(facts, state)
        else:
            features[given] = None
    if samples is None:
        samples = samples_of(facts, equation, states)
    return PartialNeuron(
        value=value,
        leaves=tuple(leaves),
        features=tuple(features),
        shape=facts.shape[value],
        groups=1,
        outputs=1,
        samples=samples,
        elements=elements,
        constant=facts.data.isdisjoint(features),
    )


def samples_of(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> int:
    """n of an operation that is linear in its parameters, and has no canonical form.

    Where an operation works element by element, or sets parameters beside data, a parameter element has a sample for
    each time that it is repeated. Elsewhere the samples are the leading axes that the output shares with the data.
    """
    shape = facts.shape[equation.outputs[0]]
    given = [facts.shape[value] for value in equation.inputs]
    parameters = [state for state in states if isinstance(state, Parameter)]
    if all(len(sizes) == len(shape) and _fits(sizes, shape) for sizes in given if sizes):
        return max(1, prod(shape) // min(_own_size(facts, parameter) for parameter in parameters))
    repeats = max(prod(parameter.shape) // _own_size(facts, parameter) for parameter in parameters)
    if repeats > 1 or shape in given:
        return max(1, repeats)
    data = [sizes for sizes, state in zip(given, states, strict=True) if state is None]
    return max((_shared(shape, sizes) for sizes in data), default=1)


def _fits(sizes: Sequence[int], shape: Sequence[int]) -> bool:
    return all(size in (1, length) for size, length in zip(sizes, shape, strict=True))


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """The elements of the leading axes that two shapes have in common."""
    pairs = list(zip(first, second, strict=False))
    differ = next((k for k, (one, other) in enumerate(pairs) if one != other), len(pairs))
    return max(1, prod(first[:differ]))


def _own_size(facts: Facts, parameter: Parameter) -> int:
    """How many parameter elements a value is made of; where they are lost, its size before it was repeated."""
    size = prod(parameter.shape)
    if parameter.distinct or not size:
        return max(1, size)
    ids = parameter.element_ids
    if ids is not None:
        along = ids_along(ids, varying_axes(ids))
        return np.unique(ids if along is None else along).size
    program, value = facts.program, parameter.value
    while value in program.makers:
        inputs = program.equations[program.makers[value]].inputs
        if len(inputs) != 1 or prod(facts.shape[inputs[0]]) > size:
            break
        (value,) = inputs
        size = prod(facts.shape[value])
    return max(1, min(size, sum(facts.sizes[leaf] for leaf in parameter.leaves)))


def repeats_in_product(facts: Facts, parameter: Parameter, contracted: Sequence[int]) -> float:
    """How many outputs of a product's every sample read each parameter element, next to those of a matrix.

    An element that appears several times along the contracted axes is read once.
    """
    ids = parameter.element_ids
    if parameter.distinct or ids is None:
        return 1.0
    varying = varying_axes(ids)
    kept = ids[tuple(slice(None) if a in varying else slice(0, 1) for a in range(ids.ndim))]
    repeated = prod(ids.shape[a] for a in range(ids.ndim) if a not in varying and a not in contracted)
    columns = np.sort(
        np.moveaxis(kept, list(contracted), range(len(contracted))).reshape(
            prod(kept.shape[a] for a in contracted), -1
        ),
        axis=0,
    )
    different = columns.shape[1] + np.count_nonzero(np.diff(columns, axis=0))
    return repeated * different / np.unique(kept).size


def canonical_neuron(neuron: PartialNeuron, term: WeightTerm, roles: AxisRoles) -> PartialNeuron:
    """Put a neuron's only weight into canonical form."""
    shape, axes = neuron.shape, roles.output_axes
    return replace(
        neuron,
        terms=(term,),
        output_ids=None if axes is None else count_over([shape[a] for a in axes], axes, shape),
        sample_ids=None
        if axes is None
        else count_over([shape[a] for a in roles.sample_axes], roles.sample_axes, shape),
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
