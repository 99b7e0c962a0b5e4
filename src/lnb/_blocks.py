"""Neurons that are solved together: those that read the same features, q, k and v say, share their statistics.

Each neuron is solved on arrays of its own, so that layers of one shape run the same kernels, which XLA compiles once:
neurons stacked into one array would be cut apart again by as many kernels as there are neurons, each at another place.
Statistics that are not renewed at every step are renewed in turn, block by block, once the first steps, at which all
are renewed, are over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lnb._batch import Features
from lnb._features import JacobianFeatures, TiedFeatureSet
from lnb._neuron import Neuron
from lnb._solvers import CG, AnyFeatureSet, Auto, Solution, Solver, Sylvester, settings_of, with_settings
from lnb._spectral import norm_step, spectral_operations, spectral_step

SolverChoice = Solver | Auto | Callable[[Neuron], Solver]

_SPECTRAL_SHARE = 0.25  # of a neuron's forward and backward pass, three products of [n, i] and [i, o]
_LEAST_SAMPLES = 256  # that this is reckoned with, so that small batches step alike


class Clock(NamedTuple):
    """When a block renews its statistics: at the first `every` steps, and then at every so many in its turn."""

    steps: Array  # taken before this one
    turn: Array  # by how many steps it is renewed earlier than at multiples of `every`

    def due(self, every: int) -> Array:
        """Whether this step renews them. A network changes fastest at first, and old statistics make steps too long."""
        return (self.steps < every) | (jax.lax.rem(self.steps + self.turn, jnp.int32(every)) == 0)

    def batches(self, every: int) -> Array:
        """How many batches they hold once this step is taken."""
        if every == 1:
            return self.steps + 1
        divisor = jnp.int32(every)
        turns = jax.lax.div(self.steps + self.turn, divisor) - jax.lax.div(self.turn + (every - 1), divisor)
        return jnp.where(self.steps < every, self.steps + 1, every + turns)


@dataclass(frozen=True)
class Block:
    """Neurons that read the same features, and are solved with the same statistics of them.

    Fields:
        solver: of all.
        neurons: at least one.
        turn: of its `Clock`.
    """

    solver: Solver
    neurons: tuple[Neuron, ...]
    turn: int = 0

    @property
    def found(self) -> AnyFeatureSet:
        """The feature set that the neurons were found with."""
        features = self.neurons[0].features
        assert features is not None
        return features

    @property
    def dtype(self) -> Any:
        """Type of its statistics and directions."""
        return self.neurons[0].dtype

    def init(self) -> tuple[Any, tuple[Any, ...]]:
        """The statistics before the first batch, and what the solver remembers of each neuron then."""
        memory = tuple(self.solver.init_memory(neuron.shape, self.dtype) for neuron in self.neurons)
        return self.solver.init(self.found, self.dtype), memory

    def renew(self, features: Features, statistics: Any, clock: Clock, finite: Array | bool) -> Any:
        """The statistics with this batch in them, if it is finite and it is their turn."""

        def update() -> Any:
            moved = self._ask("update", features, statistics, clock.batches(self.solver.every))
            # Finite features may have squares that are not.
            return jax.tree.map(lambda new, old: jnp.where(finite & jnp.isfinite(new), new, old), moved, statistics)

        if self.solver.every == 1:
            return update()
        return jax.lax.cond(clock.due(self.solver.every), update, lambda: statistics)

    def solve(
        self, features: Features, statistics: Any, gradients: Sequence[Array], memory: Sequence[Any]
    ) -> list[Solution]:
        """What the solver makes of each neuron's gradient."""
        return [
            self._ask("solve", features, statistics, gradient, remembered)
            for gradient, remembered in zip(gradients, memory, strict=True)
        ]

    def _ask(self, method: Literal["update", "solve"], features: Features, *args: Any) -> Any:
        """What the solver makes of the features that the neurons read in this batch."""
        feature_set = self.neurons[0].read(features)
        assert feature_set is not None
        if isinstance(feature_set, JacobianFeatures):  # equal to no other
            return getattr(self.solver, method)(feature_set, features.arrays, *args)
        # The features of layers that are alike are equal once they are numbered alike.
        places = sorted({place for reading in feature_set.reads for place in reading.places})
        moved = feature_set.reindexed({place: k for k, place in enumerate(places)})
        fixed, arrays = settings_of(self.solver)
        return _traced_once(fixed, method, moved, arrays, tuple(features.arrays[place] for place in places), *args)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _traced_once(fixed: Any, method: str, features: AnyFeatureSet, settings: dict[str, Any], *args: Any) -> Any:
    """A method of a solver with these settings, traced once for all layers that are alike."""
    return getattr(with_settings(fixed, settings), method)(features, *args)


def own_step(neuron: Neuron, solution: Solution, gradient: Array) -> tuple[Array, Array]:
    """A neuron's step along its direction, and theta . g of each group.

    Every direction of its output has a part in the step where the root that this takes is cheap beside its own pass.
    """
    direction, squared, _ = solution
    groups, rows, outputs = direction.shape
    own = 6.0 * groups * max(neuron.samples, _LEAST_SAMPLES) * rows * outputs
    if min(rows, outputs) > 1 and spectral_operations((groups, rows, outputs)) <= _SPECTRAL_SHARE * own:
        return spectral_step(direction, gradient, neuron.has_bias)
    # The channels of a scale, groups of one output each, have one length.
    length = squared.sum(keepdims=True) if min(rows, outputs) == 1 else squared
    return norm_step(direction, length, neuron.has_bias), squared


def plan_blocks(neurons: Sequence[Neuron], sharing: Sequence[int], choice: SolverChoice) -> list[Block]:
    """The blocks of the neurons that have a metric; `sharing` tells for every neuron found whose features it reads."""
    rows: dict[Any, tuple[Solver, list[Neuron]]] = {}
    for neuron in neurons:
        if neuron.features is None:
            continue
        solver = _solver_of(neuron, choice)
        fixed, arrays = settings_of(solver)
        alike = (
            fixed,
            tuple((name, id(array)) for name, array in arrays.items()),
            sharing[neuron.index],
            neuron.has_bias,
        )
        rows.setdefault(alike, (solver, []))[1].append(neuron)
    return _in_turn([Block(solver, tuple(row)) for solver, row in rows.values()])


def _in_turn(blocks: Sequence[Block]) -> list[Block]:
    """The blocks, each renewed at the steps at which the others renew least."""
    load: dict[int, list[float]] = {}  # for each `every`: the operations at each of its turns
    costs = [block.solver.operations(block.found, 1)[0] for block in blocks]
    placed = list(blocks)
    for k in sorted(range(len(blocks)), key=lambda k: -costs[k]):
        turns = load.setdefault(blocks[k].solver.every, [0.0] * blocks[k].solver.every)
        turn = turns.index(min(turns))
        turns[turn] += costs[k]
        placed[k] = replace(blocks[k], turn=turn)
    return placed


def _solver_of(neuron: Neuron, choice: SolverChoice) -> Solver:
    if hasattr(choice, "solve"):
        solver: Any = choice
    elif isinstance(choice, Auto):
        solver = choice.choose(neuron)
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
    if isinstance(neuron.features, JacobianFeatures) and not isinstance(solver, CG):
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
