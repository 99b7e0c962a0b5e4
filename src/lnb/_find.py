"""From a traced loss to its neurons: the search's findings grouped, packed, and explained.

Outputs that use the same parameter elements are one neuron, whose metric sums over its uses (eq. 11, n their total).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._equations import EquationFeatureSet, EquationReading, Leaves
from lnb._feature_sets import FeatureSet, TiedFeatureSet
from lnb._program import Program, Recorder
from lnb._search import Search
from lnb._tracked import Labels
from lnb._uses import Form, Use

Features = FeatureSet | TiedFeatureSet | EquationFeatureSet


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
        bias_leaves: the leaves that are its bias.
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
    bias_leaves: frozenset[int] = frozenset()

    def without(self, left_out: frozenset[int]) -> FoundNeuron | None:
        """The neuron of its other leaves, these held; None where only leaves with the identity metric are left.

        Raises:
            ValueError: its weights cannot be parted.
        """
        rest = tuple(leaf for leaf in self.leaves if leaf not in left_out)
        if len(rest) == len(self.leaves):
            return self
        weights = set(self.leaves) - self.bias_leaves
        if not rest or weights <= left_out:
            return None
        kept = replace(self, leaves=rest, covered={leaf: self.covered[leaf] for leaf in rest})
        if self.features is None:
            return kept
        if isinstance(self.features, EquationFeatureSet):
            features = self.features.without(left_out)
            return replace(kept, features=features, inputs=features.inputs, pack=features.ravel)
        if isinstance(self.features, TiedFeatureSet) or not self.bias_leaves <= left_out or weights & left_out:
            raise ValueError("its weights cannot be trained apart from each other")

        def pack(values: Leaves) -> Array:
            zeros = {leaf: jnp.zeros(shape.shape, shape.dtype) for leaf, shape in self.equations.shapes}
            dtype = next(iter(values.values())).dtype
            return self.pack({leaf: values.get(leaf, zero.astype(dtype)) for leaf, zero in zeros.items()})[:, :-1]

        return replace(kept, features=self.features.without_bias(), pack=pack, bias_leaves=frozenset())

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
    if len(forms) == len(uses) and not fatal:
        if len(forms) == 1:
            return _canonical(uses, forms, search)
        sides = _sides(forms)
        if sides is not None:
            straight, transposed = sides
            return _tied(uses, straight, transposed, search) if transposed else _canonical(uses, straight, search)
    return _general(uses, search)


def _sides(forms: Sequence[Form]) -> tuple[list[Form], list[Form]] | None:
    """The forms that use a weight as W, and those that use its transpose; None if there are others.

    Forms of one side may differ in whether they add a bias, but not in which; W has a bias if its transpose has.
    """
    labels = [form.labels_of() for form in forms]
    weights = [None if x is None else x[:, : form.inputs] for x, form in zip(labels, forms, strict=True)]
    first = weights[forms.index(_representative(forms))]
    if first is None:
        return None
    sides: tuple[list[Form], list[Form]] = ([], [])
    biases: tuple[list[Labels], list[Labels]] = ([], [])
    for form, label, weight in zip(forms, labels, weights, strict=True):
        if label is None or weight is None:
            return None
        if np.array_equal(weight, first):
            side = 0
        elif len(weight) == 1 and np.array_equal(weight.transpose(0, 2, 1), first):
            side = 1
        else:
            return None
        sides[side].append(form)
        if form.has_bias:
            biases[side].append(label[:, form.inputs :])
    for side, bias in zip(sides, biases, strict=True):
        mixed = 0 < len(bias) < len(side)
        may_be_passed_over = any(form.reading.weight is not None for form in side)
        if (mixed and may_be_passed_over) or not all(np.array_equal(b, bias[0]) for b in bias):
            return None
    if sides[1] and any(form.reading.weight is not None for form in forms):
        return None
    return sides


def _identity(uses: list[Use], search: Search) -> FoundNeuron:
    leaves = tuple(dict.fromkeys(leaf for use in uses for leaf in use.leaves))
    size = sum(search.sizes[leaf] for leaf in leaves)

    def pack(values: Leaves) -> Array:
        return jnp.concatenate([values[leaf].reshape(-1) for leaf in leaves])[:, None, None]  # [g, 1, 1]

    return FoundNeuron(
        "identity", leaves, size, 0, 1, uses[0].samples, None, pack, dict.fromkeys(leaves), _equations(uses, search)
    )


def _canonical(uses: list[Use], forms: list[Form], search: Search) -> FoundNeuron:
    form = _representative(forms)
    leaves = tuple(dict.fromkeys(leaf for use in uses for leaf in use.leaves))
    features = _feature_set(forms)
    return FoundNeuron(
        form.kind,
        leaves,
        form.groups,
        form.inputs,
        form.outputs,
        features.samples,
        features,
        form.pack,
        _covered([form], leaves, search),
        _equations(uses, search),
        form.bias_leaves,
    )


def _tied(uses: list[Use], straight: list[Form], transposed: list[Form], search: Search) -> FoundNeuron:
    first, second = _representative(straight), _representative(transposed)
    features = TiedFeatureSet(_feature_set(straight), _feature_set(transposed))
    leaves = tuple(dict.fromkeys(leaf for use in uses for leaf in use.leaves))

    def pack(values: Leaves) -> Array:
        packed = first.pack(values)  # [1, i(+1), o]
        if not second.has_bias:
            return packed
        bias = second.pack(values)[:, second.inputs :].transpose(0, 2, 1)  # [1, i, 1]
        corner = ((0, 0), (0, packed.shape[1] - first.inputs), (0, 0))
        return jnp.concatenate([packed, jnp.pad(bias, corner)], axis=2)

    return FoundNeuron(
        "tied",
        leaves,
        1,
        first.inputs,
        first.outputs,
        features.samples,
        features,
        pack,
        _covered([first, second], leaves, search),
        _equations(uses, search),
        first.bias_leaves | second.bias_leaves,
    )


def _representative(forms: Sequence[Form]) -> Form:
    """One that packs the bias too, if there is one."""
    return next((form for form in forms if form.has_bias), forms[0])


def _feature_set(forms: Sequence[Form]) -> FeatureSet:
    """The features of forms that use one weight alike."""
    form = _representative(forms)
    lookups = all(other.kind == "embedding" for other in forms)
    return FeatureSet(tuple(other.reading for other in forms), form.groups, form.inputs, form.has_bias, lookups)


def _covered(forms: Sequence[Form], leaves: Sequence[int], search: Search) -> Mapping[int, Labels | None]:
    """For each leaf, which of its elements the forms pack; None for all."""
    if all(form.whole for form in forms):
        return dict.fromkeys(leaves)
    labels = [form.labels_of() for form in forms]
    used = np.concatenate([array.ravel() for array in labels if array is not None])
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
            lambda values, f: use.function({**zeros, **values}, f),
            use.sources,
            use.samples,
            use.weight_source,
            use.repeats,
        )

    shapes = tuple((leaf, search.shapes[leaf]) for leaf in leaves)
    size = sum(search.sizes[leaf] for leaf in leaves)
    return EquationFeatureSet(tuple(reading(use) for use in uses), shapes, size)
