"""The states of values that depend on parameters, and the outcome of a rule of the search.

A value is a parameter in some layout (`Parameter`), computed from parameters but without a derivative (`Stopped`), or
the output of a neuron under construction (`PartialNeuron`). Any other value is an activation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lnb._features._layout import ElementNumbers, Layout, Slice
from lnb._finding._element_ids import ElementIds, are_distinct
from lnb._program import Value


@dataclass(frozen=True, eq=False)
class Parameter:
    """A value that is made of the elements of leaves and has met no data.

    The leaves are those of `params`, or weights that the program computes from them (`Reparametrised`).

    Fields:
        value: its number in the program.
        leaves: the leaves' numbers.
        shape: of the value.
        layout: the leaves' elements that it is made of; of a complex value, those that its real part is made of.
        imaginary: those that its imaginary part is made of; None for a value made of real elements alone.
        ids: the numbers of the leaves' elements.
        distinct: no element of a leaf appears twice.
        whole: every element of the leaves appears.
        scaled: each element is multiplied by a constant of its own.
        factor: the constant that all elements are multiplied by.
    """

    value: Value
    leaves: tuple[int, ...]
    shape: tuple[int, ...]
    layout: Layout
    ids: ElementNumbers
    distinct: bool = True
    whole: bool = True
    scaled: bool = False
    factor: complex = 1.0
    imaginary: Layout | None = None

    @cached_property
    def element_ids(self) -> ElementIds:
        """Which element of the leaves each element of the value, or of its real part, is."""
        return self.layout.read(self.ids)

    @property
    def is_arrangement(self) -> bool:
        """Whether the value is its leaves' elements rearranged, times one factor."""
        return not self.scaled

    @property
    def is_weight(self) -> bool:
        """Whether the value is an arrangement in which no element appears twice."""
        return self.is_arrangement and self.distinct

    def once(self, axes: Sequence[int]) -> Parameter:
        """The value at the first index of axes along which it repeats; they keep the size 1."""
        if not axes:
            return self
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(self.shape))
        once = self.laid_out(self.value, shape, lambda of: Slice(of, tuple((0, size, 1) for size in shape)))
        ids = np.concatenate([part.read(self.ids).ravel() for part in once.parts])
        return replace(once, distinct=are_distinct(ids))

    @property
    def real_factor(self) -> float:
        """The factor of a value that is not turned by a complex one."""
        return float(np.real(self.factor))

    @property
    def parts(self) -> tuple[Layout, ...]:
        """The layouts of the real and, if there is one, of the imaginary part."""
        return (self.layout,) if self.imaginary is None else (self.layout, self.imaginary)

    def laid_out(self, value: Value, shape: tuple[int, ...], after: Callable[[Layout], Layout]) -> Parameter:
        """The value after an operation that only moves elements, `after` being the layout that it makes of another."""
        real, imaginary = after(self.layout), None if self.imaginary is None else after(self.imaginary)
        return replace(self, value=value, shape=shape, layout=real, imaginary=imaginary)


@dataclass(frozen=True)
class Stopped:
    """A value computed from parameters, through which nothing is differentiated."""


@dataclass(frozen=True, eq=False)
class Reparametrised:
    """A weight W = h(p) that the program computes from leaves p before it meets data.

    It counts as a leaf of its own; the metric of p is h'^T M h', M being that of W.

    Fields:
        leaves: p; leaves of `params`, or reparametrised ones.
        function: h, of these leaves and of what is recorded at `sources`.
        sources: the places in the recorder of the data that h reads, such as the state of spectral normalisation.
        roots: the leaves of `params` that p is computed from.
    """

    leaves: tuple[int, ...]
    function: Callable[[Mapping[int, Any], Sequence[Any]], Any]
    sources: tuple[int, ...]
    roots: frozenset[int]


@dataclass(frozen=True)
class Parting:
    """How the rows that a weight's feature map reads are parted among the groups.

    Fields:
        source: the activation that says it.
        groups: gives the group of each row from it.
        total: the number of rows.
        spread, is_sorted: as in `RaggedRead`.
    """

    source: Value
    groups: Any
    total: int
    spread: int = 1
    is_sorted: bool = False


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
        is_complex: whether its features are those of `ComplexFeatures`.
        parting: how the samples are parted among the groups; None where each group has all of them.
    """

    kind: str
    parameter: Parameter
    layout: Layout
    inputs: int
    features: Any
    source: Value | None
    is_complex: bool = False
    parting: Parting | None = None


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
        is_affine: whether the value is affine in the parameters; if not, its derivative at their present values counts.
        elements: how many parameter elements it has.
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
    is_affine: bool = True
    elements: int = 0
    addends: tuple[Value, ...] = ()

    def completed(self) -> PartialNeuron:
        """The neuron as it was when its last parameter joined."""
        return replace(self.last_complete or self, repeats=self.repeats)

    @property
    def is_identity(self) -> bool:
        """Whether its parameters are only added to data or set beside it."""
        return self.terms == ()


TrackedValue = Parameter | Stopped | PartialNeuron | None
"""The state of a value; None for an activation."""


@dataclass(frozen=True)
class Outcome:
    """The findings of a rule about an equation.

    Fields:
        state: of the equation's output.
        states: of its outputs, where it has several.
        completed: neurons that the equation completes, besides those that go in and do not come out.
        reasons: (leaves, reason) of parameters that belong to no neuron unless another use covers them.
        excluded: (leaves, reason) of parameters that belong to none whatever their other uses are.
        ends_neurons: the neurons that go in are completed, and the equation is looked at again with their outputs as
            activations.
    """

    state: TrackedValue = None
    states: tuple[TrackedValue, ...] = ()
    completed: tuple[PartialNeuron, ...] = ()
    reasons: tuple[tuple[Sequence[int] | frozenset[int], str], ...] = ()
    excluded: tuple[tuple[Sequence[int] | frozenset[int], str], ...] = ()
    ends_neurons: bool = False


@dataclass
class UncoveredReasons:
    """Why leaves are not covered: whatever else uses them (`excluded`), or only if nothing else covers them."""

    reasons: dict[int, str] = field(default_factory=dict)
    excluded: dict[int, str] = field(default_factory=dict)

    def add(self, outcome: Outcome, roots: Callable[[Sequence[int] | frozenset[int]], Sequence[int]]) -> None:
        """Remember the first reason given for each leaf of `params`; `roots` gives those that leaves come from."""
        for found, known in ((outcome.reasons, self.reasons), (outcome.excluded, self.excluded)):
            for leaves, reason in found:
                for leaf in roots(leaves):
                    known.setdefault(leaf, reason)
