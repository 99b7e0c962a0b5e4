"""Convolutions, whose features are the input's channels under the kernel."""

from __future__ import annotations

from math import prod

from lnb._features import ConvolutionFeatures
from lnb._features._layout import Reshape, Transpose
from lnb._finding._building import AxisRoles
from lnb._finding._facts import Facts
from lnb._finding._values import Parameter, WeightTerm
from lnb._program import Equation


def roles(facts: Facts, equation: Equation, position: int) -> AxisRoles | None:
    """The feature groups are g, the output channels of a group o, batch and output pixels n."""
    if position != 1 or equation.parameters["batch_group_count"] != 1:
        return None
    batch, channel, *space = equation.parameters["dimension_numbers"][2]
    shape = facts.shape[equation.outputs[0]]
    samples: tuple[int, ...] = (batch, *space)
    groups = equation.parameters["feature_group_count"]
    return AxisRoles((channel,), samples, groups, shape[channel] // groups, prod(shape[a] for a in samples))


def term(facts: Facts, equation: Equation, position: int, parameter: Parameter) -> WeightTerm:
    """The kernel as W [g, i, o], i = (channel of a group, position)."""
    del facts, position
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
        factor=parameter.real_factor,
    )
    kernel = Reshape(
        Transpose(parameter.layout, tuple(kernel_layout)), (groups, outputs // groups, inputs)
    )  # [g, o, i]
    return WeightTerm("convolution", parameter, Transpose(kernel, (0, 2, 1)), inputs, features, equation.inputs[0])
