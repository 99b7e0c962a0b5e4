"""Products in which each sample meets one of several weights: ragged products, and matrices that indices choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
from jax.extend.core import primitives

from lnb._features import DenseFeatures, EmbeddingFeatures, GroupsOfIndices, GroupsOfSizes
from lnb._features._layout import Reshape, Transpose
from lnb._finding._building import AxisRoles, as_matrix, general_neuron
from lnb._finding._element_ids import ElementIds, ids_along, varying_axes
from lnb._finding._facts import Facts
from lnb._finding._values import Parameter, PartialNeuron, Parting, TrackedValue, WeightTerm
from lnb._finding.rules import _dot
from lnb._program import Equation, ragged_dot_of

_Axes = tuple[int, ...]


def _axes(facts: Facts, equation: Equation) -> tuple[_Axes, _Axes] | None:
    """The free axes of the rows, and of the weight; None for a product of another form."""
    dot = ragged_dot_of(equation.parameters)
    if dot is None or len(facts.shape[equation.inputs[2]]) != 1:
        return None
    left, right = (range(len(facts.shape[value])) for value in equation.inputs[:2])
    free = tuple(a for a in left if a not in dot.contracted[0])
    return free, tuple(a for a in right if a not in (dot.groups, *dot.contracted[1]))


def roles(facts: Facts, equation: Equation, position: int) -> AxisRoles | None:
    """The rows that no axis of the output parts among the groups are n, equally many in the mean."""
    axes = _axes(facts, equation)
    if position != 1 or axes is None:
        return None
    free, outputs = axes
    rows, weight = (facts.shape[value] for value in equation.inputs[:2])
    groups = facts.shape[equation.inputs[2]][0]
    samples = -(-prod(rows[a] for a in free) // groups)
    return AxisRoles(None, tuple(range(len(free))), groups, prod(weight[a] for a in outputs), samples)


def term(facts: Facts, equation: Equation, position: int, parameter: Parameter) -> WeightTerm:
    """The weight W [g, i, o]; the contracted axes are i."""
    dot, axes = ragged_dot_of(equation.parameters), _axes(facts, equation)
    assert position == 1
    assert dot is not None
    assert axes is not None
    rows, sizes = equation.inputs[0], equation.inputs[2]
    free, outputs = axes
    shape = facts.shape[rows]
    parted = (dot.rows, *(a for a in free if a != dot.rows))  # the parted axis first
    inputs = prod(shape[a] for a in dot.contracted[0])
    groups = parameter.shape[dot.groups]
    order = (dot.groups, *dot.contracted[1], *outputs)
    layout = as_matrix(parameter.layout, order, (groups, inputs, prod(parameter.shape[a] for a in outputs)))
    features = DenseFeatures((), parted, dot.contracted[0], parameter.real_factor)
    total = prod(shape[a] for a in free)
    parting = Parting(sizes, GroupsOfSizes(shape[dot.rows]), total, total // shape[dot.rows], is_sorted=True)
    return WeightTerm("ragged", parameter, layout, inputs, features, rows, parting=parting)


def chosen(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> PartialNeuron | None:
    """The product of samples with a matrix for each of them, which indices have chosen out of a stack.

    None where it is not one, or where the matrices were cut or repeated since they were chosen.
    """
    position = 0 if isinstance(states[0], PartialNeuron) else 1
    neuron = states[position]
    if equation.primitive is not primitives.dot_general_p or not isinstance(neuron, PartialNeuron):
        return None
    if states[1 - position] is not None or not neuron.terms or neuron.output_ids is None or neuron.sample_ids is None:
        return None
    (lookup,) = neuron.terms
    if not isinstance(lookup.features, EmbeddingFeatures):
        return None
    assert lookup.source is not None
    batch, contracted, free = _dot.axes(facts, equation, position)
    of_element, of_index = varying_axes(neuron.output_ids), varying_axes(neuron.sample_ids)
    outputs = tuple(a for a in free[0] if a in of_element)
    choices = tuple(a for a in free[0] if a in of_index)
    elements = _numbered(neuron.output_ids, of_element, neuron.outputs)
    indices = _numbered(neuron.sample_ids, of_index, neuron.samples)
    shape, other = neuron.shape, equation.inputs[1 - position]
    rows = facts.shape[other]
    parted = set(of_element).isdisjoint((*of_index, *batch[0])) and set(of_index).isdisjoint(contracted[0])
    once = prod(shape) == neuron.outputs * neuron.samples
    if not parted or not once or elements is None or indices is None:
        return None
    inputs = prod(rows[a] for a in contracted[1])
    order = tuple(elements.index(a) for a in (*(a for a in contracted[0] if a in elements), *outputs))
    stack = Reshape(lookup.layout, (lookup.inputs, *(shape[a] for a in elements)))  # [g, *element axes]
    layout = Reshape(Transpose(stack, (0, *(1 + k for k in order))), (lookup.inputs, inputs, neuron.outputs // inputs))
    factor = lookup.features.factor * neuron.factor
    features = DenseFeatures((), batch[1] + free[1], contracted[1], factor)
    spread = prod(rows[a] for a in free[1])
    total = prod(rows[a] for a in batch[1]) * spread * prod(shape[a] for a in choices)
    axes = tuple(indices.index(a) for a in (*(a for a in batch[0] if a in indices), *choices))
    groups = GroupsOfIndices(replace(lookup.features, factor=1.0), tuple(shape[a] for a in indices), axes)
    parting = Parting(lookup.source, groups, total, spread)
    samples = -(-total // lookup.inputs)
    return replace(
        general_neuron(facts, equation, states, samples),
        terms=(WeightTerm("ragged", lookup.parameter, layout, inputs, features, other, parting=parting),),
        groups=lookup.inputs,
        outputs=neuron.outputs // inputs,
    )


def _numbered(ids: ElementIds, axes: _Axes, size: int) -> _Axes | None:
    """The axes in the order in which the ids count 0, 1, ... over them; None where they do not, up to this size."""
    order = tuple(sorted(axes, key=lambda a: -ids.strides[a]))
    along = ids_along(ids, axes)
    if along is None or not np.array_equal(along.transpose([axes.index(a) for a in order]).ravel(), np.arange(size)):
        return None
    return order
