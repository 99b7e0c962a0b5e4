"""How a neuron begins: the operations in which a parameter meets an activation, one function a row of the table.

Each function gives the neuron's output in canonical form (see `_linear_maps`), or None where the operation is not of
that form, and the neuron is then kept as its equations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives
from jax.lax import GatherScatterMode

from lnb._linear_maps import ConvolutionFeatures, DenseFeatures, EmbeddingFeatures
from lnb._program import Equation, Value
from lnb._tracked import Bias, Labels, Output, Parameter, Term, core, place, varying_axes

if TYPE_CHECKING:
    from lnb._search import Search, State


Axes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Roles:
    """Which axes of an operation's output count (g, o) and which count n, and how far."""

    columns: tuple[int, ...]
    rows: tuple[int, ...]
    groups: int
    outputs: int
    samples: int


def roles(search: Search, equation: Equation, position: int) -> Roles | None:
    """The roles of the axes of what comes of a weight, the input at `position`; None for other operations."""
    rule = _RULES.get(equation.primitive)
    return rule[0](search, equation, position) if rule else None


def begin(search: Search, equation: Equation, states: Sequence[State]) -> Output | None:
    """The neuron that begins where one parameter is multiplied, convolved or looked up; None for other operations."""
    positions = [k for k, state in enumerate(states) if isinstance(state, Parameter)]
    found = roles(search, equation, positions[0])
    if found is None or len(positions) != 1:
        return None
    parameter = states[positions[0]]
    assert isinstance(parameter, Parameter)
    output = search.general_output(equation, list(states), found.samples)
    slices = equation.primitive is primitives.dynamic_slice_p
    matrices = equation.primitive is primitives.gather_p and len(parameter.shape) > 2
    output = replace(output, selected=slices or matrices)
    if not parameter.is_layout:
        return output
    term = _RULES[equation.primitive][1](search, equation, positions[0], parameter)
    return _canonical(output, term, found)


def _canonical(output: Output, term: Term, found: Roles) -> Output:
    shape = output.shape
    return replace(
        output,
        terms=(term,),
        columns=place([shape[a] for a in found.columns], found.columns, shape),
        rows=place([shape[a] for a in found.rows], found.rows, shape),
        groups=found.groups,
        outputs=found.outputs,
        samples=found.samples,
    )


def _dot_axes(search: Search, equation: Equation, position: int) -> tuple[Axes, Axes, Axes]:
    """(weight's, input's) batch, contracted and free axes of a matrix product."""
    contracting, batch = equation.parameters["dimension_numbers"]
    ranks = [len(search.shape(value)) for value in equation.inputs]
    free = [tuple(a for a in range(ranks[k]) if a not in (*contracting[k], *batch[k])) for k in range(2)]
    order = (position, 1 - position)
    batch_axes, contracted, rest = (tuple(tuple(axes[k]) for k in order) for axes in (batch, contracting, free))
    return batch_axes, contracted, rest


def _dot_roles(search: Search, equation: Equation, position: int) -> Roles:
    """g are the batch axes of weight and input, n and o the free axes of the input and of the weight."""
    batch, _, free = _dot_axes(search, equation, position)
    # The axes of the product: the batch axes, then the free axes of the left operand, then those of the right.
    shape = search.shape(equation.outputs[0])
    count, left = len(batch[0]), len(free[position])
    left_axes = tuple(range(count, count + left))
    right_axes = tuple(range(count + left, len(shape)))
    rows, outputs = (right_axes, left_axes) if position == 0 else (left_axes, right_axes)
    groups = tuple(range(count))
    return Roles(groups + outputs, rows, *(prod(shape[a] for a in axes) for axes in (groups, outputs, rows)))


def _dot_term(search: Search, equation: Equation, position: int, parameter: Parameter) -> Term:
    """Y[g, n, o] = sum_i X[g, n, i] W[g, i, o]."""
    batch, contracted, free = _dot_axes(search, equation, position)
    groups, inputs, outputs = (prod(parameter.shape[a] for a in axes[0]) for axes in (batch, contracted, free))
    features = DenseFeatures(batch[1], free[1], contracted[1], parameter.factor)
    order = batch[0] + contracted[0] + free[0]
    source = equation.inputs[1 - position]
    return _term("dense", parameter, features, source, order, (groups, inputs, outputs))


def _term(
    kind: str, parameter: Parameter, features: Any, source: Value, order: Sequence[int], sizes: tuple[int, int, int]
) -> Term:
    """A weight whose axes in `order` are (groups, inputs, outputs), of these sizes."""
    layout, labels_of = parameter.layout, parameter.labels_of
    assert layout is not None
    assert labels_of is not None

    def pack(leaves: Mapping[int, Any]) -> Any:
        return layout(leaves).transpose(order).reshape(sizes)  # [g, i, o]

    def labels() -> Labels:
        return labels_of().transpose(order).reshape(sizes)

    return Term(kind, parameter, pack, labels, features, source, sizes[1])


def _convolution_roles(search: Search, equation: Equation, position: int) -> Roles | None:
    """g the feature groups, o the output channels of a group, n batch x output pixels."""
    if position != 1 or equation.parameters["batch_group_count"] != 1:
        return None
    batch, channel, *space = equation.parameters["dimension_numbers"][2]
    shape, rows = search.shape(equation.outputs[0]), (batch, *space)
    groups = equation.parameters["feature_group_count"]
    return Roles((channel,), rows, groups, shape[channel] // groups, prod(shape[a] for a in rows))


def _convolution_term(search: Search, equation: Equation, position: int, parameter: Parameter) -> Term:
    """i = channels of a group x positions of the kernel."""
    del search, position
    p = equation.parameters
    input_layout, kernel_layout, _ = p["dimension_numbers"]
    groups = p["feature_group_count"]
    outputs, channels, *space = (parameter.shape[axis] for axis in kernel_layout)
    inputs = channels * prod(space)
    features = ConvolutionFeatures(
        strides=tuple(p["window_strides"]),
        padding=tuple(tuple(pair) for pair in p["padding"]),
        input_dilation=tuple(p["lhs_dilation"]),
        kernel_dilation=tuple(p["rhs_dilation"]),
        groups=groups,
        input_layout=tuple(input_layout),
        kernel_size=tuple(space),
        channels=channels,
        factor=parameter.factor,
    )
    layout, labels_of = parameter.layout, parameter.labels_of
    assert layout is not None
    assert labels_of is not None

    def canonical(kernel: Any) -> Any:
        kernel = kernel.transpose(kernel_layout).reshape(groups, outputs // groups, inputs)  # [g, o, i]
        return kernel.swapaxes(1, 2)  # [g, i, o]

    return Term(
        "convolution",
        parameter,
        lambda leaves: canonical(layout(leaves)),
        lambda: canonical(labels_of()),
        features,
        equation.inputs[0],
        inputs,
    )


def _looked_up_row(search: Search, equation: Equation) -> int | None:
    """The axis of a table that the indices choose from, where they choose whole rows: all other axes are read full."""
    sizes, table = equation.parameters["slice_sizes"], search.shape(equation.inputs[0])
    indexed: Sequence[int] = range(len(table))
    if equation.primitive is primitives.gather_p:
        numbers = equation.parameters["dimension_numbers"]
        indexed = numbers.start_index_map
        # With several indices the full axes' are ignored only where an index out of bounds is moved into them.
        drops = equation.parameters["mode"] is GatherScatterMode.FILL_OR_DROP
        if numbers.operand_batching_dims or (drops and len(indexed) > 1):
            return None
    chosen = [a for a in indexed if sizes[a] == 1 and (table[a] > 1 or len(indexed) == 1)]
    full = all(size == length for a, (size, length) in enumerate(zip(sizes, table, strict=True)) if a not in chosen)
    return chosen[0] if len(chosen) == 1 and full else None


def _lookup_roles(search: Search, equation: Equation, position: int) -> Roles | None:
    """o is what a row of the table holds, n the tokens."""
    if position != 0 or _looked_up_row(search, equation) is None:
        return None
    shape = search.shape(equation.outputs[0])
    columns = tuple(range(len(shape)))
    if equation.primitive is primitives.gather_p:
        columns = tuple(equation.parameters["dimension_numbers"].offset_dims)
    rows = tuple(a for a in range(len(shape)) if a not in columns)
    return Roles(columns, rows, 1, prod(shape[a] for a in columns), prod(shape[a] for a in rows))


def _lookup_term(search: Search, equation: Equation, position: int, parameter: Parameter) -> Term:
    """i = the rows of the table."""
    del position
    row = _looked_up_row(search, equation)
    assert row is not None
    order = (row, *(a for a in range(len(parameter.shape)) if a != row))
    rows = parameter.shape[row]
    if equation.primitive is primitives.gather_p:
        component = equation.parameters["dimension_numbers"].start_index_map.index(row)
        clip = equation.parameters["mode"] is GatherScatterMode.CLIP
        features = EmbeddingFeatures(rows, clip, component, parameter.factor)
        source = equation.inputs[1]
    else:
        features, source = EmbeddingFeatures(rows, True, None, parameter.factor), equation.inputs[1 + row]
    sizes = (1, rows, prod(parameter.shape) // max(1, rows))
    return _term("embedding", parameter, features, source, order, sizes)


_RULES: dict[Any, tuple[Callable[..., Roles | None], Callable[..., Term]]] = {
    primitives.dot_general_p: (_dot_roles, _dot_term),
    primitives.conv_general_dilated_p: (_convolution_roles, _convolution_term),
    primitives.gather_p: (_lookup_roles, _lookup_term),
    primitives.dynamic_slice_p: (_lookup_roles, _lookup_term),
}


def scale(search: Search, equation: Equation, states: Sequence[State]) -> Output | None:
    """A parameter times an activation, element by element: g the parameter's elements, n every other axis, i = 1."""
    parameter = next(state for state in states if isinstance(state, Parameter))
    if parameter.labels is None:
        return None
    shape = search.shape(equation.outputs[0])
    labels = np.broadcast_to(parameter.labels, shape)
    axes = varying_axes(labels)
    order = core(labels, axes)
    if order is None or np.unique(order).size != order.size:
        return None
    rows = tuple(a for a in range(len(shape)) if a not in axes)
    sizes = (order.size, 1, 1)
    pack = take(search, parameter, order, sizes)
    term = Term("scale", parameter, pack, lambda: order.reshape(sizes), None, None, 1)
    found = Roles(axes, rows, order.size, 1, prod(shape[a] for a in rows))
    output = search.general_output(equation, list(states), found.samples)
    return replace(_canonical(output, term, found), elementwise=True)


def scale_again(output: Output, product: Output) -> Output | None:
    """A scale's output times an activation with more samples: the scale's labels repeat over the new axes."""
    if output.terms is None or output.columns is None or len(output.shape) != len(product.shape):
        return None
    columns = np.broadcast_to(output.columns, product.shape)
    axes = varying_axes(columns)
    rows = tuple(a for a in range(len(product.shape)) if a not in axes)
    return replace(
        product,
        terms=output.terms,
        columns=columns,
        rows=place([product.shape[a] for a in rows], rows, product.shape),
        groups=output.groups,
        outputs=1,
        samples=prod(product.shape[a] for a in rows),
        elementwise=True,
    )


def take(
    search: Search, parameter: Parameter, order: Labels, sizes: tuple[int, int, int]
) -> Callable[[Mapping[int, Any]], Any]:
    """Packs the elements with these labels, in this order, as an array of these sizes."""
    starts = np.cumsum([0, *(search.sizes[leaf] for leaf in parameter.leaves)])
    elements = order.ravel().copy()
    for leaf, start in zip(parameter.leaves, starts, strict=False):
        offset = search.offsets[leaf]
        inside = (order.ravel() >= offset) & (order.ravel() < offset + search.sizes[leaf])
        elements[inside] += start - offset
    whole = np.array_equal(elements, np.arange(starts[-1]))

    def pack(leaves: Mapping[int, Any]) -> Any:
        flat = [leaves[leaf].reshape(-1) for leaf in parameter.leaves]
        joined = flat[0] if len(flat) == 1 else jnp.concatenate(flat)
        return (joined if whole else joined[elements]).reshape(sizes)

    return pack


def bias(search: Search, parameter: Parameter, order: Labels, groups: int, outputs: int) -> Bias:
    """A parameter whose elements, taken in `order`, are b[g, o]."""
    sizes = (groups, 1, outputs)
    return Bias(parameter, take(search, parameter, order, sizes), order.reshape(sizes))


def identity(search: Search, parameter: Parameter, shape: tuple[int, ...]) -> Output:
    """A parameter that is only added to data or set beside it: each element is repeated for each sample."""
    size = sum(search.sizes[leaf] for leaf in parameter.leaves)
    is_identity = parameter.layout is not None and abs(parameter.factor) == 1.0
    return Output(
        leaves=parameter.leaves,
        function=lambda leaves, _: jnp.broadcast_to(parameter.function(leaves), shape),
        features=(),
        terms=() if is_identity else None,
        columns=None,
        rows=None,
        shape=shape,
        groups=size,
        outputs=1,
        samples=max(1, prod(shape) // max(1, size)),
    )
