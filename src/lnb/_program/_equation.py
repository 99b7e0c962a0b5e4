"""One operation of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.extend.core as jex

from lnb._program import _jax

Value = int
"""A number of a value within its program."""


@dataclass(frozen=True, eq=False)
class Equation:
    """One operation of a program.

    Fields:
        primitive, parameters, context: as JAX has them.
        inputs, outputs: the numbers of the values that it reads and gives.
        jaxprs: the programs that it holds.
        effects: whether it does more than to compute its outputs.
    """

    primitive: jex.Primitive
    parameters: _jax.Parameters
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    jaxprs: tuple[jex.ClosedJaxpr, ...] = ()
    effects: bool = False
    context: Any = None

    @property
    def name(self) -> str:
        """The name JAX prints for the operation; for messages only."""
        return self.primitive.name

    def bind(self, inputs: Sequence[Any]) -> list[Any]:
        """Apply the operation to arrays or tracers, its custom derivatives included."""
        return _jax.bind(self.primitive, inputs, self.parameters, self.context)
