"""Scales: a parameter times an activation, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from lnb._finding._building import AxisRoles, canonical_neuron, general_neuron, pack_elements
from lnb._finding._element_ids import count_over, ids_along, varying_axes
from lnb._finding._facts import Facts
from lnb._finding._values import Parameter, PartialNeuron, TrackedValue, WeightTerm
from lnb._program import Equation


def scale(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> PartialNeuron | None:
    """A scale in canonical form: g the parameter's elements, n every other axis, i = 1."""
    parameter = next(state for state in states if isinstance(state, Parameter))
    if parameter.element_ids is None:
        return None
    shape = facts.shape[equation.outputs[0]]
    ids = np.broadcast_to(parameter.element_ids, shape)
    axes = varying_axes(ids)
    order = ids_along(ids, axes)
    if order is None or np.unique(order).size != order.size:
        return None
    samples = tuple(a for a in range(len(shape)) if a not in axes)
    layout = pack_elements(facts, parameter, order, (order.size, 1, 1))
    term = WeightTerm("scale", parameter, layout, 1, None, None)
    roles = AxisRoles(axes, samples, order.size, 1, prod(shape[a] for a in samples))
    neuron = general_neuron(facts, equation, states, roles.samples)
    return replace(canonical_neuron(neuron, term, roles), elementwise=True)


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
