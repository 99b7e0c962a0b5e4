"""The features of a neuron over all its uses, and the second moments of eq. (12) that its metric is made of.

A `FeatureSet` joins the feature maps of the neuron's weights along i, adds the bias's constant feature 1, sums over the
uses, and gives the mean and the diagonal of the moments, the Gram matrix, and the matrix-free product M v of eq. (11).
Neurons that read the same features have equal feature sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from lnb._features._map import Arrays, FeatureMap, SampleWeight, is_sampled
from lnb._features._ragged import RaggedRead
from lnb._numerics import gram_of


@dataclass(frozen=True)
class FeatureRead:
    """One use of a neuron: the maps of its weights joined along i.

    Fields:
        maps: one for each weight.
        sources: the place in `Features.arrays` of what each map reads.
        sizes: the number of features of each map.
        samples: n, if every region ran.
        repeats: how many samples each row of X stands for; half a sample where a sample has two rows.
        has_bias: whether this use adds the bias; if not, the constant feature is 0 here.
        weight, weight_source: for a use that may be passed over (a branch), whether it ran; for one in a loop of which
            some iterations are recorded, how many each stands for.
    """

    maps: tuple[FeatureMap, ...]
    sources: tuple[int, ...]
    sizes: tuple[int, ...]
    samples: int
    has_bias: bool
    repeats: float = 1
    weight: Any = None
    weight_source: int = -1

    @property
    def is_sampled(self) -> bool:
        """Whether its samples are those of some iterations of a loop."""
        return is_sampled(self.weight)

    @property
    def places(self) -> tuple[int, ...]:
        """The places in `Features.arrays` that this use reads."""
        return self.sources if self.weight is None else (*self.sources, self.weight_source)

    @property
    def may_be_passed_over(self) -> bool:
        """Whether a batch may have no samples of this use."""
        return self.weight is not None

    @property
    def sample_rank(self) -> int:
        """How many axes the samples are spread over."""
        return max(m.sample_rank for m in self.maps)

    def of_samples(self, count: int) -> FeatureRead:
        """The same use with this number of samples, of which only the sizes are of use."""
        return replace(self, samples=count)

    def reindexed(self, places: Mapping[int, int]) -> FeatureRead:
        """The same use, reading other places."""
        source = self.weight_source if self.weight is None else places[self.weight_source]
        return replace(self, sources=tuple(places[k] for k in self.sources), weight_source=source)

    def subsample(self, arrays: Arrays, every: int, place: int) -> tuple[FeatureRead, list[Array]]:
        """A use of about every k-th sample, reading a new array at `place`; itself where its samples are not alike."""
        if self.weight is not None or len(self.maps) != 1 or self.samples == self.repeats:
            return self, []
        recorded = arrays[self.sources[0]]
        subsampled = self.maps[0].subsample(recorded, every)
        samples = self.samples * subsampled.size // recorded.size
        return replace(self, sources=(place,), samples=samples), [subsampled]

    def weighted(self, arrays: Arrays, weights: Array, place: int) -> tuple[FeatureRead, Array]:
        """The use with each sample weighted, by an array to be put at `place`."""
        rows = [m.weights(arrays[s], weights) for m, s in zip(self.maps, self.sources, strict=True)]
        own = rows[0][None, :, None]  # [1, n, 1]
        ran = self.weights(arrays)
        own = own if ran is None else ran * own.astype(ran.dtype)
        return replace(self, weight=SampleWeight(), weight_source=place), own

    def weights(self, arrays: Arrays) -> Array | None:
        """The weight of each sample [g, n, 1]; None where all are 1."""
        return None if self.weight is None else self.weight.matrix(arrays[self.weight_source])

    def count(self, arrays: Arrays) -> Array:
        """How many samples there are, [g or 1, 1]."""
        weights = self.weights(arrays)
        return jnp.full((1, 1), float(self.samples)) if weights is None else self.repeats * weights.sum(1)

    def sums(self, arrays: Arrays) -> tuple[Array, Array]:
        """Sums over the samples of the features and of their squares, each [g, i]."""
        recorded = [(m, arrays[s]) for m, s in zip(self.maps, self.sources, strict=True)]
        if isinstance(self.weight, SampleWeight) or self.is_sampled:
            assert self.weight is not None
            weights = self.weight.matrix(arrays[self.weight_source])[:, :, 0]
            parts, count = [m.weighted_moments(x, weights) for m, x in recorded], self.count(arrays)
        else:  # what a region that did not run recorded is zero
            parts, count = [m.moments(x) for m, x in recorded], jnp.asarray(self.samples)
        mean, square = (jnp.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        return mean * count.astype(mean.dtype), square * count.astype(square.dtype)

    def gram(self, arrays: Arrays) -> tuple[Array, Array]:
        """X^T X [g, i, i] and X^T 1 [g, i]."""
        weights = self.weights(arrays)
        if weights is None and len(self.maps) == 1:
            gram, total = self.maps[0].gram(arrays[self.sources[0]])
        else:
            gram, total = gram_of(self.matrix(arrays), weights)
        return self.repeats * gram, self.repeats * total

    def matrix(self, arrays: Arrays) -> Array:
        """X [g, n, i]."""
        return jnp.concatenate([m.matrix(arrays[s]) for m, s in zip(self.maps, self.sources, strict=True)], axis=2)

    def fourth_moment(self, arrays: Arrays, center: Array, scale: Array) -> Array:
        """The sum over the samples of (x - c)^4 / s^2 [g, i]."""
        fourth = jnp.square(jnp.square(self.matrix(arrays) - center[:, None]) / scale[:, None])
        weights = self.weights(arrays)
        return self.repeats * (fourth if weights is None else fourth * weights.astype(fourth.dtype)).sum(1)

    def product(self, arrays: Arrays, vector: Array) -> Array:
        """J^T J v for V [g, i(+1), o]."""
        ends = [sum(self.sizes[: k + 1]) for k in range(len(self.sizes))]
        pieces = jnp.split(vector, ends, axis=1)  # each map's [g, i, o], then the bias's [g, 0 or 1, o]
        recorded = [arrays[source] for source in self.sources]
        outputs = [m.forward(x, v) for m, x, v in zip(self.maps, recorded, pieces[:-1], strict=True)]
        output = reduce(jnp.add, outputs + ([pieces[-1]] if self.has_bias else []))  # [g, n, o]
        weights = self.weights(arrays)
        output = output if weights is None else output * weights.astype(output.dtype)
        rows = [m.backward(x, output) for m, x in zip(self.maps, recorded, strict=True)]
        if vector.shape[1] > ends[-1]:
            total = output.sum(1, keepdims=True)
            rows.append(total if self.has_bias else jnp.zeros_like(total))
        return self.repeats * jnp.concatenate(rows, axis=1)


@dataclass(frozen=True)
class FeatureSet:
    """The features of a neuron over all its uses, with the constant feature 1 last where it has a bias.

    Packed parameters V are [g, i(+1), o]. n is the total over the uses. `hidden` tells of the features of each
    weight whether they depend on parameters, and so move as these are trained. Sums and counts are those of all
    replicas along the mapped axes `shared`.
    """

    reads: tuple[FeatureRead | RaggedRead, ...]
    groups: int
    inputs: int
    has_bias: bool
    is_diagonal: bool
    hidden: tuple[bool, ...]
    shared: tuple[Any, ...] = ()

    @property
    def has_diagonal_gram(self) -> bool:
        """Whether no two features of a group are ever non-zero together: in a lookup, and where there is only one."""
        return self.is_diagonal or self.inputs == 1

    @property
    def samples(self) -> int:
        """n of eq. (11), if every use ran."""
        return sum(read.samples for read in self.reads)

    @property
    def bias_share(self) -> float:
        """E[c^2], c the bias's feature: the share of the samples to which the bias is added; 1 where there is none."""
        if not self.has_bias:
            return 1.0
        return sum(read.samples for read in self.reads if read.has_bias) / self.samples

    def count(self, arrays: Arrays) -> Array:
        """n of this batch [g or 1, 1]: the sum of its samples' weights."""
        return self._count_of(self.reads, arrays)

    def bias_square(self, arrays: Arrays) -> Array:
        """E[c^2] of this batch [g or 1, 1]: `bias_share`, or 0 where the region that adds the bias did not run."""
        return self._count_of([read for read in self.reads if read.has_bias], arrays) / self._count(arrays)

    def reindexed(self, places: Mapping[int, int]) -> FeatureSet:
        """The same features, read from other places in `Features.arrays`."""
        return replace(self, reads=tuple(read.reindexed(places) for read in self.reads))

    def joined(self, other: FeatureSet) -> FeatureSet:
        """The features of both batches: their samples add up."""
        return replace(self, reads=self.reads + other.reads)

    def of_samples(self, count: int) -> FeatureSet:
        """The same features for another number of samples, of which only the sizes are of use."""
        return replace(self, reads=(self.reads[0].of_samples(count),))

    def weighted(self, arrays: Arrays, weights: Array, place: int) -> tuple[FeatureSet, list[Array]]:
        """The features with each sample weighted, by arrays to be put at `place` and after."""
        pairs = [read.weighted(arrays, weights, place + k) for k, read in enumerate(self.reads)]
        return replace(self, reads=tuple(read for read, _ in pairs)), [array for _, array in pairs]

    def without_bias(self) -> FeatureSet:
        """The features of the weights alone."""
        reads = tuple(replace(read, has_bias=False) for read in self.reads)
        return replace(self, reads=reads, has_bias=False)

    @property
    def sample_rank(self) -> int:
        """How many axes the samples are spread over: 1 where an example is a sample, more for positions and pixels."""
        return max(read.sample_rank for read in self.reads)

    def subsample(self, arrays: Arrays, share: float) -> tuple[FeatureSet, Arrays]:
        """The features of at least this share of the samples, every k-th, and the arrays that they are read from.

        k is a power of two, so that parts of a batch whose sizes it divides give the samples that the whole batch does.
        """
        every = 1 << int(1 / share + 1e-6).bit_length() - 1
        if every == 1:
            return self, arrays
        reads, subsampled = [], list(arrays)
        for read in self.reads:
            fewer, added = read.subsample(arrays, every, len(subsampled))
            reads.append(fewer)
            subsampled += added
        return replace(self, reads=tuple(reads)), subsampled

    def moments(self, arrays: Arrays) -> tuple[Array, Array]:
        """mu = E[x] and chi = E[x * x], each [g, i] (Algorithm 2, lines 6 and 7).

        With a bias, mu is taken over the samples to which the bias is added.
        """
        means, squares = zip(*(read.sums(arrays) for read in self.reads), strict=True)
        return self._mean(means, arrays), self._sum(squares) / self._count(arrays)

    def gram(self, arrays: Arrays) -> tuple[Array, Array]:
        """E[x x^T] [g, i, i], or its diagonal [g, i] where it is diagonal, and mu [g, i].

        Unlike `moments`, which a convolution takes over its input's pixels, both are over the n samples.
        """
        if self.is_diagonal:
            mean, square = self.moments(arrays)
            return square, mean
        grams, sums = zip(*(read.gram(arrays) for read in self.reads), strict=True)
        return self._sum(grams) / self._count(arrays)[:, :, None], self._mean(sums, arrays)

    def fourth_moment(self, arrays: Arrays, center: Array, scale: Array) -> Array:
        """E[(x - c)^4] / s^2 for c and s [g, i]."""
        return self._sum([read.fourth_moment(arrays, center, scale) for read in self.reads]) / self._count(arrays)

    def product(self, arrays: Arrays, vector: Array) -> Array:
        """M v of eq. (11) for V [g, i(+1), o], without forming M."""
        products = [read.product(arrays, vector) for read in self.reads]
        return self._sum(products) / self._count(arrays)[:, :, None]

    def _mean(self, sums: Sequence[Array], arrays: Arrays) -> Array:
        used = [(s, r) for s, r in zip(sums, self.reads, strict=True) if r.has_bias or not self.has_bias]
        count = self._count_of([read for _, read in used], arrays)
        return self._sum([s for s, _ in used]) / jnp.where(count > 0, count, 1)

    def _sum(self, parts: Sequence[Array]) -> Array:
        return lax.psum(reduce(jnp.add, parts), self.shared)

    def _count_of(self, reads: Sequence[FeatureRead | RaggedRead], arrays: Arrays) -> Array:
        """n of these uses; a number that no batch changes is not sent between replicas."""
        count = reduce(jnp.add, [read.count(arrays) for read in reads])
        if any(read.may_be_passed_over for read in reads):
            return lax.psum(count, self.shared)
        return count * lax.psum(1.0, self.shared) if self.shared else count

    def _count(self, arrays: Arrays) -> Array:
        """n, or 1 where nothing ran: the sums are zero then."""
        count = self.count(arrays)
        return jnp.where(count > 0, count, 1)
