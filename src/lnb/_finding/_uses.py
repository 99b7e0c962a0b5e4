"""One use of a neuron, as the search leaves it: its equations, and its canonical form where it has one.

A use found inside a loop, a branch or a recomputed region is lifted out of it, region by region, until it speaks of the
parameter leaves and of what the whole program records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnb._features import DenseFeatures, FeatureMap, FeatureRead, LoopFeatures, RunWeight
from lnb._features._layout import Concatenate, Layout, Steps
from lnb._finding._element_ids import ids_along, varying_axes
from lnb._finding._facts import Facts
from lnb._finding._parts import part_of_outputs
from lnb._finding._values import Parameter, PartialNeuron
from lnb._program import Recorder, Slice

AffineFunction = Callable[[Mapping[int, Any], Sequence[Any]], Any]
"""A neuron's output from parameter leaves, by number, and the arrays that it reads; affine in the leaves."""


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
        parts: which part each of the outputs o belongs to, see `part_of_outputs`.
    """

    kind: str
    read: FeatureRead
    weight: Layout
    bias: Layout | None
    groups: int
    outputs: int
    whole: bool
    bias_leaves: frozenset[int]
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
        weight_source: the place of whether it ran, 1 or 0, for a use in a region that may be passed over.
        repeats: how many samples each row stands for.
    """

    leaves: tuple[int, ...]
    function: AffineFunction
    sources: tuple[int, ...]
    samples: int
    canonical: CanonicalUse | None
    is_identity: bool
    weight_source: int = -1
    repeats: int = 1


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
        may_be_passed_over: whether the last feature says if it ran, 1 or 0.
    """

    inside: AffineFunction
    parameters: Mapping[int, tuple[tuple[int, ...], Slice]]
    steps: int | None
    stacked: frozenset[int]
    may_be_passed_over: bool

    def __call__(self, leaves: Mapping[int, Any], features: Sequence[Any]) -> Any:
        if not self.may_be_passed_over:
            return self._output(leaves, list(features))
        output = self._output(leaves, list(features[:-1]))
        return output * features[-1].astype(output.dtype)

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
        steps: how often the region runs, for a loop; None for one that runs once.
        stacked: the region's leaves that are another slice of their parameter in each step.
        ran: the place outside of whether the region ran, 1 or 0, for one that may be passed over.
    """

    facts: Facts
    parameters: Mapping[int, Parameter]
    source: Callable[[int], int]
    steps: int | None = None
    stacked: frozenset[int] = frozenset()
    ran: int = -1

    def lift(self, use: ParameterUse) -> ParameterUse:
        """The use outside of the region."""
        parameters = {own: self.parameters[own] for own in use.leaves}
        stacked = self.stacked.intersection(use.leaves)
        sources = tuple(self.source(index) for index in use.sources)
        samples = use.samples * (self.steps or 1) if len(stacked) < len(use.leaves) else use.samples
        canonical = use.canonical
        if canonical is not None:
            apart = stacked and len(stacked) < len(use.leaves)
            laid_out = all(parameter.is_weight and parameter.factor == 1.0 for parameter in parameters.values())
            canonical = None if apart or not laid_out else self._lift(use, canonical, bool(stacked))
        may_be_passed_over = self.ran >= 0
        return ParameterUse(
            leaves=tuple(dict.fromkeys(leaf for parameter in parameters.values() for leaf in parameter.leaves)),
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
            weight_source=self.source(use.weight_source) if use.weight_source >= 0 else self.ran,
            repeats=use.repeats,
        )

    def _slice(self, parameter: Parameter) -> Slice:
        program = self.facts.program
        return Slice(program, tuple(program.inputs[leaf] for leaf in parameter.leaves), parameter.value)

    def _lift(self, use: ParameterUse, canonical: CanonicalUse, stacked: bool) -> CanonicalUse:
        parameters = {own: self.parameters[own] for own in use.leaves}
        layouts = {own: parameter.layout for own, parameter in parameters.items() if parameter.layout is not None}

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

    def _lift_read(self, read: FeatureRead, groups: int, stacked: bool) -> FeatureRead:
        maps, weight, weight_source = read.maps, read.weight, self.ran
        if self.steps is not None:
            maps = tuple(LoopFeatures(feature_map, stacked) for feature_map in maps)
        if weight is not None:
            weight = LoopFeatures(weight, stacked) if self.steps is not None else weight
            weight_source = self.source(read.weight_source)
        elif self.ran >= 0:
            weight = RunWeight(groups, read.samples // read.repeats)
        return replace(
            read,
            maps=maps,
            sources=tuple(self.source(index) for index in read.sources),
            samples=read.samples * (1 if stacked else self.steps or 1),
            weight=weight,
            weight_source=weight_source,
        )


def finish(facts: Facts, neuron: PartialNeuron, recorder: Recorder, cuts: bool) -> ParameterUse:
    """Make the use of a completed neuron, and add what it reads to the recorder.

    Args:
        facts: of the program.
        neuron: the neuron.
        recorder: of the program.
        cuts: whether the program cuts any value apart; if not, the neuron's outputs are one part.
    """
    sources = tuple(recorder.index(value) for value in neuron.features)
    program = facts.program
    inputs = tuple(program.inputs[leaf] for leaf in neuron.leaves)
    function = OwnFunction(Slice(program, inputs + neuron.features, neuron.value), neuron.leaves, neuron.shape)
    canonical = _canonical(facts, neuron, function, recorder, sources) if neuron.terms else None
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
    )


def _canonical(
    facts: Facts, neuron: PartialNeuron, function: AffineFunction, recorder: Recorder, sources: tuple[int, ...]
) -> CanonicalUse | None:
    terms, bias = neuron.terms or (), neuron.bias
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
        maps.append(features)
        places.append(recorder.derive(ElementFeatures(function, shapes, term.parameter.leaves), sources))
    layouts = tuple(term.layout for term in terms)
    kinds = {term.kind for term in terms}
    samples = neuron.samples * neuron.repeats
    sizes = tuple(term.inputs for term in terms)
    return CanonicalUse(
        kind=kinds.pop() if len(kinds) == 1 else "dense",
        read=FeatureRead(tuple(maps), tuple(places), sizes, samples, bias is not None, repeats=neuron.repeats),
        weight=layouts[0] if len(layouts) == 1 else Concatenate(layouts, 1),
        bias=bias.layout if bias else None,
        groups=neuron.groups,
        outputs=neuron.outputs,
        whole=all(term.parameter.whole for term in terms) and (bias is None or bias.parameter.whole),
        bias_leaves=frozenset(bias.parameter.leaves if bias else ()),
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
        scales: the leaves that are the scale, and not the bias.
    """

    function: AffineFunction
    shapes: Mapping[int, jax.ShapeDtypeStruct]
    scales: tuple[int, ...]

    def __call__(self, features: Sequence[Any]) -> Any:
        at = {leaf: jnp.zeros(shape.shape, shape.dtype) for leaf, shape in self.shapes.items()}
        ones = {leaf: jnp.ones_like(x) if leaf in self.scales else x for leaf, x in at.items()}
        return jax.jvp(lambda leaves: self.function(leaves, features), (at,), (ones,))[1]
