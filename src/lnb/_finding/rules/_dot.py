"""Matrix products: Y[g, n, o] = sum_i X[g, n, i] W[g, i, o]."""

from __future__ import annotations

from math import prod

from lnb._features import DenseFeatures
from lnb._finding._building import AxisRoles, as_matrix
from lnb._finding._facts import Facts
from lnb._finding._values import Parameter, WeightTerm
from lnb._program import Equation

_Axes = tuple[tuple[int, ...], ...]


def axes(facts: Facts, equation: Equation, position: int) -> tuple[_Axes, _Axes, _Axes]:
    """(weight's, input's) batch, contracted and free axes."""
    contracting, batch = equation.parameters["dimension_numbers"]
    ranks = [len(facts.shape[value]) for value in equation.inputs]
    free = [tuple(a for a in range(ranks[k]) if a not in (*contracting[k], *batch[k])) for k in range(2)]
    order = (position, 1 - position)
    batch_axes, contracted, rest = (tuple(tuple(axes[k]) for k in order) for axes in (batch, contracting, free))
    return batch_axes, contracted, rest


def roles(facts: Facts, equation: Equation, position: int) -> AxisRoles:
    """The batch axes of weight and input are g, the free axes of the input n, and those of the weight o."""
    batch, _, free = axes(facts, equation, position)
    # The axes of the product: the batch axes, then the free axes of the left operand, then those of the right.
    shape = facts.shape[equation.outputs[0]]
    count, left = len(batch[0]), len(free[position])
    left_axes = tuple(range(count, count + left))
    right_axes = tuple(range(count + left, len(shape)))
    samples, outputs = (right_axes, left_axes) if position == 0 else (left_axes, right_axes)
    groups = tuple(range(count))
    return AxisRoles(groups + outputs, samples, *(prod(shape[a] for a in axes) for axes in (groups, outputs, samples)))


def term(facts: Facts, equation: Equation, position: int, parameter: Parameter) -> WeightTerm:
    """The weight W [g, i, o]; the contracted axes are i."""
    batch, contracted, free = axes(facts, equation, position)
    groups, inputs, outputs = (prod(parameter.shape[a] for a in axes[0]) for axes in (batch, contracted, free))
    features = DenseFeatures(batch[1], free[1], contracted[1], parameter.factor)
    layout = as_matrix(parameter.layout, batch[0] + contracted[0] + free[0], (groups, inputs, outputs))
    return WeightTerm("dense", parameter, layout, inputs, features, equation.inputs[1 - position])
