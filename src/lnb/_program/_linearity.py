"""Whether an operation is linear in its inputs, which its derivative shows, or has a derivative at all."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lnb._program._equation import Equation
from lnb._program._program import read_program

_linearity: dict[Hashable, bool] = {}


def is_linear_in(equation: Equation, avals: Sequence[Any], positions: Sequence[int]) -> bool:
    """Whether the operation is affine in the inputs at `positions` together, while the others are held fixed.

    Its derivative in these inputs, as JAX traces it, must not read them. Only outputs of an inexact type count.
    """
    shapes = [jax.ShapeDtypeStruct(avals[value].shape, avals[value].dtype) for value in equation.inputs]
    key = None
    try:
        signature = tuple((s.shape, s.dtype) for s in shapes)
        key = (
            equation.primitive,
            tuple(sorted(equation.parameters.items())),
            signature,
            tuple(positions),
        )
        if key in _linearity:
            return _linearity[key]
    except TypeError:
        key = None
    result = _derivative_is_constant(equation, shapes, tuple(positions))
    if key is not None:
        _linearity[key] = result
    return result


def is_differentiable_in(equation: Equation, avals: Sequence[Any], positions: Sequence[int]) -> bool:
    """Whether products with the operation's Jacobian in the inputs at `positions`, and with its transpose, exist."""
    shapes = [jax.ShapeDtypeStruct(avals[value].shape, avals[value].dtype) for value in equation.inputs]

    def products(inputs: list[Any], change: list[Any]) -> Any:
        def function(chosen: list[Any]) -> Any:
            full = list(inputs)
            for position, value in zip(positions, chosen, strict=True):
                full[position] = value
            return equation.bind(full)[0]

        output, pull = jax.vjp(function, [inputs[p] for p in positions])
        push = jax.linear_transpose(lambda cotangent: pull(cotangent)[0], output)
        return jax.linear_transpose(lambda change: push(change)[0], change)(push(change)[0])

    try:
        jax.eval_shape(products, shapes, [shapes[p] for p in positions])
    except (TypeError, ValueError, NotImplementedError, NameError):
        return False
    return True


def _derivative_is_constant(equation: Equation, shapes: Sequence[Any], positions: tuple[int, ...]) -> bool:
    if not all(jnp.issubdtype(shapes[p].dtype, jnp.inexact) for p in positions):
        return False

    def derivative(inputs: list[Any], tangents: list[Any]) -> Any:
        def function(*chosen: Any) -> list[Any]:
            full = list(inputs)
            for position, value in zip(positions, chosen, strict=True):
                full[position] = value
            return [o for o in equation.bind(full) if jnp.issubdtype(o.dtype, jnp.inexact)]

        return jax.jvp(function, [inputs[p] for p in positions], tangents)[1]

    try:
        closed = jax.make_jaxpr(derivative)(list(shapes), [shapes[p] for p in positions])
    except (
        TypeError,
        NotImplementedError,
        NameError,
    ):  # no derivative in this mode, or one over the devices of a map, so nothing is known to be linear
        return False
    if not closed.jaxpr.outvars:
        return False
    program = read_program(closed)
    read = set(program.outputs).union(*(e.inputs for e in program.equations))
    tangent_inputs = program.inputs[len(shapes) :]
    # An operation whose derivative is zero (floor, stop_gradient) is flat, not linear.
    return bool(read.intersection(tangent_inputs)) and not read.intersection(program.inputs[p] for p in positions)
