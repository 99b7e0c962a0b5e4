"""The states of values that depend on parameters, and the outcome of a rule of the search.

A value is a parameter in some layout (`Parameter`), computed from parameters alone but not linearly (`Nonlinear`), or
the output of a neuron under construction (`PartialNeuron`). Any other value is an activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from lnb._features._layout import ElementNumbers, Layout
from lnb._finding._element_ids import ElementIds
from lnb._program import Value


@dataclass(frozen=True, eq=False)
class Parameter:
    """A value that is affine in parameter leaves and has met no data.

    Fields:
        value: its number in the program.
        leaves: the leaves' numbers.
        shape: of the value.
        layout: the leaves' elements that it is made of; None where some element depends on several.
        ids: the numbers of the leaves' elements.
        distinct: no element of a leaf appears twice.
        whole: every element of the leaves appears.
        scaled: each element is multiplied by a constant of its own.
        factor: the constant that all elements are multiplied by.
    """

    value: Value
    leaves: tuple[int, ...]
    shape: tuple[int, ...]
    layout: Layout | None
    ids: ElementNumbers
    distinct: bool = True
    whole: bool = True
    scaled: bool = False
    factor: float = 1.0

    @cached_property
    def element_ids(self) -> ElementIds | None:
        """Which element of the leaves each element of the value is."""
        return None if self.layout is None else self.layout.read(self.ids)

    @property
    def is_arrangement(self) -> bool:
        """Whether the value is its leaves' elements rearranged, times one factor."""
        return self.layout is not None and not self.scaled

    @property
    def is_weight(self) -> bool:
        """Whether the value is an arrangement in which no element appears twice."""
        return self.is_arrangement and self.distinct

    def opaque(self, value: Value, shape: tuple[int, ...], leaves: tuple[int, ...] = ()) -> Parameter:
        """A value computed from this one, of which only the equations are known."""
        return Parameter(value, leaves or self.leaves, shape, None, self.ids, distinct=False, whole=False)


@dataclass(frozen=True, eq=False)
class Nonlinear:
    """A value computed from parameters alone, and not linearly; `reason` says by what."""

    leaves: frozenset[int]
    reason: str


@dataclass(frozen=True, eq=False)
class WeightTerm:
    """One weight of a neuron in canonical form.

    Fields:
        kind: of its feature map.
        parameter: the weight in the program.
        layout: the weight as W [g, i, o].
        inputs: i.
        features, source: the feature map, and the activation that it reads; None for a scale, whose features are
            derived from its equations.
    """

    kind: str
    parameter: Parameter
    layout: Layout
    inputs: int
    features: Any
    source: Value | None


@dataclass(frozen=True, eq=False)
class Bias:
    """A bias that adds b[g, o] to every sample; `layout` is [g, 1, o]."""

    parameter: Parameter
    layout: Layout


@dataclass(frozen=True, eq=False)
class PartialNeuron:
    """A value that is affine in the parameters of a neuron under construction.

    Fields:
        value: its number in the program.
        leaves: the leaves' numbers.
        features: the activations that the value is computed from, besides the leaves.
        shape: of the value.
        groups, outputs, samples: g, o and n.
        terms: the weights in canonical form; None where the neuron is kept as its equations.
        bias: the bias in canonical form.
        output_ids: which (g, o) each element of the value is; None where that was lost.
        sample_ids: which n, likewise.
        elementwise: each element of the value depends on one parameter element alone, through products.
        constant: its features so far are constants of the program.
        selected: a weight that data chose out of a stack of weights: it has met no features yet.
        factor: the constant that the value is multiplied by.
        last_complete: the neuron as it was when its last parameter joined; None where it still is.
        repeats: how many samples each row stands for: an output of constant features, the same for all data.
        addends: the activations that were added to its value: they change no derivative in the leaves.
    """

    value: Value
    leaves: tuple[int, ...]
    features: tuple[Value, ...]
    shape: tuple[int, ...]
    groups: int
    outputs: int
    samples: int
    terms: tuple[WeightTerm, ...] | None = None
    bias: Bias | None = None
    output_ids: ElementIds | None = None
    sample_ids: ElementIds | None = None
    elementwise: bool = False
    constant: bool = False
    selected: bool = False
    factor: float = 1.0
    last_complete: PartialNeuron | None = None
    repeats: int = 1
    addends: tuple[Value, ...] = ()

    def completed(self) -> PartialNeuron:
        """The neuron as it was when its last parameter joined."""
        return replace(self.last_complete or self, repeats=self.repeats)

    @property
    def is_identity(self) -> bool:
        """Whether its parameters are only added to data or set beside it."""
        return self.terms == ()


TrackedValue = Parameter | Nonlinear | PartialNeuron | None
"""The state of a value; None for an activation."""


@dataclass(frozen=True)
class Outcome:
    """The findings of a rule about an equation.

    Fields:
        state: of the equation's output.
        completed: neurons that the equation completes, besides those that go in and do not come out.
        reasons: (leaves, reason) of parameters that belong to no neuron unless another use covers them.
        excluded: (leaves, reason) of parameters that belong to none whatever their other uses are.
        alias: the input that the output is the same as, where parameters are concerned.
        ends_neurons: the neurons that go in are completed, and the equation is looked at again with their outputs as
            activations.
    """

    state: TrackedValue = None
    completed: tuple[PartialNeuron, ...] = ()
    reasons: tuple[tuple[Sequence[int] | frozenset[int], str], ...] = ()
    excluded: tuple[tuple[Sequence[int] | frozenset[int], str], ...] = ()
    alias: Value | None = None
    ends_neurons: bool = False


@dataclass
class UncoveredReasons:
    """Why leaves are not covered: whatever else uses them (`excluded`), or only if nothing else covers them."""

    reasons: dict[int, str] = field(default_factory=dict)
    excluded: dict[int, str] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Remember the first reason given for each leaf."""
        for found, known in ((outcome.reasons, self.reasons), (outcome.excluded, self.excluded)):
            for leaves, reason in found:
                for leaf in leaves:
                    known.setdefault(leaf, reason)
