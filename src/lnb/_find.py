"""From a traced loss to its neurons: the search's findings grouped, packed, and explained.

Outputs that use the same parameter elements are one neuron, whose metric sums over its uses (eq. 11, n their total).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._jaxpr import Program, Recorder
from lnb._linear_maps import (
    Arrays,
    DenseFeatures,
    EquationFeatureSet,
    EquationReading,
    FeatureSet,
    Leaves,
    Reading,
)
from lnb._search import Notes, Search
from lnb._tracked import Labels, Output, Term, core, varying_axes

Features = FeatureSet | EquationFeatureSet


@dataclass(frozen=True, eq=False)
class FoundNeuron:
    """A neuron of a traced loss; leaves by their number.

    Fields:
        kind: a row of the table in `_linear_maps`, "identity" or "general".
        leaves: the leaves' numbers.
        groups, inputs, outputs, samples: g, i (without the bias), o and n.
        features: where its statistics come from; None where the metric is the identity.
        pack: from the leaves to [g, i(+1), o], linear.
        covered: for each leaf, which of its elements belong to the neuron; None for all.
    """

    kind: str
    leaves: tuple[int, ...]
    groups: int
    inputs: int
    outputs: int
    samples: int
    features: Features | None
    pack: Callable[[Leaves], Array]
    covered: Mapping[int, Labels | None]

    @property
    def signature(self) -> tuple[Any, ...]:
        """What must not change from batch to batch."""
        has_bias = self.features is not None and self.features.has_bias
        return (self.kind, self.leaves, self.groups, self.inputs, self.outputs, has_bias)


@dataclass(frozen=True, eq=False)
class Plan:
    """How to evaluate a traced loss so that its neurons' features come out, and what was found in it.

    Fields:
        derived: arrays computed from the recorded ones, which follow them in `Features.arrays`.
        uncovered: for each leaf without a neuron, why.
    """

    program: Program
    recorder: Recorder
    derived: tuple[Callable[[Arrays], Array], ...]
    neurons: tuple[FoundNeuron, ...]
    uncovered: Mapping[int, str]

    def arrays(self, recorded: Sequence[Array]) -> tuple[Array, ...]:
        """Everything the neurons' feature sets read."""
        return (*recorded, *(derive(recorded) for derive in self.derived))


def plan(program: Program, leaf_shapes: Sequence[jax.ShapeDtypeStruct]) -> Plan:
    """Find the neurons of a program whose first inputs are the parameter leaves of these shapes."""
    notes = Notes()
    search = Search(program, notes, {leaf: prod(shape.shape) for leaf, shape in enumerate(leaf_shapes)})
    search.run({program.inputs[leaf]: search.leaf(leaf, tuple(shape.shape)) for leaf, shape in enumerate(leaf_shapes)})
    builder = _Builder(search, leaf_shapes)
    neurons = tuple(builder.neuron(uses) for uses in builder.groups())
    covered = {leaf for neuron in neurons for leaf in neuron.leaves}
    uncovered = {
        leaf: notes.fatal.get(leaf) or notes.reasons.get(leaf) or _why_unused(program, leaf)
        for leaf in range(len(leaf_shapes))
        if leaf not in covered
    }
    return Plan(program, search.recorder, tuple(builder.derived), neurons, uncovered)


def _why_unused(program: Program, leaf: int) -> str:
    del program, leaf
    return "never reaches the loss"


class _Builder:
    """Turns the outputs of a search into neurons."""

    def __init__(self, search: Search, leaf_shapes: Sequence[jax.ShapeDtypeStruct]) -> None:
        self.search = search
        self.leaf_shapes = leaf_shapes
        self.derived: list[Callable[[Arrays], Array]] = []
        self._sources: list[tuple[Output, Term]] = []
        excluded = search.notes.fatal
        self._outputs = [o for o in search.neurons if not set(o.leaves) <= set(excluded)]
        for output in self._outputs:
            for value in output.features:
                search.recorder.index(None, value)
        self._recorded = len(search.recorder.entries)

    def groups(self) -> list[list[Output]]:
        """The outputs that use common parameter elements, together, in the order of their first leaf."""
        groups: list[list[Output]] = []
        for output in self._outputs:
            touching = [group for group in groups if any(self._overlap(output, other) for other in group)]
            merged = [o for group in touching for o in group] + [output]
            groups = [group for group in groups if group not in touching] + [merged]
        return sorted(groups, key=lambda group: min(leaf for output in group for leaf in output.leaves))

    def _overlap(self, first: Output, second: Output) -> bool:
        shared = set(first.leaves).intersection(second.leaves).difference(self.search.notes.fatal)
        if not shared:
            return False
        labels = _labels(first), _labels(second)
        if labels[0] is None or labels[1] is None:
            return True
        return np.intersect1d(*labels).size > 0

    def neuron(self, outputs: list[Output]) -> FoundNeuron:
        """The neuron with these uses."""
        first = outputs[0]
        if all(output.terms == () for output in outputs):
            return self._identity(outputs)
        if not any(set(output.leaves).intersection(self.search.notes.fatal) for output in outputs):
            labels = [None if not o.terms else _labels(o) for o in outputs]
            same = len(outputs) == 1 or all(
                x is not None and labels[0] is not None and np.array_equal(x, labels[0]) for x in labels
            )
            layouts = {(o.groups, o.outputs, tuple(t.inputs for t in o.terms or ()), o.bias is None) for o in outputs}
            if first.terms and same and len(layouts) == 1:
                readings = [self._reading(output) for output in outputs]
                if all(reading is not None for reading in readings):
                    return self._canonical(outputs, [r for r in readings if r is not None])
        return self._general(outputs)

    def _identity(self, outputs: list[Output]) -> FoundNeuron:
        leaves = tuple(dict.fromkeys(leaf for output in outputs for leaf in output.leaves))
        size = sum(prod(self.leaf_shapes[leaf].shape) for leaf in leaves)

        def pack(values: Leaves) -> Array:
            return jnp.concatenate([values[leaf].reshape(-1) for leaf in leaves])[:, None, None]  # [g, 1, 1]

        covered = dict.fromkeys(leaves)
        return FoundNeuron("identity", leaves, size, 0, 1, outputs[0].samples, None, pack, covered)

    def _canonical(self, outputs: list[Output], readings: list[Reading]) -> FoundNeuron:
        first = outputs[0]
        terms, bias = first.terms or (), first.bias
        kinds = {term.kind for term in terms}

        def pack(leaves: Leaves) -> Array:
            parts = [term.pack(leaves) for term in terms] + ([bias.pack(leaves)] if bias else [])
            return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)  # [g, i(+1), o]

        inputs = sum(term.inputs for term in terms)
        features = FeatureSet(tuple(readings), first.groups, inputs, bias is not None, kinds == {"embedding"})
        kind = next(iter(kinds)) if len(kinds) == 1 else "dense"
        covered = self._covered(first)
        return FoundNeuron(
            kind, first.leaves, first.groups, inputs, first.outputs, features.samples, features, pack, covered
        )

    def _covered(self, output: Output) -> dict[int, Labels | None]:
        parameters = [term.parameter for term in output.terms or ()] + ([output.bias.parameter] if output.bias else [])
        if all(parameter.whole for parameter in parameters):
            return dict.fromkeys(output.leaves)
        used, covered = _labels(output), {}
        assert used is not None
        for leaf in output.leaves:
            start, size = self.search.offsets[leaf], self.search.sizes[leaf]
            mask = np.zeros(size, bool)
            mask[used[(used >= start) & (used < start + size)] - start] = True
            covered[leaf] = mask.reshape(self.leaf_shapes[leaf].shape)
        return covered

    def _general(self, outputs: list[Output]) -> FoundNeuron:
        every = dict.fromkeys(leaf for output in outputs for leaf in output.leaves)
        leaves = tuple(leaf for leaf in every if leaf not in self.search.notes.fatal)
        readings = tuple(
            EquationReading(self._with_all_leaves(output, leaves), self._indices(output), output.samples)
            for output in outputs
        )
        shapes = tuple((leaf, self.leaf_shapes[leaf]) for leaf in leaves)
        size = sum(prod(shape.shape) for _, shape in shapes)
        features = EquationFeatureSet(readings, shapes, size)
        covered = dict.fromkeys(leaves)
        return FoundNeuron("general", leaves, 1, size, 1, features.samples, features, features.ravel, covered)

    def _with_all_leaves(
        self, output: Output, leaves: Sequence[int]
    ) -> Callable[[Leaves, Sequence[Array]], Array]:
        missing = [leaf for leaf in output.leaves if leaf not in leaves]
        zeros = {leaf: np.zeros(self.leaf_shapes[leaf].shape, self.leaf_shapes[leaf].dtype) for leaf in missing}
        return lambda values, features: output.function({**zeros, **values}, features)

    def _indices(self, output: Output) -> tuple[int, ...]:
        return tuple(self.search.recorder.index(None, value) for value in output.features)

    def _reading(self, output: Output) -> Reading | None:
        maps = []
        for term in output.terms or ():
            if term.features is None:
                features = self._element_features(output, term)
            else:
                source = self.search.recorder.index(None, term.features.source)
                features = replace(term.features, source=source)
            if features is None:
                return None
            maps.append(features)
        return Reading(tuple(maps), tuple(term.inputs for term in output.terms or ()), output.samples)

    def _element_features(self, output: Output, term: Term) -> DenseFeatures | None:
        """The feature that each element of the output multiplies its one parameter element by: J 1."""
        if output.columns is None:
            return None
        axes = sorted(varying_axes(output.columns), key=lambda axis: -output.columns.strides[axis])
        rows = tuple(axis for axis in range(len(output.shape)) if axis not in axes)
        labels = core(output.columns, axes)
        if labels is None:
            return None
        labels = labels.transpose(np.argsort(np.argsort(axes)))
        if not np.array_equal(labels.ravel(), np.arange(output.groups)):
            return None
        indices = self._indices(output)
        shapes = {leaf: self.leaf_shapes[leaf] for leaf in output.leaves}

        def derive(recorded: Arrays) -> Array:
            at = {leaf: jnp.zeros(shape.shape, shape.dtype) for leaf, shape in shapes.items()}
            ones = {leaf: jnp.ones_like(x) if leaf in term.parameter.leaves else x for leaf, x in at.items()}
            features = [recorded[index] for index in indices]
            return jax.jvp(lambda leaves: output.function(leaves, features), (at,), (ones,))[1]

        self.derived.append(derive)
        return DenseFeatures(self._recorded + len(self.derived) - 1, tuple(axes), rows, ())


def _labels(output: Output) -> Labels | None:
    """Which parameter elements an output uses, in the order in which they are packed."""
    if not output.terms:
        return None
    parts = [term.labels() for term in output.terms] + ([output.bias.labels] if output.bias else [])
    if any(part is None for part in parts):
        return None
    return np.concatenate([part.ravel() for part in parts if part is not None])

