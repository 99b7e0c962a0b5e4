"""The parts that a program cuts a neuron's outputs into, such as q, k and v of a fused weight.

Outputs that one operation reads together belong to one part. So do outputs that come together again as one linear
function of the neuron's output, as the halves do that a rotary embedding turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from itertools import groupby, pairwise
from math import gcd, prod

import numpy as np
from jax.extend.core import primitives

from lnb._features._layout import Concatenate, Layout, Reshape, Slice
from lnb._finding._element_ids import ElementIds, distinct_ids
from lnb._finding._facts import Facts
from lnb._finding._values import PartialNeuron
from lnb._finding.rules._layouts import layout_primitives, rearranged
from lnb._program import Equation, NotUnderstoodError, Value, unlisted

_LINEAR = (
    primitives.add_p,
    primitives.sub_p,
    primitives.add_jaxvals_p,
    primitives.neg_p,
    primitives.select_n_p,
    primitives.concatenate_p,
    primitives.complex_p,
    primitives.real_p,
    primitives.imag_p,
)


def part_of_outputs(facts: Facts, neuron: PartialNeuron) -> tuple[int, ...]:
    """The number of the part that each of the outputs o belongs to; () where all belong to one.

    Outputs that nothing reads are a part of their own.
    """
    if neuron.output_ids is None or neuron.outputs == 1:
        return ()
    readers, parts = facts.program.readers, _Parts(neuron.outputs)
    ids: dict[Value, ElementIds] = {neuron.value: neuron.output_ids}
    waiting = list(readers.get(neuron.value, ()))  # in order, which is a heap
    seen: set[int] = set()
    while waiting and not parts.are_one:
        position = heappop(waiting)
        if position in seen:
            continue
        seen.add(position)
        equation = facts.program.equations[position]
        given = {k: ids[value] for k, value in enumerate(equation.inputs) if value in ids}
        for value, own in zip(equation.outputs, _follow(facts, equation, given, parts), strict=False):
            ids[value] = own
            for reader in readers.get(value, ()):
                heappush(waiting, reader)
    for value in facts.program.outputs:
        if value in ids:
            parts.join(ids[value])
    return parts.numbers()


class _Parts:
    """Sets of outputs that belong together. At first each output is a set of its own."""

    def __init__(self, outputs: int) -> None:
        self._set_of = np.arange(outputs)
        self._is_read = np.zeros(outputs, bool)

    def join(self, *ids: ElementIds) -> int:
        """Put the outputs with these ids into one set, and give the id of one of them."""
        outputs = np.concatenate([_distinct(each) for each in ids]) % self._set_of.size
        if not outputs.size:  # nothing is read, so that any output stands for it
            return 0
        sets = self._set_of[outputs]
        self._set_of[np.isin(self._set_of, sets)] = sets.min()
        self._is_read[outputs] = True
        return int(outputs[0])

    @property
    def are_one(self) -> bool:
        """Whether all outputs are in one set."""
        return not self._set_of.any()

    def numbers(self) -> tuple[int, ...]:
        """The sets' numbers, in the order of their first outputs."""
        if np.unique(self._set_of[self._is_read]).size < 2:
            return ()
        sets = np.where(self._is_read, self._set_of, self._set_of.size)
        _, first, inverse = np.unique(sets, return_index=True, return_inverse=True)
        return tuple(np.argsort(np.argsort(first))[inverse].tolist())


def _distinct(ids: ElementIds) -> np.ndarray:
    """The ids that appear."""
    return distinct_ids(_repeated_once(ids))


def _repeated_once(ids: ElementIds) -> ElementIds:
    """The ids, with length 1 along the axes that they repeat along."""
    return ids[tuple(slice(None) if stride else slice(1) for stride in ids.strides)]


def _follow(facts: Facts, equation: Equation, given: Mapping[int, ElementIds], parts: _Parts) -> Sequence[ElementIds]:
    """The ids of an equation's outputs; none where the equation does more than to rearrange, to cut or to add.

    Args:
        facts: of the program.
        equation: the equation.
        given: the ids of its inputs that are made of the neuron's outputs, by their places.
        parts: what the equation reads together is joined here.
    """
    shape, (ids, *others) = facts.shape[equation.outputs[0]], given.values()
    if list(given) == [0]:
        try:
            moved = _cut(facts, equation, ids)
        except NotUnderstoodError:  # of an unknown form, so that it may read all that is given
            moved = None
        if moved is not None:
            return moved
    if not _is_linear(facts, equation, given):
        for each in given.values():
            parts.join(each)
        return []
    if others or ids.shape != shape:
        return [np.broadcast_to(np.asarray(parts.join(*given.values())), shape)]
    return [ids]


def _is_linear(facts: Facts, equation: Equation, given: Mapping[int, ElementIds]) -> bool:
    """Whether an equation adds what is given, or multiplies it by what depends on no parameter, such as an angle."""
    if equation.primitive in (primitives.mul_p, primitives.div_p):
        others = [value for k, value in enumerate(equation.inputs) if k not in given]
        divides = equation.primitive is primitives.div_p and 1 in given
        return len(others) == 1 and not divides and not facts.ancestors.get(others[0])
    return equation.primitive in _LINEAR


def _cut(facts: Facts, equation: Equation, ids: ElementIds) -> Sequence[ElementIds] | None:
    """The ids of what an equation rearranges or cuts apart; None for other equations."""
    p = equation.parameters
    if equation.primitive in layout_primitives():
        moved = rearranged(equation, facts.shape[equation.outputs[0]], ids)
        return None if moved is None else [moved]
    if equation.primitive is unlisted().split:
        return np.split(ids, np.cumsum(p["sizes"])[:-1], p["axis"])
    if equation.primitive is unlisted().unstack:
        return list(np.moveaxis(ids, p["axis"], 0))
    if equation.primitive is primitives.dynamic_slice_p and all(map(facts.is_constant, equation.inputs[1:])):
        sizes, starts = p["slice_sizes"], [int(facts.constant(value)) for value in equation.inputs[1:]]
        starts = [min(max(s, 0), length - n) for s, n, length in zip(starts, sizes, ids.shape, strict=True)]
        return [ids[tuple(slice(s, s + n) for s, n in zip(starts, sizes, strict=True))]]
    if equation.primitive is primitives.gather_p and facts.is_constant(equation.inputs[1]):
        return _chosen(facts, equation, ids)
    return None


def _chosen(facts: Facts, equation: Equation, ids: ElementIds) -> Sequence[ElementIds] | None:
    """The ids after a gather at constant places of one axis; None for other gathers."""
    numbers, sizes = equation.parameters["dimension_numbers"], equation.parameters["slice_sizes"]
    axes = numbers.start_index_map
    if axes != numbers.collapsed_slice_dims or len(axes) != 1 or prod(sizes) * ids.shape[axes[0]] != ids.size:
        return None
    places = np.asarray(facts.constant(equation.inputs[1]))[..., 0]
    if places.min(initial=0) < 0 or places.max(initial=0) >= ids.shape[axes[0]]:
        return None
    others = np.moveaxis(_repeated_once(ids), axes[0], 0)
    chosen = others[places % len(others)]  # the axes of the places, then the others
    shape = facts.shape[equation.outputs[0]]
    batch = [axis for axis in range(len(shape)) if axis not in numbers.offset_dims]
    return [np.broadcast_to(np.moveaxis(chosen, range(len(shape)), [*batch, *numbers.offset_dims]), shape)]


def in_parts(layout: Layout, shape: tuple[int, int, int], parts: tuple[int, ...]) -> Layout:
    """A layout [g, r, o] of this shape, with the outputs of each part together, in the order of the parts."""
    if all(first <= second for first, second in pairwise(parts)):
        return layout
    groups, rows, _ = shape
    width = gcd(*(len(list(run)) for _, run in groupby(parts)))
    units = tuple(parts[::width])
    count = next(n for n in range(len(units), 0, -1) if units == units[: len(units) // n] * n)
    period = len(units) // count
    table = Reshape(layout, (groups, rows, count, period, width))
    whole = (None, None, 1)
    cuts: list[list[Layout]] = [[] for _ in range(max(parts) + 1)]
    for part, run in groupby(range(period), lambda unit: units[unit]):
        places = list(run)
        cuts[part].append(Slice(table, (whole, whole, whole, (places[0], places[-1] + 1, 1), whole)))
    columns = [Reshape(Concatenate(tuple(cut), 3), (groups, rows, parts.count(k))) for k, cut in enumerate(cuts)]
    return Concatenate(tuple(columns), 2)
