"""Builds neurons under construction, with their weights in canonical form or kept as equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from jax.extend.core import primitives

from lnb._features import ComplexFeatures
from lnb._features._layout import Concatenate, Layout, Leaf, Reshape, Slice, Take, Transpose, ravel
from lnb._finding._element_ids import ElementIds, count_over, distinct_ids, ids_along, varying_axes
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


def as_weight(facts: Facts, parameter: Parameter, repeated: Sequence[int] = ()) -> Parameter:
    """A parameter as a weight, without axes along which it repeats; reparametrised where it is more than its leaves."""
    weight = parameter.once(repeated)
    if not weight.is_weight:
        weight = facts.reparametrise(parameter.value, parameter.leaves, repeated).once(repeated)
    return weight


def as_parameter(facts: Facts, state: TrackedValue) -> TrackedValue:
    """The state as a weight, if it is what constant indices chose from a table: its elements repeat."""
    if not isinstance(state, PartialNeuron) or not state.terms or not state.constant:
        return state
    if state.terms[0].kind != "embedding" or state.bias is not None or state.addends:
        return state
    return facts.reparametrise(state.value, state.leaves)


_ELEMENTWISE_NAMES = """
    add sub mul div neg abs sign max min clamp select_n square sqrt rsqrt integer_pow pow exp log log1p expm1 tanh
    logistic sin cos erf atan2 floor ceil round eq ne gt ge lt le and or not stop_gradient real imag complex conj
"""
_ELEMENTWISE = frozenset(getattr(primitives, f"{name}_p") for name in _ELEMENTWISE_NAMES.split())


def repeated_axes(facts: Facts, equation: Equation, states: Sequence[TrackedValue]) -> tuple[int, ...]:
    """The axes along which the outcome of parameters and constants certainly repeats."""
    shape = facts.shape[equation.outputs[0]]
    varying = set[int]()
    if equation.primitive is primitives.dot_general_p:
        (contracted_left, contracted_right), (batch_left, batch_right) = equation.parameters["dimension_numbers"]
        count = len(batch_left)
        for k, (contracted, batch) in enumerate(((contracted_left, batch_left), (contracted_right, batch_right))):
            own = _varying(facts, equation.inputs[k], states[k])
            free = [a for a in range(len(facts.shape[equation.inputs[k]])) if a not in (*contracted, *batch)]
            varying |= {place for place, axis in enumerate(batch) if axis in own}
            varying |= {count + place for place, axis in enumerate(free) if axis in own}
            count += len(free)
    else:
        if equation.primitive not in _ELEMENTWISE:
            return ()
        for value, state in zip(equation.inputs, states, strict=True):
            if len(facts.shape[value]) not in (len(shape), 0):
                return ()
            varying |= _varying(facts, value, state)
    return tuple(axis for axis, size in enumerate(shape) if size > 1 and axis not in varying)


def _varying(facts: Facts, value: Value, state: TrackedValue) -> set[int]:
    """The axes along which a value may vary."""
    if isinstance(state, Parameter) and not state.scaled:
        return set(varying_axes(state.element_ids))
    if state is None and facts.is_constant(value):
        array = np.asarray(facts.constant(value))
        return {a for a in range(array.ndim) if array.shape[a] > 1 and (array != array.take([0], a)).any()}
    return set(range(len(facts.shape[value])))


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
    addends: dict[Value, None] = {}
    for given, state in zip(equation.inputs, states, strict=True):
        if isinstance(state, (Parameter, PartialNeuron)):
            leaves.update(dict.fromkeys(state.leaves))
            features.update(dict.fromkeys(state.features if isinstance(state, PartialNeuron) else ()))
            elements += state.elements if isinstance(state, PartialNeuron) else _own_size(facts, state)
            addends.update(dict.fromkeys(state.addends if isinstance(state, PartialNeuron) else ()))
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
        addends=tuple(value for value in addends if value not in features),
    )


def complex_term(
    facts: Facts, parameter: Parameter, term_of: Callable[[Parameter], WeightTerm], outputs: int
) -> tuple[WeightTerm, int]:
    """The term of a weight in real numbers, and o.

    Args:
        facts: of the program.
        parameter: the weight.
        term_of: the term of a weight that is made of real elements.
        outputs: o, for a real weight.
    """
    is_pair = parameter.imaginary is not None
    turns = isinstance(parameter.factor, complex)
    term = term_of(replace(parameter, imaginary=None, factor=1.0) if is_pair or turns else parameter)
    if not is_pair and not turns and (term.source is None or not facts.is_complex(term.source)):
        return term, outputs
    if not is_pair and not turns:
        term = term_of(replace(parameter, factor=1.0))
    parts = [term.layout]
    if parameter.imaginary is not None:
        parts.append(term_of(replace(parameter, layout=parameter.imaginary, imaginary=None)).layout)
    if term.source is not None and not turns and not facts.is_complex(term.source):
        # Real features: the real and the imaginary part are outputs of their own.
        real = term_of(replace(parameter, imaginary=None))
        return replace(real, layout=Concatenate(tuple(parts), 2)), 2 * outputs
    layout = Concatenate(tuple(parts), 1) if is_pair else term.layout
    features = ComplexFeatures(term.features, is_pair, complex(parameter.factor))
    return replace(term, layout=layout, inputs=len(parts) * term.inputs, features=features, is_complex=True), outputs


def samples_of(facts: Facts, equation: Equation, states: Sequence[TrackedValue], is_affine: bool = True) -> int:
    """n of an operation that has no canonical form.

    Where an operation works element by element, or sets parameters beside data, a parameter element has a sample for
    each time that it is repeated. Elsewhere the samples are the leading axes that the output shares with the data; of
    one that is not affine in its parameters, such as a solver, the first of them.
    """
    shape = facts.shape[equation.outputs[0]]
    given = [facts.shape[value] for value in equation.inputs]
    parameters = [state for state in states if isinstance(state, Parameter)]
    if all(len(sizes) == len(shape) and _fits(sizes, shape) for sizes in given if sizes):
        return max(1, prod(shape) // min(_own_size(facts, parameter) for parameter in parameters))
    data = [sizes for sizes, state in zip(given, states, strict=True) if state is None]
    if not is_affine:
        return max((shape[0] for sizes in data if shape and sizes[:1] == shape[:1]), default=1)
    repeats = max(prod(parameter.shape) // _own_size(facts, parameter) for parameter in parameters)
    if repeats > 1 or shape in given:
        return max(1, repeats)
    return max((_shared(shape, sizes) for sizes in data), default=1)


def _fits(sizes: Sequence[int], shape: Sequence[int]) -> bool:
    return all(size in (1, length) for size, length in zip(sizes, shape, strict=True))


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """The elements of the leading axes that two shapes have in common."""
    pairs = list(zip(first, second, strict=False))
    differ = next((k for k, (one, other) in enumerate(pairs) if one != other), len(pairs))
    return max(1, prod(first[:differ]))


def _own_size(facts: Facts, parameter: Parameter) -> int:
    """How many parameter elements a value is made of."""
    size = prod(parameter.shape)
    if parameter.distinct or not size:
        return max(1, size)
    ids = parameter.element_ids
    along = ids_along(ids, varying_axes(ids))
    return distinct_ids(ids if along is None else along).size


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


def as_matrix(layout: Layout, order: Sequence[int], sizes: tuple[int, int, int]) -> Layout:
    """W [g, i, o] of a weight whose axes in `order` are (groups, inputs, outputs), of these sizes."""
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
        samples=max(1, len(parameter.parts) * prod(shape) // max(1, size)),
        terms=() if parameter.is_arrangement and abs(parameter.factor) == 1.0 else None,
    )
