"""Neurons that are solved in one call: those that read the same features, and those of the same shape.

The weights of neurons that read the same features (q, k and v) stand side by side along o, and such sets of equal
shape (one for each layer of a transformer) follow each other along g: [g, i(+1), o] of a block is one array, so that
a network of many layers compiles and runs as a few large operations. Statistics that are not renewed at every step
are renewed in turn, block by block, once the first steps, at which all are renewed, are over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._equations import EquationFeatureSet
from lnb._feature_sets import FeatureSet, StackedFeatureSet, TiedFeatureSet
from lnb._neuron import Features, Neuron
from lnb._neurons import Neurons
from lnb._solvers import CG, AnyFeatureSet, Solver, Sylvester
from lnb._spectral import inner, norm_step, spectral_operations, spectral_steps

SolverChoice = Solver | Callable[[Neuron], Solver]

_SPECTRAL_SHARE = 0.25  # of a neuron's forward and backward pass, three products of [n, i] and [i, o]


@dataclass(frozen=True)
class Block:
    """Neurons that are solved together.

    Fields:
        solver: of all.
        rows: the neurons; those of a row read the same features.
        offset: by how many steps the statistics are renewed earlier than those of other blocks.
    """

    solver: Solver
    rows: tuple[tuple[Neuron, ...], ...]
    offset: int = 0

    def features(self, sets: Sequence[AnyFeatureSet | None] | Mapping[int, AnyFeatureSet | None]) -> AnyFeatureSet:
        """The feature sets of the rows as one, of each neuron's by its index."""
        parts = [sets[row[0].index] for row in self.rows]
        if len(parts) == 1:
            assert parts[0] is not None
            return parts[0]
        stacked = tuple(part for part in parts if isinstance(part, FeatureSet))
        assert len(stacked) == len(parts)
        return StackedFeatureSet(stacked)

    @property
    def found(self) -> AnyFeatureSet:
        """`features` as the neurons were found with."""
        return self.features({neuron.index: neuron.features for row in self.rows for neuron in row})

    @property
    def shape(self) -> tuple[int, int, int]:
        """[g, i(+1), o] of the block."""
        shapes = [neuron.shape for neuron in self.rows[0]]
        return (sum(row[0].shape[0] for row in self.rows), shapes[0][1], sum(o for _, _, o in shapes))

    @property
    def dtype(self) -> Any:
        """Type of its statistics and directions."""
        return self.rows[0][0].dtype

    def pack(self, leaves: Sequence[Array]) -> Array:
        """The neurons' parts of a tree's leaves."""
        return _concatenate([_concatenate([n.pack_leaves(leaves) for n in row], 2) for row in self.rows], 0)

    def unpack(self, packed: Array) -> list[Mapping[int, Array]]:
        """The leaves of each neuron."""
        leaves = []
        starts = np.cumsum([row[0].shape[0] for row in self.rows])[:-1]
        for row, part in zip(self.rows, jnp.split(packed, starts, axis=0), strict=True):
            columns = np.cumsum([neuron.shape[2] for neuron in row])[:-1]
            for neuron, piece in zip(row, jnp.split(part, columns, axis=2), strict=True):
                leaves.append(neuron.unpack_leaves(piece))
        return leaves

    def weights(self, packed: Array) -> Array:
        """`packed` without the row of a bias."""
        return packed[:, :-1] if self.rows[0][0].has_bias else packed

    def count(self, steps: Array) -> Array:
        """How many batches its statistics hold at the step after `steps` others."""
        every = self.solver.every
        if every == 1:
            return steps + 1
        turns = jax.lax.div(steps + self.offset, jnp.int32(every)) - (every - 1 + self.offset) // every
        return jnp.where(steps < every, steps + 1, every + turns)

    def renew(self, features: Features, statistics: Any, steps: Array, finite: Array | bool) -> Any:
        """The statistics with this batch in them, if it is finite and it is their turn."""

        def update() -> Any:
            moved = self.solver.update(self.features(features.sets), features.arrays, statistics, self.count(steps))
            # Finite features may have squares that are not.
            return jax.tree.map(lambda new, old: jnp.where(finite & jnp.isfinite(new), new, old), moved, statistics)

        if self.solver.every == 1:
            return update()
        # A network changes fastest at first, and statistics of other features than today's make steps too long.
        due = (steps < self.solver.every) | (jax.lax.rem(steps + self.offset, jnp.int32(self.solver.every)) == 0)
        return jax.lax.cond(due, update, lambda: statistics)

    def solve(self, features: Features, statistics: Any, steps: Array, gradient: Array, memory: Any) -> Any:
        """The direction, and what the solver remembers."""
        sets, count = self.features(features.sets), self.count(steps)
        return self.solver.solve(sets, features.arrays, statistics, count, gradient, memory)

    @property
    def has_loose_bias(self) -> bool:
        """Whether its last row is the bias of one neuron, which nothing but a spectral step joins to the weights."""
        return len(self.rows) == len(self.rows[0]) == 1 and self.rows[0][0].has_bias

    def split(self, packed: Array) -> list[Array]:
        """Neurons that read the same features, which stand side by side: one array [k g, i(+1), o] if they are alike.

        They take steps of their own: the gradients of q and k are far smaller than v's.
        """
        sizes = [neuron.shape[2] for neuron in self.rows[0]]
        if len(set(sizes)) > 1:
            return jnp.split(packed, np.cumsum(sizes)[:-1], axis=2)
        groups, inputs, _ = packed.shape
        apart = packed.reshape(groups, inputs, len(sizes), sizes[0])
        return [apart.transpose(2, 0, 1, 3).reshape(-1, inputs, sizes[0])]

    def join(self, parts: Sequence[Array]) -> Array:
        """The inverse of `split`."""
        if len(parts) > 1:
            return jnp.concatenate(parts, axis=2)
        groups, inputs, outputs = self.shape
        apart = parts[0].reshape(-1, groups, inputs, parts[0].shape[2])
        return apart.transpose(1, 2, 0, 3).reshape(groups, inputs, outputs)

    def takes_root(self, inputs: int, outputs: int) -> bool:
        """Whether the root that a spectral step takes of a part is cheap beside the neuron's own pass."""
        neuron = self.rows[0][0]
        own = 6.0 * neuron.groups * neuron.samples * inputs * outputs
        cheap = spectral_operations((neuron.groups, inputs, outputs)) <= _SPECTRAL_SHARE * own
        return cheap and min(inputs, outputs) > 1


def spread(
    blocks: Sequence[Block], directions: Sequence[Array], gradients: Sequence[Array]
) -> tuple[list[Array], list[Array]]:
    """Each neuron's step along its direction, of which every direction of its output has a part where that is cheap.

    Returns:
        The step of each block, and theta . g of all its groups or parts.
    """
    parts = []
    for block, direction, gradient in zip(blocks, directions, gradients, strict=True):
        parts += [(block, *pair) for pair in zip(block.split(direction), block.split(gradient), strict=True)]
    rooted = [k for k, (block, direction, _) in enumerate(parts) if block.takes_root(*direction.shape[1:])]
    steps = dict(zip(rooted, spectral_steps([parts[k][1:] for k in rooted]), strict=True))
    for k, (block, direction, gradient) in enumerate(parts):
        if k not in steps:
            squared = inner(direction, gradient, block.has_loose_bias)
            sizes = [row[0].groups for row in block.rows]
            together = sizes * (len(direction) // sum(sizes)) if min(direction.shape[1:]) == 1 else ()
            steps[k] = norm_step(direction, squared, block.has_loose_bias, together), squared
    own = [[steps[k][0] for k, (other, *_) in enumerate(parts) if other is block] for block in blocks]
    joined = [block.join(pieces) for block, pieces in zip(blocks, own, strict=True)]
    return joined, [steps[k][1] for k in range(len(parts))]


def plan_blocks(neurons: Neurons, choice: SolverChoice) -> list[Block]:
    """The blocks of the neurons that have a metric."""
    rows: dict[Any, list[Neuron]] = {}
    for neuron, shared in zip(neurons, neurons.sharing, strict=True):
        if neuron.features is not None:
            solver = _solver_of(neuron, choice)
            # CG's inner products are a neuron's own.
            alone = neuron.index if isinstance(solver, CG) else shared
            rows.setdefault((solver, alone), []).append(neuron)
    alike: dict[Any, list[tuple[Neuron, ...]]] = {}
    for (solver, _), row in rows.items():
        alike.setdefault((solver, _shape_of(row)), []).append(tuple(row))
    counts: dict[Solver, int] = {}
    for (solver, _), group in alike.items():
        counts[solver] = counts.get(solver, 0) + len(group)
    blocks = []
    for (solver, _), group in alike.items():
        # Small enough that the renewals can be spread over the steps between them.
        size = len(group) if solver.every == 1 else ceil(counts[solver] / solver.every)
        blocks += [Block(solver, tuple(group[k : k + size])) for k in range(0, len(group), size)]
    return _in_turn(blocks)


def _shape_of(row: Sequence[Neuron]) -> Any:
    """What must agree between rows that follow each other along g."""
    features = row[0].features
    if not isinstance(features, FeatureSet):
        return row[0].index
    outputs = tuple(neuron.outputs for neuron in row)
    bias = features.bias_share if features.has_bias else None
    return (features.inputs, bias, features.is_diagonal, outputs, str(row[0].dtype))


def _in_turn(blocks: Sequence[Block]) -> list[Block]:
    """The blocks, each renewed at the steps at which the others renew least."""
    load: dict[int, list[float]] = {}  # for each `every`: the operations at each of its offsets
    costs = [block.solver.operations(block.found, block.shape[2])[0] for block in blocks]
    placed = list(blocks)
    for k in sorted(range(len(blocks)), key=lambda k: -costs[k]):
        turns = load.setdefault(blocks[k].solver.every, [0.0] * blocks[k].solver.every)
        offset = turns.index(min(turns))
        turns[offset] += costs[k]
        placed[k] = replace(blocks[k], offset=offset)
    return placed


def _solver_of(neuron: Neuron, choice: SolverChoice) -> Solver:
    if hasattr(choice, "solve"):
        solver: Any = choice
    elif callable(choice):
        solver = choice(neuron)
    else:
        solver = choice
    if not hasattr(solver, "solve"):
        raise TypeError(
            "`solver` must be a solver such as `lnb.CG()`, or a function that gives one for a neuron, "
            f"got {type(solver).__name__}{'' if solver is choice else ' for ' + neuron.name}."
        )
    if isinstance(neuron.features, TiedFeatureSet):
        return Sylvester.like(solver)
    # A neuron kept as its equations has no matrix to factor: it is solved by products with M.
    if isinstance(neuron.features, EquationFeatureSet) and not isinstance(solver, CG):
        return CG(ridge=solver.ridge)
    return solver


def all_finite(arrays: Sequence[Array]) -> Array:
    """Whether every number is finite, and their sum, by which it is told: no sum is finite again."""
    return reduce(jnp.logical_and, [jnp.isfinite(x.sum()) for x in arrays], jnp.ones((), bool))


def settled(condition: Array) -> Array:
    """The same condition, from a branch: no fusion crosses it.

    XLA would fuse what the condition is made of into each of the many selections that follow, and take minutes to
    compile a deep network.
    """
    return jax.lax.cond(condition, lambda count: count, lambda count: count + 1, jnp.zeros((), jnp.int32)) == 0


def _concatenate(arrays: Sequence[Array], axis: int) -> Array:
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays, axis)
