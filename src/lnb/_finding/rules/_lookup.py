"""Table lookups, whose features are which row each sample reads."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from jax.extend.core import primitives
from jax.lax import GatherScatterMode

from lnb._features import EmbeddingFeatures
from lnb._finding._building import AxisRoles, as_matrix
from lnb._finding._facts import Facts
from lnb._finding._values import Parameter, WeightTerm
from lnb._program import Equation


def _row_axis(facts: Facts, equation: Equation) -> int | None:
    """The axis of a table that the indices choose from, where they choose whole rows: all other axes are read full."""
    sizes, table = equation.parameters["slice_sizes"], facts.shape[equation.inputs[0]]
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


def roles(facts: Facts, equation: Equation, position: int) -> AxisRoles | None:
    """The elements of a row are o, and the tokens are n."""
    if position != 0 or _row_axis(facts, equation) is None:
        return None
    shape = facts.shape[equation.outputs[0]]
    outputs = tuple(range(len(shape)))
    if equation.primitive is primitives.gather_p:
        outputs = tuple(equation.parameters["dimension_numbers"].offset_dims)
    samples = tuple(a for a in range(len(shape)) if a not in outputs)
    return AxisRoles(outputs, samples, 1, prod(shape[a] for a in outputs), prod(shape[a] for a in samples))


def term(facts: Facts, equation: Equation, position: int, parameter: Parameter) -> WeightTerm:
    """The table as W [1, i, o], i = its rows."""
    del position
    row = _row_axis(facts, equation)
    assert row is not None
    rows = parameter.shape[row]
    if equation.primitive is primitives.gather_p:
        component = equation.parameters["dimension_numbers"].start_index_map.index(row)
        clip = equation.parameters["mode"] is GatherScatterMode.CLIP
        features, source = EmbeddingFeatures(rows, clip, component, parameter.real_factor), equation.inputs[1]
    else:
        features, source = EmbeddingFeatures(rows, True, None, parameter.real_factor), equation.inputs[1 + row]
    order = (row, *(a for a in range(len(parameter.shape)) if a != row))
    sizes = (1, rows, prod(parameter.shape) // max(1, rows))
    return WeightTerm("embedding", parameter, as_matrix(parameter.layout, order, sizes), rows, features, source)


def selects(equation: Equation, parameter: Parameter) -> bool:
    """Whether the result may still be a weight, chosen out of a stack of weights."""
    slices = equation.primitive is primitives.dynamic_slice_p
    return slices or (equation.primitive is primitives.gather_p and len(parameter.shape) > 2)
