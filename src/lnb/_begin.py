"""How a neuron begins: the operations in which a parameter meets an activation, one function a row of the table.

Each function gives the neuron's output in canonical form (see `_linear_maps`), or None where the operation is not of
that form, and the neuron is then kept as its equations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives
from jax.lax import GatherScatterMode

from lnb._jaxpr import Equation, Value
from lnb._linear_maps import ConvolutionFeatures, DenseFeatures, EmbeddingFeatures
from lnb._tracked import Bias, Labels, Output, Parameter, Term, core, place, varying_axes

if TYPE_CHECKING:
    from lnb._search import Search, State


def begin(search: Search, equation: Equation, states: Sequence[State]) -> Output | None:
    """The neuron that begins at this equation, of a parameter and activations, if it is of a canonical form."""
    positions = [k for k, state in enumerate(states) if isinstance(state, Parameter)]
    rule = _RULES.get(equation.primitive)
    if rule is None or len(positions) != 1:
        return None
    parameter = states[positions[0]]
    assert isinstance(parameter, Parameter)
    if not parameter.is_layout:
        return None
    return rule(search, equation, positions[0], parameter)


def _output(search: Search, equation: Equation, position: int, term: Term, **roles: Any) -> Output:
    states: list[State] = [None] * len(equation.inputs)
    states[position] = term.parameter
    general = search.general_output(equation, states, roles["samples"])
    return replace(general, terms=(term,), **roles)


def _dot_general(search: Search, equation: Equation, position: int, parameter: Parameter) -> Output:
    """Y[g, n, o] = sum_i X[g, n, i] W[g, i, o]: g the batch axes of weight and input, i the contracted axes."""
    contracting, batch = equation.parameters["dimension_numbers"]
    other = equation.inputs[1 - position]
    shapes = (search.shape(equation.inputs[0]), search.shape(equation.inputs[1]))
    free = [tuple(a for a in range(len(shapes[k])) if a not in contracting[k] and a not in batch[k]) for k in range(2)]
    order = tuple(batch[position]) + tuple(contracting[position]) + free[position]
    weight_shape = shapes[position]
    groups = prod(weight_shape[a] for a in batch[position])
    inputs = prod(weight_shape[a] for a in contracting[position])
    outputs = prod(weight_shape[a] for a in free[position])

    features = DenseFeatures(
        tuple(batch[1 - position]),
        free[1 - position],
        tuple(contracting[1 - position]),
        parameter.factor,
    )
    term = _term("dense", parameter, features, other, order, (groups, inputs, outputs))
    # The axes of the product: the batch axes, then the free axes of the left operand, then those of the right.
    shape = search.shape(equation.outputs[0])
    count = len(batch[0])
    left = tuple(range(count, count + len(free[0])))
    right = tuple(range(count + len(free[0]), len(shape)))
    rows, columns = (left, right) if position == 1 else (right, left)
    columns = tuple(range(count)) + columns
    return _output(
        search,
        equation,
        position,
        term,
        columns=place([shape[a] for a in columns], columns, shape),
        rows=place([shape[a] for a in rows], rows, shape),
        groups=groups,
        outputs=outputs,
        samples=prod(shape[a] for a in rows),
    )


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


def _convolution(search: Search, equation: Equation, position: int, parameter: Parameter) -> Output | None:
    """G the feature groups, n batch x output pixels, i channels of a group x positions of the kernel."""
    p = equation.parameters
    if position != 1 or p["batch_group_count"] != 1:
        return None
    input_layout, kernel_layout, output_layout = p["dimension_numbers"]
    groups = p["feature_group_count"]
    kernel = [search.shape(equation.inputs[1])[axis] for axis in kernel_layout]  # [output, input, *space]
    channels, space = kernel[1], tuple(kernel[2:])
    inputs, outputs = channels * prod(space), kernel[0] // groups
    features = ConvolutionFeatures(
        strides=tuple(p["window_strides"]),
        padding=tuple(tuple(pair) for pair in p["padding"]),
        input_dilation=tuple(p["lhs_dilation"]),
        kernel_dilation=tuple(p["rhs_dilation"]),
        groups=groups,
        input_layout=tuple(input_layout),
        kernel_size=space,
        channels=channels,
        factor=parameter.factor,
    )
    layout, labels_of = parameter.layout, parameter.labels_of
    assert layout is not None
    assert labels_of is not None

    def canonical(kernel: Any) -> Any:
        kernel = kernel.transpose(kernel_layout).reshape(groups, outputs, inputs)  # [g, o, i]
        return kernel.swapaxes(1, 2)  # [g, i, o]

    term = Term(
        "convolution",
        parameter,
        lambda leaves: canonical(layout(leaves)),
        lambda: canonical(labels_of()),
        features,
        equation.inputs[0],
        inputs,
    )
    shape = search.shape(equation.outputs[0])
    rows = (output_layout[0], *output_layout[2:])
    return _output(
        search,
        equation,
        position,
        term,
        columns=place([shape[output_layout[1]]], (output_layout[1],), shape),
        rows=place([shape[a] for a in rows], rows, shape),
        groups=groups,
        outputs=outputs,
        samples=prod(shape[a] for a in rows),
    )


def _gather(search: Search, equation: Equation, position: int, parameter: Parameter) -> Output | None:
    """Rows of a table: i the rows, o what a row holds, n the tokens."""
    numbers = equation.parameters["dimension_numbers"]
    table = search.shape(equation.inputs[0])
    sizes = equation.parameters["slice_sizes"]
    row_axes = numbers.collapsed_slice_dims
    looks_up_rows = (
        position == 0
        and len(row_axes) == 1
        and numbers.start_index_map == row_axes
        and not numbers.operand_batching_dims
        and all(size == full for a, (size, full) in enumerate(zip(sizes, table, strict=True)) if a != row_axes[0])
    )
    if not looks_up_rows or parameter.factor != 1.0:
        return None
    row = row_axes[0]
    shape = search.shape(equation.outputs[0])
    columns = tuple(numbers.offset_dims)
    rows = tuple(a for a in range(len(shape)) if a not in columns)
    outputs = prod(shape[a] for a in columns)
    clip = equation.parameters["mode"] is GatherScatterMode.CLIP
    order = (row, *(a for a in range(len(table)) if a != row))
    features = EmbeddingFeatures(table[row], clip)
    term = _term("embedding", parameter, features, equation.inputs[1], order, (1, table[row], outputs))
    return _output(
        search,
        equation,
        position,
        term,
        columns=place([shape[a] for a in columns], columns, shape),
        rows=place([shape[a] for a in rows], rows, shape),
        groups=1,
        outputs=outputs,
        samples=prod(shape[a] for a in rows),
    )


_RULES: dict[Any, Callable[[Search, Equation, int, Parameter], Output | None]] = {
    primitives.dot_general_p: _dot_general,
    primitives.conv_general_dilated_p: _convolution,
    primitives.gather_p: _gather,
}


def scale(search: Search, equation: Equation, states: Sequence[State]) -> Output | None:
    """A parameter times an activation, element by element: g the parameter's elements, n every other axis, i = 1."""
    position = next(k for k, state in enumerate(states) if isinstance(state, Parameter))
    parameter = states[position]
    assert isinstance(parameter, Parameter)
    if parameter.labels is None or len(parameter.leaves) != 1:
        return None
    shape = search.shape(equation.outputs[0])
    labels = np.broadcast_to(parameter.labels, shape)
    axes = varying_axes(labels)
    order = core(labels, axes)
    if order is None or np.unique(order).size != order.size:
        return None
    rows = tuple(a for a in range(len(shape)) if a not in axes)
    term = _element_term("scale", search, parameter, order, (order.size, 1, 1))
    output = _output(
        search,
        equation,
        position,
        term,
        columns=place(order.shape, axes, shape),
        rows=place([shape[a] for a in rows], rows, shape),
        groups=order.size,
        outputs=1,
        samples=prod(shape[a] for a in rows),
    )
    return replace(output, elementwise=True)


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


def _element_term(kind: str, search: Search, parameter: Parameter, order: Labels, sizes: tuple[int, int, int]) -> Term:
    pack = take(parameter.leaves[0], order.ravel() - search.offsets[parameter.leaves[0]], sizes)
    return Term(kind, parameter, pack, lambda: order.reshape(sizes), None, None, sizes[1])


def take(leaf: int, elements: Labels, sizes: tuple[int, int, int]) -> Callable[[Mapping[int, Any]], Any]:
    """Packs these elements of a leaf, in this order, as an array of these sizes."""

    def pack(leaves: Mapping[int, Any]) -> Any:
        flat = leaves[leaf].reshape(-1)
        whole = flat.shape[0] == elements.size and np.array_equal(elements, np.arange(elements.size))
        return (flat if whole else flat[jnp.asarray(elements)]).reshape(sizes)

    return pack


def bias(search: Search, parameter: Parameter, order: Labels, groups: int, outputs: int) -> Bias:
    """A parameter whose elements, taken in `order`, are b[g, o]."""
    sizes = (groups, 1, outputs)
    pack = take(parameter.leaves[0], order - search.offsets[parameter.leaves[0]], sizes)
    return Bias(parameter, pack, order.reshape(sizes))


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


def concatenate(
    equation: Equation,
    parameters: Sequence[Parameter],
    shape_of: Callable[[Value], tuple[int, ...]],
) -> Parameter:
    """Several parameters side by side: one layout of all their leaves."""
    leaves = tuple(dict.fromkeys(leaf for p in parameters for leaf in p.leaves))

    def function(values: Mapping[int, Any]) -> Any:
        return equation.bind([p.function(values) for p in parameters])[0]

    shape = shape_of(equation.outputs[0])
    factors = {p.factor for p in parameters}
    if any(p.layout is None for p in parameters) or len(factors) > 1:
        return Parameter(leaves, function, None, None, shape, distinct=False, whole=False)

    def layout(values: Mapping[int, Any]) -> Any:
        return equation.bind([p.layout(values) for p in parameters if p.layout])[0]

    def labels_of() -> Labels:
        axis = equation.parameters["dimension"]
        return np.concatenate([p.labels for p in parameters if p.labels is not None], axis=axis)

    disjoint = len(leaves) == sum(len(p.leaves) for p in parameters)
    distinct = disjoint and all(p.distinct for p in parameters)
    return Parameter(
        leaves,
        function,
        layout,
        labels_of,
        shape,
        distinct,
        all(p.whole for p in parameters),
        factors.pop(),
    )
