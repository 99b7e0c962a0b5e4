"""A use of a neuron as a linear function of leaves of `params`, through the weights that are computed from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lnb._finding._facts import Facts
from lnb._finding._uses import OutputFunction, ParameterUse
from lnb._finding._values import Reparametrised

Leaves = Mapping[int, Any]


@dataclass(frozen=True, eq=False)
class Linearised:
    """The derivative of a neuron's output by leaves of `params`, at their values in this batch's pass.

    With y = f(W, x) and W = h(p) it is f_W h'(p). Leaves that are not given are held.

    Fields:
        function: f, of the use's own leaves and features.
        leaves: the use's own.
        shapes: of the leaves of `params` among them, and of those that the others are computed from.
        computed: of the others, in the order of their computation, h by number.
        reads_values: whether the derivative depends on the leaves' values: features has them after the use's own, and
            after them the data of each h.
        is_affine: whether f is affine in W.
    """

    function: OutputFunction
    leaves: tuple[int, ...]
    shapes: Mapping[int, jax.ShapeDtypeStruct]
    computed: Mapping[int, Reparametrised]
    reads_values: bool
    is_affine: bool

    def __call__(self, leaves: Leaves, features: Sequence[Any]) -> Any:
        """The output for a change of the leaves."""
        change = {k: leaves[k] if k in leaves else jnp.zeros(s.shape, s.dtype) for k, s in self.shapes.items()}
        if not self.reads_values:
            return self._output(change, change, features)
        data = sum(len(made.sources) for made in self.computed.values())
        count = len(features) - len(self.shapes) - data
        values = dict(zip(self.shapes, features[count:], strict=False))

        def weights(leaves: Leaves) -> dict[int, Any]:
            known, rest = dict(leaves), list(features[len(features) - data :])
            for leaf, made in self.computed.items():
                known[leaf] = made.function(known, [rest.pop(0) for _ in made.sources])
            return {leaf: known[leaf] for leaf in self.leaves}

        at, moved = _forward(weights, values, change)
        return self._output(at, moved, features[:count])

    def _output(self, at: Leaves, change: Leaves, features: Sequence[Any]) -> Any:
        """f_W times a change of the use's own leaves; if f is affine, any point serves."""

        def function(leaves: Leaves) -> Any:
            return self.function(leaves, features)

        if self.is_affine:
            return jax.jvp(function, (jax.tree.map(jnp.zeros_like, at),), (change,))[1]
        return _forward(function, at, change)[1]


def _forward(function: Callable[[Leaves], Any], at: Leaves, change: Leaves) -> tuple[Any, Any]:
    """A function's value, and its derivative along a change.

    The derivative is the transpose of the reverse one: functions with a `jax.custom_vjp` have no other.
    """
    value, pull = jax.vjp(function, at)
    (moved,) = jax.linear_transpose(pull, value)((change,))
    return value, moved


def linearise(use: ParameterUse, facts: Facts) -> tuple[Linearised, tuple[int, ...]]:
    """A use of leaves of `params`, and the places of what it reads."""
    wanted, needed = list(use.leaves), set[int]()
    while wanted:
        leaf = wanted.pop()
        needed.add(leaf)
        if leaf in facts.reparametrised:
            wanted += facts.reparametrised[leaf].leaves
    computed = {leaf: facts.reparametrised[leaf] for leaf in sorted(needed.intersection(facts.reparametrised))}
    shapes = {leaf: facts.shapes[leaf] for leaf in sorted(needed.difference(computed))}
    sources, reads_values = use.sources, bool(computed) or not use.is_affine
    if reads_values:
        sources += tuple(facts.recorder.index(facts.values[leaf]) for leaf in shapes)
        sources += tuple(source for made in computed.values() for source in made.sources)
    return Linearised(use.function, use.leaves, shapes, computed, reads_values, use.is_affine), sources
