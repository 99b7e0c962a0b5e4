"""Scales: a parameter times an activation, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from lnb._features._layout import Concatenate
from lnb._finding._building import AxisRoles, canonical_neuron, general_neuron, pack_elements
from lnb._finding._element_ids import ElementIds, are_distinct, count_over, ids_along, varying_axes
from lnb._finding._facts import Facts
from lnb._finding._values import Parameter, PartialNeuron, TrackedValue, WeightTerm
from lnb._program import Equation


def scale(facts: Facts, equation: Equation, states: Sequence[TrackedValue], parameter: Parameter) -> PartialNeuron:
    """A scale in canonical form: g the parameter's elements, n every other axis, i = 1."""
    shape = facts.shape[equation.outputs[0]]
    order, axes = _elements(parameter, shape)
    if order is None:
        weight = facts.reparametrise(parameter.value, parameter.leaves)
        states = [weight if state is parameter else state for state in states]
        parameter = weight
        order, axes = _elements(parameter, shape)
        assert order is not None
    samples = tuple(a for a in range(len(shape)) if a not in axes)
    parts = [pack_elements(facts, parameter, order, (order.size, 1, 1))]
    if parameter.imaginary is not None:
        imaginary = ids_along(np.broadcast_to(parameter.imaginary.read(facts.ids), shape), axes)
        assert imaginary is not None
        parts.append(pack_elements(facts, parameter, imaginary, (order.size, 1, 1)))
    layout = parts[0] if len(parts) == 1 else Concatenate(tuple(parts), 1)
    is_complex = facts.is_complex(equation.outputs[0])
    term = WeightTerm("scale", parameter, layout, len(parts), None, None, is_complex)
    roles = AxisRoles(axes, samples, order.size, 1, prod(shape[a] for a in samples))
    neuron = general_neuron(facts, equation, states, roles.samples)
    return replace(canonical_neuron(neuron, term, roles), elementwise=True)


def _elements(parameter: Parameter, shape: tuple[int, ...]) -> tuple[ElementIds | None, tuple[int, ...]]:
    """The ids of a parameter's elements along the axes along which they vary; None where one appears twice."""
    ids = np.broadcast_to(parameter.element_ids, shape)
    axes = varying_axes(ids)
    order = ids_along(ids, axes)
    if parameter.imaginary is not None:
        imaginary = np.broadcast_to(parameter.imaginary.read(parameter.ids), shape)
        order = order if varying_axes(imaginary) == axes else None
    return (order if order is not None and are_distinct(order) else None), axes


def scale_again(neuron: PartialNeuron, product: PartialNeuron) -> PartialNeuron | None:
    """A scale's output times an activation with more samples: its elements repeat over the new axes."""
    if neuron.terms is None or neuron.output_ids is None or len(neuron.shape) != len(product.shape):
        return None
    output_ids = np.broadcast_to(neuron.output_ids, product.shape)
    axes = varying_axes(output_ids)
    samples = tuple(a for a in range(len(product.shape)) if a not in axes)
    sizes = [product.shape[a] for a in samples]
    return replace(
        product,
        terms=neuron.terms,
        output_ids=output_ids,
        sample_ids=count_over(sizes, samples, product.shape),
        groups=neuron.groups,
        outputs=1,
        samples=prod(sizes),
        elementwise=True,
    )
