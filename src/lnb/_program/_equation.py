"""One operation of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.extend.core as jex

from lnb._program import _jax

Value = int
"""A number of a value within its program."""


@dataclass(frozen=True, eq=False)
class Equation:
    """One operation of a program: its JAX primitive and parameters, and the numbers of what it reads and gives."""

    primitive: jex.Primitive
    parameters: _jax.Parameters
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    effects: bool
    context: Any = None

    @property
    def name(self) -> str:
        """The name JAX prints for the operation; for messages only."""
        return self.primitive.name

    @cached_property
    def jaxprs(self) -> list[jex.ClosedJaxpr]:
        """The programs that it holds."""
        return _jax.jaxprs_of(self.parameters)

    def bind(self, inputs: Sequence[Any]) -> list[Any]:
        """Apply the operation to arrays or tracers, its custom derivatives included."""
        return _jax.bind(self.primitive, inputs, self.parameters, self.context)
