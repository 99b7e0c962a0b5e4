"""Matrix products: Y[g, n, o] = sum_i X[g, n, i] W[g, i, o]."""

from __future__ import annotations

from math import prod

from lnb._features import DenseFeatures
from lnb._finding._building import AxisRoles, as_matrix
from lnb._finding._element_ids import varying_axes
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


def shared_axes(facts: Facts, equation: Equation, position: int) -> tuple[int, ...]:
    """The weight's batch axes along which it repeats: a learnt query is one weight for all examples."""
    state = facts.states.get(equation.inputs[position])
    if not isinstance(state, Parameter) or state.distinct:
        return ()
    varying = varying_axes(state.element_ids)
    return tuple(a for a in axes(facts, equation, position)[0][0] if a not in varying and state.shape[a] > 1)


def roles(facts: Facts, equation: Equation, position: int) -> AxisRoles:
    """The batch axes of weight and input are g, the free axes of the input n, and those of the weight o.

    Batch axes along which the weight repeats are n too.
    """
    batch, _, free = axes(facts, equation, position)
    # The axes of the product: the batch axes, then the free axes of the left operand, then those of the right.
    shape = facts.shape[equation.outputs[0]]
    count, left = len(batch[0]), len(free[position])
    left_axes = tuple(range(count, count + left))
    right_axes = tuple(range(count + left, len(shape)))
    rest, outputs = (right_axes, left_axes) if position == 0 else (left_axes, right_axes)
    shared = tuple(batch[0].index(axis) for axis in shared_axes(facts, equation, position))
    groups, samples = tuple(a for a in range(count) if a not in shared), shared + rest
    return AxisRoles(groups + outputs, samples, *(prod(shape[a] for a in axes) for axes in (groups, outputs, samples)))


def term(facts: Facts, equation: Equation, position: int, parameter: Parameter) -> WeightTerm:
    """The weight W [g, i, o]; the contracted axes are i."""
    batch, contracted, free = axes(facts, equation, position)
    groups, inputs, outputs = (prod(parameter.shape[a] for a in axes[0]) for axes in (batch, contracted, free))
    shared = shared_axes(facts, equation, position)
    of_samples = tuple(other for axis, other in zip(*batch, strict=True) if axis in shared)
    of_groups = tuple(axis for axis in batch[1] if axis not in of_samples)
    features = DenseFeatures(of_groups, of_samples + free[1], contracted[1], parameter.real_factor)
    layout = as_matrix(parameter.layout, batch[0] + contracted[0] + free[0], (groups, inputs, outputs))
    return WeightTerm("dense", parameter, layout, inputs, features, equation.inputs[1 - position])
