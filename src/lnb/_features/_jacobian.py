"""The features of a neuron of no canonical form: its Jacobian J, applied through its equations.

M v of eq. (11) is J^H J v / n, and J^H is the transpose of J. The real part counts where outputs are complex.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lnb._features._map import Arrays, align
from lnb._features._weight_read import WeightRead

Leaves = Mapping[int, Array]
"""Parameter leaves by their number in the flattened tree."""


@dataclass(frozen=True, eq=False)
class JacobianRead:
    """One use of a neuron kept as its equations.

    Fields:
        function: `function(change, features)` is J times a change of the leaves. It is not pickled: a neuron's own
            needs it for nothing, and each batch's features bring theirs.
        sources: the places in `Features.arrays` that the features are read from.
        samples: n, if every region ran.
        weight_source: the place of whether the region of the use ran, or of how many iterations each row of the output
            stands for; -1 where it always runs.
        repeats: how many samples each row of the output stands for.
        is_sampled: whether the rows are those of some iterations of a loop.
    """

    function: Callable[[Leaves, Sequence[Array]], Array]
    sources: tuple[int, ...]
    samples: int
    weight_source: int = -1
    repeats: int = 1
    is_sampled: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "function": None}

    @property
    def places(self) -> tuple[int, ...]:
        """The places in `Features.arrays` that this use reads."""
        return self.sources if self.weight_source < 0 else (*self.sources, self.weight_source)

    def weighted(
        self, arrays: Arrays, shapes: Sequence[tuple[int, jax.ShapeDtypeStruct]], weights: Array, place: int
    ) -> tuple[JacobianRead, list[Array]]:
        """The use with each sample weighted: its output times the weights' roots at `place`, n after it.

        Raises:
            ValueError: the weights do not fit, or its rows are iterations of a loop.
        """
        if self.is_sampled:
            raise ValueError("is kept as its equations inside a `while`, where no axis is known to be the batch's")
        like = jax.eval_shape(self.function, dict(shapes), [arrays[source] for source in self.sources])
        aligned = align(weights, like.shape)
        roots = jnp.sqrt(aligned).reshape(aligned.shape + (1,) * (len(like.shape) - aligned.ndim)).astype(like.dtype)
        share = aligned.mean() if self.weight_source < 0 else aligned.mean() * arrays[self.weight_source].mean()

        def function(leaves: Leaves, features: Sequence[Array]) -> Array:
            return self.function(leaves, features[:-1]) * features[-1]

        weighted = replace(self, function=function, sources=(*self.sources, place), weight_source=place + 1)
        return weighted, [roots, share]

    def reindexed(self, places: Mapping[int, int]) -> JacobianRead:
        """The same use, reading other places."""
        weight_source = self.weight_source if self.weight_source < 0 else places[self.weight_source]
        return replace(self, sources=tuple(places[k] for k in self.sources), weight_source=weight_source)

    def count(self, arrays: Arrays) -> Array:
        """How many samples there are: those of the runs, where it may be passed over."""
        share = jnp.ones(()) if self.weight_source < 0 else arrays[self.weight_source].mean()
        return self.samples * share

    def flops(self, size: int) -> float:
        """Floating-point operations of a product, as if each sample met each of this many parameters."""
        return 4.0 * self.samples * size

    def holding(self, held: Leaves) -> JacobianRead:
        """The use with these leaves held at zero."""
        return replace(self, function=lambda change, features: self.function({**change, **held}, features))

    def product(self, arrays: Arrays, shapes: Mapping[int, Any], change: Leaves) -> Leaves:
        """J^H J v for a change v of the leaves."""
        features = [arrays[source] for source in self.sources]

        def output_of(change: Leaves) -> Array:
            return self.function(change, features)

        # The transpose of J is J^T and not J^H, so that what is complex is conjugated.
        (pulled,) = jax.linear_transpose(output_of, shapes)(output_of(change).conj())
        return pulled if self.repeats == 1 else jax.tree.map(lambda leaf: self.repeats * leaf, pulled)


@dataclass(frozen=True, eq=False)
class JacobianFeatures:
    """The features of a neuron of no canonical form.

    Its parameters are packed one after the other, [1, i, 1]. Sums and counts are those of all replicas along the mapped
    axes `shared`.
    """

    reads: tuple[JacobianRead | WeightRead, ...]
    shapes: tuple[tuple[int, jax.ShapeDtypeStruct], ...]
    inputs: int
    groups: int = 1
    has_bias: bool = False
    shared: tuple[Any, ...] = ()

    @property
    def samples(self) -> int:
        """The number n of eq. (11)."""
        return sum(read.samples for read in self.reads)

    def reindexed(self, places: Mapping[int, int]) -> JacobianFeatures:
        """The same equations, reading other places in `Features.arrays`."""
        return replace(self, reads=tuple(read.reindexed(places) for read in self.reads))

    def joined(self, other: JacobianFeatures) -> JacobianFeatures:
        """The equations of both batches: their samples add up."""
        return replace(self, reads=self.reads + other.reads)

    def weighted(self, arrays: Arrays, weights: Array, place: int) -> tuple[JacobianFeatures, list[Array]]:
        """The equations with each sample weighted, by arrays to be put at `place` and after."""
        reads, added = [], []
        for read in self.reads:
            weighted, more = read.weighted(arrays, self.shapes, weights, place + len(added))
            reads.append(weighted)
            added += more
        return replace(self, reads=tuple(reads)), added

    def without(self, left_out: frozenset[int]) -> JacobianFeatures:
        """The equations of the other leaves, these held at zero."""
        zeros: Any = {leaf: np.zeros(shape.shape, shape.dtype) for leaf, shape in self.shapes if leaf in left_out}
        shapes = tuple((leaf, shape) for leaf, shape in self.shapes if leaf not in left_out)
        size = sum(prod(shape.shape) for _, shape in shapes)
        return replace(self, reads=tuple(read.holding(zeros) for read in self.reads), shapes=shapes, inputs=size)

    def flops(self) -> float:
        """Floating-point operations of a product M v."""
        return sum(read.flops(self.inputs) for read in self.reads)

    def unravel(self, vector: Array) -> dict[int, Array]:
        """The leaves of V [1, i, 1], in its own type."""
        leaves, start = {}, 0
        for leaf, shape in self.shapes:
            size = prod(shape.shape)
            leaves[leaf] = vector[0, start : start + size, 0].reshape(shape.shape)
            start += size
        return leaves

    def ravel(self, leaves: Leaves) -> Array:
        """V [1, i, 1] of the leaves."""
        return jnp.concatenate([leaves[leaf].reshape(-1) for leaf, _ in self.shapes])[None, :, None]

    def product(self, arrays: Arrays, vector: Array) -> Array:
        """M v of eq. (11)."""
        shapes = dict(self.shapes)
        change = {leaf: v.astype(shapes[leaf].dtype) for leaf, v in self.unravel(vector).items()}
        total = jnp.zeros_like(vector)
        for read in self.reads:
            total = total + self.ravel(read.product(arrays, shapes, change)).astype(vector.dtype)
        count = reduce(jnp.add, [read.count(arrays) for read in self.reads])
        total, count = lax.psum((total, count), self.shared)
        return total / jnp.where(count > 0, count, 1).astype(vector.dtype)
