"""Sums, differences and concatenations.

Parameters added to a neuron's output are its bias, or have the identity metric. Two weights whose products are added
are one neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
from jax.extend.core import primitives

from lnb._finding._building import general_neuron, identity_neuron, pack_elements
from lnb._finding._element_ids import are_distinct, ids_along, repeat_alike, varying_axes
from lnb._finding._facts import Facts
from lnb._finding._values import Bias, Outcome, Parameter, PartialNeuron, TrackedValue
from lnb._finding.rules._constants import fold_constants
from lnb._finding.rules._linear import linear
from lnb._program import Equation


def add(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """A sum or difference."""
    first, second = states
    sign = -1.0 if equation.primitive is primitives.sub_p else 1.0
    if isinstance(first, Parameter) and isinstance(second, Parameter):
        turned = {1.0: first, 1j: second} if second.factor == 1j else {first.factor: first, second.factor: second}
        pair = turned.keys() == {1.0, 1j} and sign > 0
        together = pair_of(facts, equation, turned[1.0], replace(turned[1j], factor=1.0)) if pair else None
        return Outcome(together or fold_constants(facts, equation, states))
    if isinstance(first, PartialNeuron) and isinstance(second, PartialNeuron):
        if first.terms and first.terms is second.terms:
            return Outcome(_join_products(facts, equation, first, second))
        return Outcome(_join(facts, equation, first, second) if sign > 0 else None)
    if isinstance(first, PartialNeuron) and isinstance(second, Parameter):
        return _add_bias(facts, equation, states, first, replace(second, factor=sign * second.factor))
    if isinstance(first, Parameter) and isinstance(second, PartialNeuron):
        if sign < 0 and not second.elementwise:
            return Outcome(completed=(identity_neuron(facts, equation, first),))
        return _add_bias(facts, equation, states, second, first)
    if isinstance(first, PartialNeuron) or isinstance(second, PartialNeuron):
        return Outcome(_add_activation(facts, equation, states, sign))
    position = 0 if isinstance(first, Parameter) else 1
    parameter, other = states[position], equation.inputs[1 - position]
    assert isinstance(parameter, Parameter)
    if facts.is_constant(other) and prod(facts.shape[equation.outputs[0]]) == prod(parameter.shape):
        return Outcome(_shift(facts, equation, states, parameter, sign if position else 1.0))
    if facts.shape[equation.outputs[0]] == () and not facts.reparametrised.keys().isdisjoint(parameter.leaves):
        # A penalty on the weights, which is no function of the data.
        return Outcome(reasons=((parameter.leaves, "reaches the loss without meeting any data"),))
    return Outcome(completed=(identity_neuron(facts, equation, parameter),))


def complex_number(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """A number of its real and its imaginary part."""
    real, imaginary = states
    if isinstance(real, Parameter) and isinstance(imaginary, Parameter):
        pair = pair_of(facts, equation, real, imaginary)
        return Outcome(pair or fold_constants(facts, equation, states))
    return linear(facts, equation, states)


def pair_of(facts: Facts, equation: Equation, real: Parameter, imaginary: Parameter) -> Parameter | None:
    """The complex parameter of these parts; None where they are not arrangements of distinct elements."""
    value, both = equation.outputs[0], (real, imaginary)
    shape = facts.shape[value]
    if not all(p.is_weight and p.imaginary is None and p.factor == 1.0 and p.shape == shape for p in both):
        return None
    ids = np.concatenate([p.element_ids.ravel() for p in both])
    leaves = tuple(dict.fromkeys(real.leaves + imaginary.leaves))
    whole = ids.size == sum(facts.sizes[leaf] for leaf in leaves)
    if not are_distinct(ids):
        return None
    return replace(real, value=value, leaves=leaves, shape=shape, whole=whole, imaginary=imaginary.layout)


def concatenate(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> Outcome:
    """Values side by side."""
    parameters = [state for state in states if isinstance(state, Parameter)]
    if len(parameters) == len(states):
        return Outcome(fold_constants(facts, equation, states))
    return Outcome(completed=tuple(identity_neuron(facts, equation, each, apart=True) for each in parameters))


def _add_activation(
    facts: Facts, equation: Equation, states: Sequence[TrackedValue], sign: float
) -> PartialNeuron | None:
    """A residual: the neuron's derivative stays as it is, and a bias may yet follow."""
    neuron = states[0] or states[1]
    assert isinstance(neuron, PartialNeuron)
    subtracted = sign < 0 and states[0] is None
    if subtracted or neuron.shape != facts.shape[equation.outputs[0]]:
        return None
    added = equation.inputs[1 if states[0] else 0]
    addends = neuron.addends if added in neuron.features else (*neuron.addends, added)
    return replace(neuron, value=equation.outputs[0], addends=addends, last_complete=neuron.completed())


def _shift(
    facts: Facts, equation: Equation, states: Sequence[TrackedValue], parameter: Parameter, sign: float
) -> Parameter:
    """A parameter plus a constant: still a parameter, since only its derivative counts."""
    if parameter.shape != facts.shape[equation.outputs[0]]:
        return fold_constants(facts, equation, states)
    return replace(parameter, value=equation.outputs[0], factor=sign * parameter.factor)


def _add_bias(
    facts: Facts, equation: Equation, states: Sequence[TrackedValue], neuron: PartialNeuron, parameter: Parameter
) -> Outcome:
    joined = general_neuron(facts, equation, states, neuron.samples)
    if neuron.terms is None:
        return Outcome(replace(joined, constant=neuron.constant))
    neuron = _with_factor_in_features(neuron)
    bias = _as_bias(facts, joined.shape, neuron, parameter)
    if bias is None:
        return Outcome(completed=(identity_neuron(facts, equation, parameter),))
    return Outcome(
        replace(
            joined,
            terms=neuron.terms,
            bias=bias,
            output_ids=None if neuron.output_ids is None else np.broadcast_to(neuron.output_ids, joined.shape),
            sample_ids=None if neuron.sample_ids is None else np.broadcast_to(neuron.sample_ids, joined.shape),
            groups=neuron.groups,
            outputs=neuron.outputs,
            constant=False,
            selected=neuron.selected,
            repeats=neuron.repeats,
        )
    )


def _with_factor_in_features(neuron: PartialNeuron) -> PartialNeuron:
    """The neuron with its constant factor in its features, now that a bias may join; a scale's has it already."""
    if neuron.factor == 1.0:
        return neuron
    terms = tuple(
        term
        if term.features is None
        else replace(term, features=replace(term.features, factor=term.features.factor * neuron.factor))
        for term in neuron.terms or ()
    )
    return replace(neuron, terms=terms, factor=1.0)


def _as_bias(facts: Facts, shape: tuple[int, ...], neuron: PartialNeuron, parameter: Parameter) -> Bias | None:
    """The parameter as b[g, o], if it is one: an element for each (g, o), the same for every sample."""
    fits = neuron.bias is None and neuron.shape == shape and neuron.output_ids is not None
    once = prod(shape) == neuron.groups * neuron.outputs * neuron.samples
    if not fits or not once or neuron.factor != 1.0 or parameter.factor != 1.0 or not parameter.is_arrangement:
        return None
    if any(term.is_complex for term in neuron.terms or ()):
        return None  # a sample's two rows would need two constant features
    assert neuron.output_ids is not None
    axes = varying_axes(neuron.output_ids)
    outputs = ids_along(neuron.output_ids, axes)
    elements = ids_along(np.broadcast_to(parameter.element_ids, shape), axes)
    if outputs is None or elements is None or outputs.size != neuron.groups * neuron.outputs:
        return None
    order = np.empty(outputs.size, np.int64)
    order[outputs.ravel()] = elements.ravel()
    if not are_distinct(order):
        return None
    return Bias(parameter, pack_elements(facts, parameter, order, (neuron.groups, 1, neuron.outputs)))


def _join_products(
    facts: Facts, equation: Equation, first: PartialNeuron, second: PartialNeuron
) -> PartialNeuron | None:
    """The scale whose products with two activations are added or subtracted."""
    if first.bias and second.bias:
        return None
    joined = general_neuron(facts, equation, (first, second), max(first.samples, second.samples))
    larger = first if first.shape == joined.shape else second
    if larger.shape != joined.shape:
        return None
    return replace(
        joined,
        terms=larger.terms,
        bias=first.bias or second.bias,
        output_ids=larger.output_ids,
        sample_ids=larger.sample_ids,
        groups=larger.groups,
        outputs=larger.outputs,
        elementwise=not (first.bias or second.bias),
    )


def _join(facts: Facts, equation: Equation, first: PartialNeuron, second: PartialNeuron) -> PartialNeuron | None:
    """The neuron of two weights whose products are added: its features are both weights' features."""
    shape = facts.shape[equation.outputs[0]]
    both = (first, second)
    if any(n.terms is None for n in both) and all(n.terms is None or n.selected for n in both):
        return general_neuron(facts, equation, both, max(first.samples, second.samples))
    kinds = {term.kind for neuron in both for term in neuron.terms or ()}
    joinable = kinds and kinds <= {"dense", "convolution"} and first.terms and second.terms
    sizes = [(neuron.shape, neuron.groups, neuron.outputs, neuron.samples) for neuron in both]
    if not joinable or sizes[0] != sizes[1] or first.shape != shape or (first.bias and second.bias):
        return None
    alike = repeat_alike(first.output_ids, second.output_ids) and repeat_alike(first.sample_ids, second.sample_ids)
    if set(first.leaves) & set(second.leaves) or not alike:
        return None
    joined = general_neuron(facts, equation, both, first.samples)
    return replace(
        first,
        value=joined.value,
        leaves=joined.leaves,
        features=joined.features,
        addends=joined.addends,
        terms=(first.terms or ()) + (second.terms or ()),
        bias=first.bias or second.bias,
        constant=False,
        last_complete=None,
    )
