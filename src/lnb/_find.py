"""From a traced loss to its neurons: the search's findings grouped, packed, and explained.

Outputs that use the same parameter elements are one neuron, whose metric sums over its uses (eq. 11, n their total).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._equations import EquationFeatureSet, EquationReading, Leaves
from lnb._jaxpr import Program, Recorder
from lnb._linear_maps import FeatureSet
from lnb._search import Search
from lnb._tracked import Labels
from lnb._uses import Form, Use

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
        equations: the neuron kept as its equations, whatever its kind: slower, and the reference for the rest.
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
    equations: EquationFeatureSet

    @property
    def signature(self) -> tuple[Any, ...]:
        """What must not change from batch to batch."""
        has_bias = self.features is not None and self.features.has_bias
        return (self.kind, self.leaves, self.groups, self.inputs, self.outputs, has_bias)


@dataclass(frozen=True, eq=False)
class Plan:
    """How to evaluate a traced loss so that its neurons' features come out, and what was found in it.

    Fields:
        uncovered: for each leaf without a neuron that is not ignored, why.
    """

    program: Program
    recorder: Recorder
    neurons: tuple[FoundNeuron, ...]
    uncovered: Mapping[int, str]

    def needed(self) -> set[int]:
        """The places of the recorded arrays that a feature set reads."""
        places: set[int] = set()
        for neuron in self.neurons:
            for reading in neuron.features.readings if neuron.features else ():
                places.update(reading.sources)
                places.add(reading.weight_source)
        return places


def plan(program: Program, shapes: Sequence[jax.ShapeDtypeStruct], ignored: frozenset[int] = frozenset()) -> Plan:
    """Find the neurons of a program whose first inputs are the parameter leaves of these shapes.

    Leaves that are ignored count as data.
    """
    search = Search(program, dict(enumerate(shapes)))
    search.run({program.inputs[leaf]: search.leaf(leaf) for leaf in range(len(shapes)) if leaf not in ignored})
    fatal, reasons = search.notes.fatal, search.notes.reasons
    uses = [use for use in search.uses if not set(use.leaves) <= set(fatal)]
    neurons = tuple(_neuron(group, search) for group in _groups(uses, fatal))
    covered = {leaf for neuron in neurons for leaf in neuron.leaves}
    uncovered = {
        leaf: fatal.get(leaf) or reasons.get(leaf) or "never reaches the loss"
        for leaf in range(len(shapes))
        if leaf not in covered and leaf not in ignored
    }
    return Plan(program, search.recorder, neurons, uncovered)


def _groups(uses: Sequence[Use], fatal: Mapping[int, str]) -> list[list[Use]]:
    """The uses of common parameter elements, together, in the order of their first leaf."""
    groups: list[list[Use]] = []
    for use in uses:
        touching = [group for group in groups if any(_overlap(use, other, fatal) for other in group)]
        merged = [other for group in touching for other in group] + [use]
        groups = [group for group in groups if group not in touching] + [merged]
    return sorted(groups, key=lambda group: min(leaf for use in group for leaf in use.leaves))


def _overlap(first: Use, second: Use, fatal: Mapping[int, str]) -> bool:
    if not set(first.leaves).intersection(second.leaves).difference(fatal):
        return False
    ours, theirs = _labels(first.form), _labels(second.form)
    return ours is None or theirs is None or np.intersect1d(ours, theirs).size > 0


def _labels(form: Form | None) -> Labels | None:
    return None if form is None else form.labels_of()


def _neuron(uses: list[Use], search: Search) -> FoundNeuron:
    """The neuron with these uses."""
    if all(use.is_identity for use in uses):
        return _identity(uses, search)
    forms = [use.form for use in uses if use.form is not None]
    fatal = any(leaf in search.notes.fatal for use in uses for leaf in use.leaves)
    if len(forms) == len(uses) and not fatal and _same_packing(forms):
        return _canonical(uses, forms, search)
    return _general(uses, search)


def _same_packing(forms: list[Form]) -> bool:
    if len(forms) == 1:
        return True
    shapes = {(f.groups, f.outputs, f.has_bias, f.kind == "embedding", f.reading.sizes) for f in forms}
    if len(shapes) > 1:
        return False
    labels = [form.labels_of() for form in forms]
    known = [x for x in labels if x is not None]
    return len(known) == len(labels) and all(np.array_equal(x, known[0]) for x in known)


def _identity(uses: list[Use], search: Search) -> FoundNeuron:
    leaves = tuple(dict.fromkeys(leaf for use in uses for leaf in use.leaves))
    size = sum(search.sizes[leaf] for leaf in leaves)

    def pack(values: Leaves) -> Array:
        return jnp.concatenate([values[leaf].reshape(-1) for leaf in leaves])[:, None, None]  # [g, 1, 1]

    return FoundNeuron(
        "identity", leaves, size, 0, 1, uses[0].samples, None, pack, dict.fromkeys(leaves), _equations(uses, search)
    )


def _canonical(uses: list[Use], forms: list[Form], search: Search) -> FoundNeuron:
    use, first = uses[0], forms[0]
    inputs = sum(first.reading.sizes)
    readings = tuple(form.reading for form in forms)
    features = FeatureSet(readings, first.groups, inputs, first.has_bias, first.kind == "embedding")
    covered: Mapping[int, Labels | None] = dict.fromkeys(use.leaves)
    if not first.whole:
        covered = _covered(first, use.leaves, search)
    return FoundNeuron(
        first.kind,
        use.leaves,
        first.groups,
        inputs,
        first.outputs,
        features.samples,
        features,
        first.pack,
        covered,
        _equations(uses, search),
    )


def _covered(form: Form, leaves: Sequence[int], search: Search) -> dict[int, Labels | None]:
    """For each leaf, which of its elements the form packs."""
    used = form.labels_of()
    assert used is not None
    covered: dict[int, Labels | None] = {}
    for leaf in leaves:
        start, size = search.offsets[leaf], search.sizes[leaf]
        mask = np.zeros(size, bool)
        mask[used[(used >= start) & (used < start + size)] - start] = True
        covered[leaf] = mask.reshape(search.shapes[leaf].shape)
    return covered


def _general(uses: list[Use], search: Search) -> FoundNeuron:
    features = _equations(uses, search)
    leaves, size = tuple(leaf for leaf, _ in features.shapes), features.inputs
    covered = dict.fromkeys(leaves)
    return FoundNeuron("general", leaves, 1, size, 1, features.samples, features, features.ravel, covered, features)


def _equations(uses: list[Use], search: Search) -> EquationFeatureSet:
    """The neuron kept as its equations; leaves that it is not linear in are held at zero."""
    every = dict.fromkeys(leaf for use in uses for leaf in use.leaves)
    leaves = tuple(leaf for leaf in every if leaf not in search.notes.fatal)
    zeros = {
        leaf: np.zeros(search.shapes[leaf].shape, search.shapes[leaf].dtype) for leaf in every if leaf not in leaves
    }

    def reading(use: Use) -> EquationReading:
        return EquationReading(
            lambda values, f: use.function({**zeros, **values}, f), use.sources, use.samples, use.weight_source
        )

    shapes = tuple((leaf, search.shapes[leaf]) for leaf in leaves)
    size = sum(search.sizes[leaf] for leaf in leaves)
    return EquationFeatureSet(tuple(reading(use) for use in uses), shapes, size)
