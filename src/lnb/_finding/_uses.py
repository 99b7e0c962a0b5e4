"""One use of a neuron, as the search leaves it: its equations, and its canonical form where it has one.

A use found inside a loop, a branch or a recomputed region is lifted out of it, region by region, until it speaks of the
parameter leaves and of what the whole program records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnb._features import (
    ComplexFeatures,
    DenseFeatures,
    FeatureMap,
    FeatureRead,
    GroupsOfSteps,
    LoopFeatures,
    RaggedRead,
    RunWeight,
)
from lnb._features._layout import Concatenate, Layout, Steps
from lnb._finding._element_ids import ids_along, varying_axes
from lnb._finding._facts import Facts
from lnb._finding._parts import part_of_outputs
from lnb._finding._values import Parameter, PartialNeuron, Reparametrised
from lnb._program import Slice

OutputFunction = Callable[[Mapping[int, Any], Sequence[Any]], Any]
"""A neuron's output from parameter leaves, by number, and the arrays that it reads."""


@dataclass(frozen=True, eq=False)
class CanonicalUse:
    """The canonical form of a use, Y[g, n, o] = sum_i X[g, n, i] W[g, i, o] + b[g, o].

    Fields:
        kind: of its feature maps.
        read: the features X.
        weight: the layout of W [g, i, o].
        bias: the layout of b [g, 1, o]; None where there is none.
        groups, outputs: g and o.
        whole: every element of the leaves belongs to W or b.
        bias_leaves: the leaves that b is made of.
        hidden: of the features of each weight, whether they depend on parameters.
        parts: which part each of the outputs o belongs to, see `part_of_outputs`.
    """

    kind: str
    read: FeatureRead | RaggedRead
    weight: Layout
    bias: Layout | None
    groups: int
    outputs: int
    whole: bool
    bias_leaves: frozenset[int]
    hidden: tuple[bool, ...]
    parts: tuple[int, ...] = ()

    @property
    def inputs(self) -> int:
        """The number of inputs i, without the bias."""
        return sum(self.read.sizes)

    @property
    def packing(self) -> Layout:
        """The layout of W with b in its last row, [g, i(+1), o]."""
        return self.weight if self.bias is None else Concatenate((self.weight, self.bias), 1)


@dataclass(frozen=True, eq=False)
class ParameterUse:
    """One use of a neuron.

    Fields:
        leaves: the parameter leaves' numbers.
        function: the neuron's output from the leaves and the recorded arrays at `sources`.
        sources: places in the recorder of the program in which the use stands.
        samples: n, `repeats` times the rows of `function`.
        canonical: its canonical form; None where it is kept as its equations.
        is_identity: its parameters are only added to data or set beside it.
        weight_source: the place of whether it ran, 1 or 0, for a use in a region that may be passed over; of how many
            iterations each row stands for, in a loop of unknown length.
        repeats: how many samples each row stands for.
        is_affine: whether `function` is affine in the leaves.
        roots: the leaves of `params` that its leaves are, or are computed from.
        side: the smaller side of its weights [i(+1), o], if they are one matrix.
        is_sampled: its samples are those of some iterations of a loop.
    """

    leaves: tuple[int, ...]
    function: OutputFunction
    sources: tuple[int, ...]
    samples: int
    canonical: CanonicalUse | None
    is_identity: bool
    weight_source: int = -1
    repeats: int = 1
    is_affine: bool = True
    roots: tuple[int, ...] = ()
    side: int = 1
    is_sampled: bool = False


@dataclass(frozen=True, eq=False)
class OwnFunction:
    """The output of a neuron of this program, of this shape."""

    slice: Slice
    leaves: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, leaves: Mapping[int, Any], features: Sequence[Any]) -> Any:
        output = self.slice([*(leaves[leaf] for leaf in self.leaves), *features])
        return jnp.broadcast_to(output, self.shape)


@dataclass(frozen=True, eq=False)
class RegionFunction:
    """The output of a neuron inside of a region.

    Fields:
        inside: of the region's own leaves, and of what it records.
        parameters: how each of these leaves comes from the leaves outside: their numbers, and the equations.
        steps: how often the region runs, for a loop; None for one that runs once.
        stacked: the region's leaves that are another slice of their parameter in each step.
        may_be_passed_over: whether the last feature says if it ran, 1 or 0, or of a loop, how many of its iterations
            each step stands for: the output is then multiplied by the root, so that J^T J has this weight.
    """

    inside: OutputFunction
    parameters: Mapping[int, tuple[tuple[int, ...], Slice]]
    steps: int | None
    stacked: frozenset[int]
    may_be_passed_over: bool

    def __call__(self, leaves: Mapping[int, Any], features: Sequence[Any]) -> Any:
        if not self.may_be_passed_over:
            return self._output(leaves, list(features))
        output, weight = self._output(leaves, list(features[:-1])), features[-1]
        if self.steps is not None:
            weight = jnp.sqrt(weight).reshape(-1, *[1] * (output.ndim - 1))  # [step, ...]
        return output * weight.astype(output.dtype)

    def _output(self, leaves: Mapping[int, Any], features: list[Any]) -> Any:
        own = {k: part([leaves[leaf] for leaf in outside]) for k, (outside, part) in self.parameters.items()}
        if self.steps is None:
            return self.inside(own, features)
        if not features and not self.stacked:
            output = self.inside(own, features)
            return jnp.broadcast_to(output, (self.steps, *output.shape))
        axes = {k: 0 if k in self.stacked else None for k in own}
        return jax.vmap(self.inside, in_axes=(axes, [0] * len(features)))(own, features)


@dataclass(frozen=True, eq=False)
class RegionBoundary:
    """How a use inside a region speaks of the program around it.

    Fields:
        facts: of the program around.
        parameters: the parameter outside that each of the region's own leaves is.
        source: the place outside of what the region records at an index.
        derive: the place outside of what a function computes from what stands at others.
        steps: how often the region runs, for a loop; None for one that runs once.
        stacked: the region's leaves that are another slice of their parameter in each step.
        ran: the place outside of whether the region ran, 1 or 0, for one that may be passed over; for a loop of which
            some steps are recorded, of how many each stands for.
        weights: where the region records the weights that uses have inside, times its own.
    """

    facts: Facts
    parameters: Mapping[int, Parameter]
    source: Callable[[int], int]
    derive: Callable[[Any, tuple[int, ...]], int]
    steps: int | None = None
    stacked: frozenset[int] = frozenset()
    ran: int = -1
    weights: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_sampled(self) -> bool:
        """Whether only some steps of the loop are recorded."""
        return self.steps is not None and self.ran >= 0

    def with_leaves(self, inside: Facts) -> RegionBoundary:
        """The boundary with the weights that the region computes, as leaves of the program around it."""
        parameters, stacked = dict(self.parameters), set(self.stacked)
        for own, made in inside.reparametrised.items():
            by_step = stacked.intersection(made.leaves)
            outside = {leaf: parameters[leaf] for leaf in made.leaves}
            parts = {leaf: (parameter.leaves, self._slice(parameter)) for leaf, parameter in outside.items()}
            leaves = tuple(dict.fromkeys(leaf for parameter in outside.values() for leaf in parameter.leaves))
            sources = tuple(self.source(index) for index in made.sources)
            steps = self.steps if by_step or sources else None  # data may differ between the steps
            function = RegionFunction(made.function, parts, steps, frozenset(by_step), False)
            shape = inside.shapes[own]
            lead = () if steps is None else (steps,)
            lifted = Reparametrised(leaves, function, sources, frozenset(self.facts.roots(leaves)))
            number = self.facts.add_leaf((*lead, *shape.shape), shape.dtype, lifted)
            parameters[own] = self.facts.leaf(number)
            if steps is not None:
                stacked.add(own)
        return replace(self, parameters=parameters, stacked=frozenset(stacked))

    def lift(self, use: ParameterUse) -> ParameterUse:
        """The use outside of the region."""
        parameters = {own: self.parameters[own] for own in use.leaves}
        stacked = self.stacked.intersection(use.leaves)
        sources = tuple(self.source(index) for index in use.sources)
        samples = use.samples * (self.steps or 1) if len(stacked) < len(use.leaves) else use.samples
        canonical = use.canonical
        if canonical is not None:
            apart = stacked and len(stacked) < len(use.leaves)
            laid_out = all(
                parameter.is_weight and parameter.factor == 1.0 and parameter.imaginary is None
                for parameter in parameters.values()
            )
            canonical = None if apart or not laid_out else self._lift(use, canonical, bool(stacked))
        may_be_passed_over = self.ran >= 0
        leaves = tuple(dict.fromkeys(leaf for parameter in parameters.values() for leaf in parameter.leaves))
        return ParameterUse(
            leaves=leaves,
            function=RegionFunction(
                use.function,
                {own: (parameter.leaves, self._slice(parameter)) for own, parameter in parameters.items()},
                self.steps,
                stacked,
                may_be_passed_over,
            ),
            sources=(*sources, self.ran) if may_be_passed_over else sources,
            samples=samples,
            canonical=canonical,
            is_identity=use.is_identity and all(parameter.is_arrangement for parameter in parameters.values()),
            weight_source=self._weight_source(use.weight_source),
            repeats=use.repeats,
            is_affine=use.is_affine,
            roots=self.facts.roots(leaves),
            side=use.side * (self.steps or 1) if stacked else use.side,
            is_sampled=use.is_sampled or self.is_sampled,
        )

    def _weight_source(self, inside: int) -> int:
        """The place outside of the weight that a use has at this place inside, -1 for none."""
        return self.source(self.weights.get(inside, inside)) if inside >= 0 else self.ran

    def _slice(self, parameter: Parameter) -> Slice:
        program = self.facts.program
        return Slice(program, tuple(self.facts.values[leaf] for leaf in parameter.leaves), parameter.value)

    def _lift(self, use: ParameterUse, canonical: CanonicalUse, stacked: bool) -> CanonicalUse:
        parameters = {own: self.parameters[own] for own in use.leaves}
        layouts = {own: parameter.layout for own, parameter in parameters.items()}

        def outside(layout: Layout) -> Layout:
            return Steps(layout, tuple(layouts.items())) if stacked else layout.replace_leaves(layouts)

        bias_leaves = (leaf for own in canonical.bias_leaves for leaf in parameters[own].leaves)
        return replace(
            canonical,
            read=self._lift_read(canonical.read, canonical.groups, stacked),
            weight=outside(canonical.weight),
            bias=None if canonical.bias is None else outside(canonical.bias),
            groups=canonical.groups * (self.steps or 1) if stacked else canonical.groups,
            whole=canonical.whole and all(parameter.whole for parameter in parameters.values()),
            bias_leaves=frozenset(bias_leaves),
        )

    def _lift_read(self, read: FeatureRead | RaggedRead, groups: int, stacked: bool) -> FeatureRead | RaggedRead:
        if isinstance(read, RaggedRead):
            return self._lift_ragged(read, stacked)
        maps, weight = read.maps, read.weight
        if weight is None and self.ran >= 0:
            weight = RunWeight(groups, int(read.samples / read.repeats))
        if self.steps is not None:
            maps = tuple(LoopFeatures(feature_map, stacked, self.is_sampled) for feature_map in maps)
            weight = None if weight is None else LoopFeatures(weight, stacked, self.is_sampled)
        return replace(
            read,
            maps=maps,
            sources=tuple(self.source(index) for index in read.sources),
            samples=read.samples * (1 if stacked else self.steps or 1),
            weight=weight,
            weight_source=-1 if weight is None else self._weight_source(read.weight_source),
        )

    def _lift_ragged(self, read: RaggedRead, stacked: bool) -> RaggedRead:
        """The groups that a region which did not run recorded are none, so that its samples count nothing."""
        rows, group = (self.source(index) for index in read.sources)
        if self.steps is None:
            return replace(read, sources=(rows, group))
        if stacked:
            group = self.derive(GroupsOfSteps(read.groups), (group,))
        return replace(read, sources=(rows, group)).in_loop(self.steps, stacked, self.is_sampled)


def finish(facts: Facts, neuron: PartialNeuron, cuts: bool) -> ParameterUse:
    """Make the use of a completed neuron, and add what it reads to the recorder.

    Args:
        facts: of the program.
        neuron: the neuron.
        cuts: whether the program cuts any value apart; if not, the neuron's outputs are one part.
    """
    sources = tuple(facts.recorder.index(value) for value in neuron.features)
    program = facts.program
    inputs = tuple(facts.values[leaf] for leaf in neuron.leaves)
    equations = Slice(program, inputs + neuron.features, neuron.value, neuron.addends)
    function = OwnFunction(equations, neuron.leaves, neuron.shape)
    outputs = max(1, prod(neuron.shape) // neuron.samples)
    roots = facts.roots(neuron.leaves)
    hidden = {value: facts.is_hidden(value) for value in neuron.features}
    parameters = sum(facts.sizes[leaf] for leaf in roots)
    canonical = _canonical(facts, neuron, function, sources, hidden) if neuron.terms else None
    if canonical is not None and cuts:
        canonical = replace(canonical, parts=part_of_outputs(facts, neuron))
    return ParameterUse(
        leaves=neuron.leaves,
        function=function,
        sources=sources,
        samples=neuron.samples * neuron.repeats,
        canonical=canonical,
        is_identity=neuron.is_identity,
        repeats=neuron.repeats,
        is_affine=neuron.is_affine,
        roots=roots,
        side=max(1, min(outputs, neuron.elements // outputs, parameters)),
    )


def _canonical(
    facts: Facts,
    neuron: PartialNeuron,
    function: OutputFunction,
    sources: tuple[int, ...],
    hidden: Mapping[int, bool],
) -> CanonicalUse | None:
    """The canonical form of a neuron; `hidden` tells which of the values that it reads depend on parameters."""
    terms, bias, recorder = neuron.terms or (), neuron.bias, facts.recorder
    is_complex = any(term.is_complex for term in terms)
    if not all(term.is_complex == is_complex and not (is_complex and term.parting) for term in terms):
        return None
    maps: list[FeatureMap] = []
    places = []
    for term in terms:
        if term.features is not None and term.source is not None:
            maps.append(term.features)
            places.append(recorder.index(term.source))
            continue
        features = _element_features(neuron)
        if features is None:
            return None
        shapes = {leaf: facts.shapes[leaf] for leaf in neuron.leaves}
        maps.append(ComplexFeatures(features, term.inputs == 2) if is_complex else features)
        real: dict[int, np.ndarray | None] = dict.fromkeys(term.parameter.leaves)
        if term.parameter.imaginary is not None:
            ids = term.parameter.element_ids
            real = {leaf: np.isin(facts.ids[leaf], ids) for leaf in term.parameter.leaves}
        places.append(recorder.derive(ElementFeatures(function, shapes, real), sources))
    layouts = tuple(term.layout for term in terms)
    kinds = {term.kind for term in terms}
    samples = neuron.samples * neuron.repeats
    repeats = neuron.repeats / 2 if is_complex else neuron.repeats
    sizes = tuple(term.inputs for term in terms)
    read: FeatureRead | RaggedRead
    if len(terms) == 1 and (parting := terms[0].parting) is not None:
        group = recorder.derive(parting.groups, (recorder.index(parting.source),))
        read = RaggedRead(
            maps[0],
            (places[0], group),
            (terms[0].inputs,),
            neuron.groups,
            parting.total * neuron.repeats,
            parting.spread,
            parting.is_sorted,
            neuron.repeats,
        )
    else:
        read = FeatureRead(tuple(maps), tuple(places), sizes, samples, bias is not None, repeats=repeats)
    return CanonicalUse(
        kind=kinds.pop() if len(kinds) == 1 else "dense",
        read=read,
        weight=layouts[0] if len(layouts) == 1 else Concatenate(layouts, 1),
        bias=bias.layout if bias else None,
        groups=neuron.groups,
        outputs=neuron.outputs,
        whole=all(term.parameter.whole for term in terms) and (bias is None or bias.parameter.whole),
        bias_leaves=frozenset(bias.parameter.leaves if bias else ()),
        hidden=tuple(any(hidden.values()) if t.source is None else hidden[t.source] for t in terms),
    )


def _element_features(neuron: PartialNeuron) -> DenseFeatures | None:
    """The map that reads X [g, n, 1] of a scale from an array like its output."""
    if neuron.output_ids is None:
        return None
    strides = neuron.output_ids.strides
    axes = tuple(sorted(varying_axes(neuron.output_ids), key=lambda axis: -strides[axis]))
    ids = ids_along(neuron.output_ids, axes)
    if ids is None:
        return None
    ids = ids.transpose(np.argsort(np.argsort(axes)))
    if not np.array_equal(ids.ravel(), np.arange(neuron.groups)):
        return None
    return DenseFeatures(axes, tuple(a for a in range(len(neuron.shape)) if a not in axes), ())


@dataclass(frozen=True, eq=False)
class ElementFeatures:
    """The feature that each element of a scale's output multiplies its one parameter element by: J 1.

    Fields:
        function: the output.
        shapes: of its leaves.
        scales: for the leaves that have some, which elements are the scale's, or its real part's; None for all.
    """

    function: OutputFunction
    shapes: Mapping[int, jax.ShapeDtypeStruct]
    scales: Mapping[int, np.ndarray | None]

    def __call__(self, features: Sequence[Any]) -> Any:
        at = {leaf: jnp.zeros(shape.shape, shape.dtype) for leaf, shape in self.shapes.items()}
        ones = {
            leaf: jnp.ones_like(x) if self.scales[leaf] is None else jnp.asarray(self.scales[leaf], x.dtype)
            for leaf, x in at.items()
            if leaf in self.scales
        }
        ones = {**at, **ones}
        return jax.jvp(lambda leaves: self.function(leaves, features), (at,), (ones,))[1]
