"""From a traced loss to its neurons: the uses of common parameter elements, together.

Outputs that use the same parameter elements are one neuron, whose metric sums over its uses (eq. 11, n their total).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnb._features import (
    AnyFeatureSet,
    FeatureSet,
    JacobianFeatures,
    JacobianRead,
    RaggedRead,
    TiedFeatureSet,
    WeightRead,
)
from lnb._features._layout import Layout, Transpose, ravel
from lnb._finding._element_ids import ElementIds, have_common
from lnb._finding._facts import Facts
from lnb._finding._linearised import linearise
from lnb._finding._parts import in_parts
from lnb._finding._search import search
from lnb._finding._uses import CanonicalUse, ParameterUse
from lnb._neuron import Neuron
from lnb._program import Program, Recorder


@dataclass(frozen=True, eq=False)
class Plan:
    """The neurons of a traced loss, and how to evaluate it so that their features come out.

    Fields:
        program, recorder: the loss, and what is to be recorded of it.
        neurons: the neurons, with the features of this trace.
        uncovered: for each leaf without a neuron that is not ignored, why.
    """

    program: Program
    recorder: Recorder
    neurons: tuple[Neuron, ...]
    uncovered: Mapping[int, str]

    def recorded_places(self) -> set[int]:
        """The places of the recorded arrays that a feature set reads."""
        reads = (read for neuron in self.neurons if neuron.features for read in neuron.features.reads)
        return {place for read in reads for place in read.places}


def plan(
    program: Program,
    shapes: Sequence[jax.ShapeDtypeStruct],
    paths: Sequence[str],
    ignored: frozenset[int] = frozenset(),
) -> Plan:
    """Find the neurons of a program whose first inputs are the parameter leaves of these shapes and paths.

    Leaves that are ignored count as data.
    """
    facts = Facts(program, dict(enumerate(shapes)))
    leaves = [leaf for leaf in range(len(shapes)) if leaf not in ignored]
    found = search(facts, {program.inputs[leaf]: facts.leaf(leaf) for leaf in leaves}, program.outputs[:1])
    excluded, reasons = found.reasons.excluded, found.reasons.reasons
    uses = [use for use in found.uses if not set(use.roots) <= set(excluded)]
    groups = _groups(uses, excluded, facts)
    neurons = tuple(_neuron(group, facts, excluded, paths, index) for index, group in enumerate(groups))
    covered = {leaf for neuron in neurons for leaf in neuron.leaves}
    uncovered = {
        leaf: excluded.get(leaf) or reasons.get(leaf) or "never reaches the loss"
        for leaf in leaves
        if leaf not in covered
    }
    return Plan(program, facts.recorder, neurons, uncovered)


def _groups(uses: Sequence[ParameterUse], excluded: Mapping[int, str], facts: Facts) -> list[list[ParameterUse]]:
    """The uses of common parameter elements, together, in the order of their first leaf."""
    groups: list[list[ParameterUse]] = []
    of_leaf: dict[int, list[ParameterUse]] = {}  # the uses that read it
    for use in uses:
        leaves = [leaf for leaf in use.roots if leaf not in excluded]
        others = {id(other): other for leaf in leaves for other in of_leaf.get(leaf, ())}
        touched = {key for key, other in others.items() if _overlap(use, other, facts)}
        touching = [group for group in groups if not touched.isdisjoint(map(id, group))] if touched else []
        merged = [other for group in touching for other in group] + [use]
        groups = [group for group in groups if group not in touching] + [merged]
        for leaf in leaves:
            of_leaf.setdefault(leaf, []).append(use)
    return sorted(groups, key=lambda group: min(leaf for use in group for leaf in use.roots))


def _overlap(first: ParameterUse, second: ParameterUse, facts: Facts) -> bool:
    """Whether two uses of common leaves may have elements of them in common."""
    if not facts.reparametrised.keys().isdisjoint(first.leaves + second.leaves):
        return True
    ours, theirs = first.canonical, second.canonical
    if ours is None or theirs is None:
        return True
    if (ours.whole or theirs.whole) and not set(first.leaves).isdisjoint(second.leaves):
        return True
    return have_common(ours.packing.read(facts.ids), theirs.packing.read(facts.ids))


def _neuron(
    uses: list[ParameterUse], facts: Facts, excluded: Mapping[int, str], paths: Sequence[str], index: int
) -> Neuron:
    """Make the neuron that has these uses."""
    every = tuple(dict.fromkeys(leaf for use in uses for leaf in use.roots))
    forms = [use.canonical for use in uses if use.canonical is not None]
    reparametrised = any(leaf in facts.reparametrised for use in uses for leaf in use.leaves)

    def neuron(
        kind: str,
        sizes: tuple[int, int, int],
        features: AnyFeatureSet | None,
        packing: tuple[Layout, Layout | None, Layout | None],
        leaves: tuple[int, ...] = every,
        whole: bool = True,
        bias_leaves: frozenset[int] = frozenset(),
        side: int | None = None,
        parts: tuple[int, ...] = (),
    ) -> Neuron:
        weight, bias, output_bias = packing
        groups, inputs, outputs = sizes
        return Neuron(
            paths=tuple(paths[leaf] for leaf in leaves),
            kind=kind,
            groups=groups,
            inputs=inputs,
            outputs=outputs,
            samples=features.samples if features else uses[0].samples,
            has_bias=bias is not None,
            index=index,
            leaves=leaves,
            shapes=tuple(facts.shapes[leaf] for leaf in leaves),
            weight=weight,
            bias=bias,
            output_bias=output_bias,
            whole=whole,
            bias_leaves=bias_leaves,
            parts=parts,
            features=features,
            side=side,
        )

    if all(use.is_identity for use in uses) and not reparametrised:
        size = sum(facts.sizes[leaf] for leaf in every)
        layout = ravel({leaf: facts.sizes[leaf] for leaf in every}, (size, 1, 1))
        return neuron("identity", (size, 0, 1), None, (layout, None, None))
    sides = None
    if len(forms) == len(uses) and not set(every).intersection(excluded) and not reparametrised:
        sides = (forms, []) if len(forms) == 1 else _sides(forms, facts)
    if sides is None:
        of_weights = _of_weights(uses, facts, excluded) if reparametrised else None
        features = of_weights or _jacobian(uses, facts, excluded)
        leaves = tuple(leaf for leaf, _ in features.shapes)
        layout = ravel({leaf: facts.sizes[leaf] for leaf in leaves}, (1, features.inputs, 1))
        kind = "reparametrised" if reparametrised else "general"
        sizes, side = (1, features.inputs, 1), max(use.side for use in uses)
        return neuron(kind, sizes, features, (layout, None, None), leaves, side=side)
    straight, transposed = sides
    form = _representative(straight)
    sizes = (form.groups, form.inputs, form.outputs)
    if not transposed:
        parts, weight, bias = _parts(straight)
        return neuron(
            form.kind,
            sizes,
            _feature_set(straight),
            (weight, bias, None),
            whole=form.whole,
            bias_leaves=form.bias_leaves,
            parts=parts,
        )
    other = _representative(transposed)
    return neuron(
        "tied",
        sizes,
        TiedFeatureSet(_feature_set(straight), _feature_set(transposed)),
        (form.weight, form.bias, None if other.bias is None else Transpose(other.bias, (0, 2, 1))),  # [1, i, 1]
        whole=form.whole and other.whole,
        bias_leaves=form.bias_leaves | other.bias_leaves,
    )


def _sides(forms: Sequence[CanonicalUse], facts: Facts) -> tuple[list[CanonicalUse], list[CanonicalUse]] | None:
    """Part the uses of a weight W from those of its transpose; None if there are other uses.

    Uses of one side may differ in whether they add a bias, but not in which; W has a bias if its transpose has.
    """
    weights = [form.weight.read(facts.ids) for form in forms]
    first = weights[forms.index(_representative(forms))]
    sides: tuple[list[CanonicalUse], list[CanonicalUse]] = ([], [])
    biases: tuple[list[ElementIds], list[ElementIds]] = ([], [])
    for form, weight in zip(forms, weights, strict=True):
        if np.array_equal(weight, first):
            side = 0
        elif len(weight) == 1 and np.array_equal(weight.transpose(0, 2, 1), first):
            side = 1
        else:
            return None
        sides[side].append(form)
        if form.bias is not None:
            biases[side].append(form.bias.read(facts.ids))
    for side, bias in zip(sides, biases, strict=True):
        mixed = 0 < len(bias) < len(side)
        may_be_passed_over = any(form.read.may_be_passed_over for form in side)
        if (mixed and may_be_passed_over) or not all(np.array_equal(b, bias[0]) for b in bias):
            return None
    if sides[1] and any(form.read.may_be_passed_over for form in forms):
        return None
    return sides


def _representative(forms: Sequence[CanonicalUse]) -> CanonicalUse:
    """A use that has the bias, if there is one."""
    return next((form for form in forms if form.bias is not None), forms[0])


def _parts(forms: Sequence[CanonicalUse]) -> tuple[tuple[int, ...], Layout, Layout | None]:
    """The sizes of the parts that every use cuts the outputs into, and weight and bias with each part together."""
    form = _representative(forms)
    if not form.parts or any(other.parts != form.parts for other in forms):
        return (), form.weight, form.bias
    sizes = tuple(form.parts.count(part) for part in range(max(form.parts) + 1))
    weight = in_parts(form.weight, (form.groups, form.inputs, form.outputs), form.parts)
    bias = None if form.bias is None else in_parts(form.bias, (form.groups, 1, form.outputs), form.parts)
    return sizes, weight, bias


def _feature_set(forms: Sequence[CanonicalUse]) -> FeatureSet:
    """The features of uses that use one weight alike."""
    form = _representative(forms)
    lookups = all(other.kind == "embedding" for other in forms)
    reads = tuple(other.read for other in forms)
    alike = all(read.sizes == form.read.sizes for read in reads)
    flags = [other.hidden if alike else (any(other.hidden),) * len(form.hidden) for other in forms]
    hidden = tuple(any(column) for column in zip(*flags, strict=True))
    return FeatureSet(reads, form.groups, form.inputs, form.bias is not None, lookups, hidden)


def _of_weights(uses: Sequence[ParameterUse], facts: Facts, excluded: Mapping[int, str]) -> JacobianFeatures | None:
    """The neuron of parameters that one weight is computed from; None where its uses are not all canonical, or part."""
    forms = [use.canonical for use in uses if use.canonical is not None]
    leaves = tuple(dict.fromkeys(leaf for use in uses for leaf in use.leaves))
    every = tuple(dict.fromkeys(leaf for use in uses for leaf in use.roots))
    is_complex = any(jnp.issubdtype(facts.shapes[leaf].dtype, jnp.complexfloating) for leaf in leaves)
    if is_complex or len(forms) < len(uses) or any(isinstance(form.read, RaggedRead) for form in forms):
        return None
    sides = _sides(forms, facts)
    if sides is None or sides[1] or not set(every).isdisjoint(excluded):
        return None
    packing = _representative(forms).packing
    function, sources = linearise(replace(uses[0], leaves=leaves, function=_Packed(packing), sources=()), facts)
    read = WeightRead(function, sources, _feature_set(forms))
    shapes = tuple((leaf, facts.shapes[leaf]) for leaf in every)
    return JacobianFeatures((read,), shapes, sum(facts.sizes[leaf] for leaf, _ in shapes))


@dataclass(frozen=True)
class _Packed:
    """A weight in packed form, as a function of its leaves."""

    packing: Layout

    def __call__(self, leaves: Mapping[int, Any], features: Sequence[Any]) -> Any:
        del features
        return self.packing.read(leaves)


def _jacobian(uses: Sequence[ParameterUse], facts: Facts, excluded: Mapping[int, str]) -> JacobianFeatures:
    """The neuron kept as its equations; leaves that belong to no neuron are held."""
    every = tuple(dict.fromkeys(leaf for use in uses for leaf in use.roots))
    reads = []
    for use in uses:
        function, sources = linearise(use, facts)
        reads.append(JacobianRead(function, sources, use.samples, use.weight_source, use.repeats, use.is_sampled))
    shapes = tuple((leaf, facts.shapes[leaf]) for leaf in every if leaf not in excluded)
    return JacobianFeatures(tuple(reads), shapes, sum(facts.sizes[leaf] for leaf, _ in shapes))
