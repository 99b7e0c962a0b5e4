"""The features of weights of which each sample reads one: experts, to which a router sends its tokens.

Row r of X [row, i] belongs to the group e(r), or to none, and

    Y[r, o] = sum_i X[r, i] W[e(r), i, o],   M_e = sum_{e(r) = e} x_r x_r^T / n_e,   n_e the number of these rows,

so that each group's metric is that of a dense layer with samples of its own. Their number differs from group to group
and from batch to batch. A group without rows has sums of zero, like a branch that did not run.

Products take the rows in blocks [block, row of the block, i] of one group each, filled up with zeros. With R rows of E
groups and blocks of R / 4E rows there are at most 5 E of them: a product costs a quarter more than that of equal
groups, whatever their sizes, and no [E, R, i] is formed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lnb._features._dense import DenseFeatures
from lnb._features._embedding import EmbeddingFeatures
from lnb._features._map import Arrays, LoopFeatures, is_sampled
from lnb._numerics import contract

_BLOCKS_PER_GROUP = 4  # in the mean, without the rows that are filled up


class _Blocks(NamedTuple):
    """The rows in blocks of one group each; a block that is not needed has a group that does not exist."""

    x: Array  # [block, row, i], zeros where a block is filled up
    weights: Array  # of each row [block, row, 1], 0 where a block is filled up
    group: Array  # of each block [block], ascending


@dataclass(frozen=True)
class RaggedRead:
    """One use of a neuron whose samples are parted among its groups.

    Fields:
        rows: the map of the rows of X, with no group axes; in a loop, a `LoopFeatures` of it.
        sources: the places in `Features.arrays` of what `rows` reads, and of the rows' groups.
        sizes: i, alone.
        groups: E.
        total: the number of rows of all groups, if every region ran.
        spread: how many rows of X share each group: an expert that reads all positions of an example.
        is_sorted: whether the groups come in ascending order, and rows of no group last.
        repeats: how many samples each row stands for.
        weight_source: the place of the weight of each row; -1 where all are 1.

    Groups are numbers, negative for rows of none. Several groups may read one row of X: they are the last axes of the
    recorded numbers, [.., choice], and rows count over (.., spread, choice).
    """

    rows: Any
    sources: tuple[int, int]
    sizes: tuple[int]
    groups: int
    total: int
    spread: int = 1
    is_sorted: bool = False
    repeats: int = 1
    weight_source: int = -1

    has_bias = False
    """A bias that each sample chooses is a lookup of its own."""
    may_be_passed_over = True
    """A group may have no samples in a batch."""

    @property
    def samples(self) -> int:
        """n of a group in the mean, rounded up."""
        return -(-self.total // self.groups)

    @property
    def places(self) -> tuple[int, ...]:
        """The places in `Features.arrays` that this use reads."""
        return self.sources if self.weight_source < 0 else (*self.sources, self.weight_source)

    @property
    def sample_rank(self) -> int:
        """How many axes the samples are spread over."""
        return self.rows.sample_rank

    @property
    def is_sampled(self) -> bool:
        """Whether its samples are those of some iterations of a loop, each of which counts once."""
        return is_sampled(self.rows)

    def reindexed(self, places: Mapping[int, int]) -> RaggedRead:
        """The same use, reading other places."""
        weight_source = self.weight_source if self.weight_source < 0 else places[self.weight_source]
        first, second = (places[source] for source in self.sources)
        return replace(self, sources=(first, second), weight_source=weight_source)

    def of_samples(self, count: int) -> RaggedRead:
        """The same use with this number of samples in a group, of which only the sizes are of use."""
        return replace(self, total=count * self.groups)

    def in_loop(self, steps: int, stacked: bool, sampled: bool) -> RaggedRead:
        """The use over all steps of a loop, or over some of them; if stacked, each step has groups of its own."""
        return replace(
            self,
            rows=LoopFeatures(self.rows, stacked, sampled),
            groups=self.groups * steps if stacked else self.groups,
            total=self.total * steps,
            is_sorted=False,
        )

    def subsample(self, arrays: Arrays, every: int, place: int) -> tuple[RaggedRead, list[Array]]:
        """A use of every k-th row, reading new arrays at `place` and after."""
        group = self._group(arrays)[::every]
        x = self._matrix(arrays)[self._place(arrays, _count(self._count_rows(arrays))[::every])]
        added, weight_source = [x, group], self.weight_source
        if weight_source >= 0:
            added, weight_source = [*added, arrays[weight_source][::every]], place + 2
        fewer = replace(
            self,
            rows=DenseFeatures((), (0,), (1,)),
            sources=(place, place + 1),
            total=self.total * len(group) // self._count_rows(arrays),
            spread=1,
            weight_source=weight_source,
        )
        return fewer, added

    def weighted(self, arrays: Arrays, weights: Array, place: int) -> tuple[RaggedRead, Array]:
        """The use with each row weighted, by an array to be put at `place`."""
        x = self._matrix(arrays)
        own = self.rows.weights(arrays[self.sources[0]], weights)  # of one step, where steps have groups of their own
        own = jnp.repeat(jnp.tile(own, len(x) // len(own)), self._count_rows(arrays) // len(x))
        return replace(self, weight_source=place), own

    def count(self, arrays: Arrays) -> Array:
        """How many samples each group has, [g, 1]."""
        _, weights, group = self._blocks(arrays)
        return self._sum(weights.sum(1), group)

    def sums(self, arrays: Arrays) -> tuple[Array, Array]:
        """Sums over each group's samples of the features and of their squares, each [g, i]."""
        x, weights, group = self._blocks(arrays)
        weighted = x * weights
        return self._sum(weighted.sum(1), group), self._sum((weighted * x).sum(1), group)

    def gram(self, arrays: Arrays) -> tuple[Array, Array]:
        """X^T X [g, i, i] and X^T 1 [g, i] of each group's rows."""
        x, weights, group = self._blocks(arrays)
        weighted = x * weights
        return self._sum(contract("kri,krj->kij", weighted, x), group), self._sum(weighted.sum(1), group)

    def fourth_moment(self, arrays: Arrays, center: Array, scale: Array) -> Array:
        """The sum over each group's samples of (x - c)^4 / s^2 [g, i]."""
        x, weights, group = self._blocks(arrays)
        own = jnp.minimum(group, self.groups - 1)
        square = jnp.square(x - center[own][:, None]) / scale[own][:, None]
        return self._sum((weights * jnp.square(square)).sum(1), group)

    def product(self, arrays: Arrays, vector: Array) -> Array:
        """J^T J v for V [g, i, o]."""
        x, weights, group = self._blocks(arrays)
        output = contract("kri,kio->kro", x, vector[jnp.minimum(group, self.groups - 1)])
        return self._sum(contract("kri,kro->kio", x, output * weights.astype(output.dtype)), group)

    def _sum(self, of_blocks: Array, group: Array) -> Array:
        """Sums [g, ..] of what belongs to the blocks [block, ..], whose groups these are."""
        sums = jax.ops.segment_sum(of_blocks, group, num_segments=self.groups, indices_are_sorted=True)
        return self.repeats * sums

    def _matrix(self, arrays: Arrays) -> Array:
        """The rows of X [row, i], each once."""
        return _flat(self.rows, arrays[self.sources[0]]).reshape(-1, self.sizes[0])

    def _count_rows(self, arrays: Arrays) -> int:
        return arrays[self.sources[1]].size * self.spread

    def _group(self, arrays: Arrays) -> Array:
        """The group of each row [row]."""
        choices = self._choices(arrays)
        group = arrays[self.sources[1]].reshape(-1, 1, choices)
        return jnp.broadcast_to(group, (len(group), self.spread, choices)).reshape(-1)

    def _choices(self, arrays: Arrays) -> int:
        """How many groups read each row of X."""
        rows = jax.eval_shape(lambda: self._matrix(arrays)).shape[0]
        return self._count_rows(arrays) // rows

    def _place(self, arrays: Arrays, row: Array) -> Array:
        """The rows of X that these rows are."""
        return row // self._choices(arrays)

    def _blocks(self, arrays: Arrays) -> _Blocks:
        count, groups = self._count_rows(arrays), self.groups
        size = max(1, -(-count // (_BLOCKS_PER_GROUP * groups)))
        group = self._group(arrays)
        group = jnp.where(group < 0, groups, group)
        order = _count(count) if self.is_sorted else jnp.argsort(group).astype(jnp.int32)
        bounds = jnp.searchsorted(group[order], _count(groups + 1)).astype(jnp.int32)  # of each group's rows [g + 1]
        needed = -(-jnp.diff(bounds) // size)  # blocks of each group
        ends = jnp.cumsum(needed, dtype=jnp.int32)
        block = _count(count // size + groups)
        owner = jnp.searchsorted(ends, block, side="right").astype(jnp.int32)
        own = jnp.minimum(owner, groups - 1)
        start = bounds[own] + (block - ends[own] + needed[own]) * size
        at = start[:, None] + _count(size)
        inside = (at < bounds[own + 1][:, None]) & (owner < groups)[:, None]
        row = order[jnp.minimum(at, count - 1)]  # [block, row]
        x = self._matrix(arrays)[self._place(arrays, row)]
        x = jnp.where(inside[:, :, None], x, jnp.zeros((), x.dtype))
        weights = inside.astype(x.dtype)
        if self.weight_source >= 0:
            weights = weights * arrays[self.weight_source][row].astype(x.dtype)
        return _Blocks(x, weights[:, :, None], owner)


def _count(size: int) -> Array:
    return jnp.arange(size, dtype=jnp.int32)


def _flat(rows: Any, recorded: Array) -> Array:
    """The rows of X [.., row, i], the steps of loops first."""
    if isinstance(rows, LoopFeatures):
        return jax.vmap(lambda step: _flat(rows.inner, step))(recorded)
    return rows.matrix(recorded)[0]


@dataclass(frozen=True)
class GroupsOfSizes:
    """The group of each of so many rows, from the groups' sizes [g]: rows of one group follow one another."""

    rows: int

    def __call__(self, recorded: Sequence[Array]) -> Array:
        ends = jnp.cumsum(recorded[0].astype(jnp.int32), dtype=jnp.int32)
        group = jnp.searchsorted(ends, _count(self.rows), side="right").astype(jnp.int32)
        return jnp.where(group < ends.size, group, -1)


@dataclass(frozen=True)
class GroupsOfIndices:
    """The groups that indices choose, with their axes, of these sizes, in another order."""

    lookup: EmbeddingFeatures
    sizes: tuple[int, ...]
    axes: tuple[int, ...]

    def __call__(self, recorded: Sequence[Array]) -> Array:
        indices, inside = self.lookup.indices(recorded[0])
        return jnp.where(inside, indices, -1).astype(jnp.int32).reshape(self.sizes).transpose(self.axes)


@dataclass(frozen=True)
class GroupsOfSteps:
    """The groups of all steps of a loop [step, ..], each of which has so many groups of its own."""

    groups: int

    def __call__(self, recorded: Sequence[Array]) -> Array:
        (group,) = recorded
        first = self.groups * jnp.arange(len(group), dtype=group.dtype)
        return jnp.where(group < 0, -1, group + first.reshape(-1, *(1,) * (group.ndim - 1)))
