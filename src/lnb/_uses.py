"""One use of a neuron, as the search leaves it: its equations, and its canonical form where it has one.

A use found inside a loop, a branch or a recomputed region is lifted out of it, step by step, until it speaks of the
parameter leaves and of what the whole program records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnb._feature_sets import Reading
from lnb._linear_maps import DenseFeatures, FeatureMap, LoopFeatures, RunWeight
from lnb._program import Recorder
from lnb._tracked import Labels, Output, Parameter, Term, core, varying_axes


@dataclass(frozen=True, eq=False)
class Form:
    """The canonical form of a use: what it reads, and how its parameters are packed as [g, i(+1), o].

    Fields:
        kind: a row of the table in `_linear_maps`.
        reading: of the features.
        pack: from the leaves to [g, i(+1), o], linear.
        labels_of: which elements of the leaves are packed, in this order, flat.
        groups, outputs: g and o.
        has_bias: whether the last row is a bias.
        whole: every element of the leaves is packed.
        bias_leaves: the leaves that the last row is packed from.
    """

    kind: str
    reading: Reading
    pack: Callable[[Mapping[int, Any]], Any]
    labels_of: Callable[[], Labels | None]
    groups: int
    outputs: int
    has_bias: bool
    whole: bool
    bias_leaves: frozenset[int] = frozenset()

    @property
    def inputs(self) -> int:
        """i, without the bias."""
        return sum(self.reading.sizes)


@dataclass(frozen=True, eq=False)
class Use:
    """One use of a neuron.

    Fields:
        leaves: the parameter leaves' numbers.
        function: the neuron's output from the leaves and the recorded arrays at `sources`, affine in the leaves.
        sources: places in the recorder of the program in which the use stands.
        samples: n, `repeats` times the rows of `function`.
        form: its canonical form; None where it is kept as its equations.
        is_identity: its parameters are only added to data or set beside it.
        weight_source: the place of whether it ran, 1 or 0, for a use in a region that may be passed over.
    """

    leaves: tuple[int, ...]
    function: Callable[[Mapping[int, Any], Sequence[Any]], Any]
    sources: tuple[int, ...]
    samples: int
    form: Form | None
    is_identity: bool
    weight_source: int = -1
    repeats: int = 1


def finish(output: Output, recorder: Recorder, shapes: Mapping[int, Any]) -> Use:
    """The use that an ended neuron's output is; what it reads is added to the recorder."""
    sources = tuple(recorder.index(value) for value in output.features)
    form = _form(output, recorder, sources, shapes) if output.terms else None
    samples = output.samples * output.repeats
    identity = output.terms == ()
    return Use(output.leaves, output.function, sources, samples, form, identity, repeats=output.repeats)


def _form(output: Output, recorder: Recorder, sources: tuple[int, ...], shapes: Mapping[int, Any]) -> Form | None:
    terms, bias = output.terms or (), output.bias
    maps: list[FeatureMap] = []
    places = []
    for term in terms:
        if term.features is not None and term.source is not None:
            maps.append(term.features)
            places.append(recorder.index(term.source))
            continue
        features = _element_features(output)
        if features is None:
            return None
        maps.append(features)
        places.append(recorder.derive(_ones(output, term, shapes), sources))
    sizes = tuple(term.inputs for term in terms)
    samples = output.samples * output.repeats
    reading = Reading(tuple(maps), tuple(places), sizes, samples, bias is not None, repeats=output.repeats)

    def pack(leaves: Mapping[int, Any]) -> Any:
        parts = [term.pack(leaves) for term in terms] + ([bias.pack(leaves)] if bias else [])
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)  # [g, i(+1), o]

    def labels_of() -> Labels | None:
        parts = [term.labels() for term in terms] + ([bias.labels] if bias else [])
        if any(part is None for part in parts):
            return None
        return np.concatenate([part for part in parts if part is not None], axis=1)

    kinds = {term.kind for term in terms}
    whole = all(term.parameter.whole for term in terms) and (bias is None or bias.parameter.whole)
    kind = kinds.pop() if len(kinds) == 1 else "dense"
    bias_leaves = frozenset(bias.parameter.leaves if bias else ())
    return Form(kind, reading, pack, labels_of, output.groups, output.outputs, bias is not None, whole, bias_leaves)


def _element_features(output: Output) -> DenseFeatures | None:
    """Reads X [g, n, 1] of a scale from an array like its output, by the labels of the output's axes."""
    if output.columns is None:
        return None
    strides = output.columns.strides
    axes = tuple(sorted(varying_axes(output.columns), key=lambda axis: -strides[axis]))
    labels = core(output.columns, axes)
    if labels is None:
        return None
    labels = labels.transpose(np.argsort(np.argsort(axes)))
    if not np.array_equal(labels.ravel(), np.arange(output.groups)):
        return None
    return DenseFeatures(axes, tuple(a for a in range(len(output.shape)) if a not in axes), ())


def _ones(output: Output, term: Term, shapes: Mapping[int, Any]) -> Callable[[Sequence[Any]], Any]:
    """The feature that each element of the output multiplies its one parameter element by: J 1."""

    def derive(features: Sequence[Any]) -> Any:
        at = {leaf: jnp.zeros(shapes[leaf].shape, shapes[leaf].dtype) for leaf in output.leaves}
        ones = {leaf: jnp.ones_like(x) if leaf in term.parameter.leaves else x for leaf, x in at.items()}
        return jax.jvp(lambda leaves: output.function(leaves, features), (at,), (ones,))[1]

    return derive


@dataclass(frozen=True, eq=False)
class Passage:
    """How a use inside a region speaks of the program around it.

    Fields:
        parameters: the parameter outside that each of the region's own leaves is.
        offsets: where the labels of the region's own leaves start.
        source: the place outside of what the region records at an index.
        steps: how often the region runs, for a loop; None for one that runs once.
        stacked: the region's leaves that are another slice of their parameter in each step.
        ran: the place outside of whether the region ran, 1 or 0, for one that may be passed over.
    """

    parameters: Mapping[int, Parameter]
    offsets: Mapping[int, int]
    source: Callable[[int], int]
    steps: int | None = None
    stacked: frozenset[int] = frozenset()
    ran: int = -1

    def lift(self, use: Use) -> Use:
        """The use outside of the region."""
        leaves = tuple(dict.fromkeys(leaf for own in use.leaves for leaf in self.parameters[own].leaves))
        sources = tuple(self.source(index) for index in use.sources)
        stacked = {own for own in use.leaves if own in self.stacked}
        per_step = self.steps is not None and len(stacked) < len(use.leaves)
        samples = use.samples * self.steps if per_step and self.steps else use.samples
        form = None
        if use.form is not None and stacked in (set(), set(use.leaves)):
            form = self._lift_form(use, use.form, bool(stacked))
        identity = use.is_identity and all(self.parameters[own].layout is not None for own in use.leaves)
        weight_source = self.source(use.weight_source) if use.weight_source >= 0 else self.ran
        function = self._function(use)
        if self.ran >= 0:
            function, sources = _if_it_ran(function), (*sources, self.ran)
        return Use(leaves, function, sources, samples, form, identity, weight_source, use.repeats)

    def _function(self, use: Use) -> Callable[[Mapping[int, Any], Sequence[Any]], Any]:
        parameters = {own: self.parameters[own] for own in use.leaves}

        def function(leaves: Mapping[int, Any], features: Sequence[Any]) -> Any:
            own = {leaf: parameter.function(leaves) for leaf, parameter in parameters.items()}
            if self.steps is None:
                return use.function(own, features)
            axes = {leaf: 0 if leaf in self.stacked else None for leaf in own}
            in_axes = (axes, [0] * len(features))
            if not features and not self.stacked.intersection(own):
                return jnp.broadcast_to(
                    use.function(own, features), (self.steps, *jax.eval_shape(use.function, own, features).shape)
                )
            return jax.vmap(lambda p, f: use.function(p, f), in_axes=in_axes)(own, list(features))

        return function

    def _lift_form(self, use: Use, form: Form, stacked: bool) -> Form | None:
        parameters = {own: self.parameters[own] for own in use.leaves}
        if not all(parameter.is_layout and parameter.factor == 1.0 for parameter in parameters.values()):
            return None
        whole = form.whole and all(parameter.whole for parameter in parameters.values())
        steps = self.steps if stacked else None

        def pack(leaves: Mapping[int, Any]) -> Any:
            own = {leaf: p.layout(leaves) for leaf, p in parameters.items() if p.layout is not None}
            if not stacked:
                return form.pack(own)
            packed = jax.vmap(form.pack)(own)  # [step, g, i(+1), o]
            return packed.reshape(-1, *packed.shape[2:])

        def labels_of() -> Labels | None:
            inside = form.labels_of()
            if inside is None:
                return None
            flat = {}
            for own, parameter in parameters.items():
                assert parameter.labels is not None
                flat[own] = parameter.labels.reshape(steps or 1, -1)
            width = max(self.offsets[own] + array.shape[1] for own, array in flat.items())
            table = np.full((steps or 1, width), -1, np.int64)
            for own, array in flat.items():
                table[:, self.offsets[own] : self.offsets[own] + array.shape[1]] = array
            return table[:, inside].reshape(-1, *inside.shape[1:])

        reading = form.reading
        maps = reading.maps
        if self.steps is not None:
            maps = tuple(LoopFeatures(feature_map, stacked) for feature_map in maps)
        samples = reading.samples * (1 if stacked else self.steps or 1)
        sources = tuple(self.source(index) for index in reading.sources)
        weight, weight_source = reading.weight, self.ran
        if weight is not None:
            weight = LoopFeatures(weight, stacked) if self.steps is not None else weight
            weight_source = self.source(reading.weight_source)
        elif self.ran >= 0:
            weight = RunWeight(form.groups, reading.samples // reading.repeats)
        lifted = replace(reading, maps=maps, sources=sources, samples=samples)
        lifted = replace(lifted, weight=weight, weight_source=weight_source)
        groups = form.groups * (steps or 1)
        bias_leaves = frozenset(leaf for own in form.bias_leaves for leaf in parameters[own].leaves)
        return replace(
            form,
            reading=lifted,
            pack=pack,
            labels_of=labels_of,
            groups=groups,
            whole=whole,
            bias_leaves=bias_leaves,
        )


def _if_it_ran(
    function: Callable[[Mapping[int, Any], Sequence[Any]], Any],
) -> Callable[[Mapping[int, Any], Sequence[Any]], Any]:
    """The function times its last feature: whether its region ran."""

    def weighted(leaves: Mapping[int, Any], features: Sequence[Any]) -> Any:
        output = function(leaves, features[:-1])
        return output * features[-1].astype(output.dtype)

    return weighted
