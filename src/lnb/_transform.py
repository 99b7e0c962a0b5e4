"""The update of Algorithm 2 as Optax transformations: `scale_by_lnb` is its mathematics, `lnb` the whole chain.

Optax is imported where an optimizer is made, because importing it takes longer than importing all of `lnb`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, reduce
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lnb._batch import Features
from lnb._checks import check_number
from lnb._explicit_axes import with_automatic_axes
from lnb._metric import Metric
from lnb._neuron import Neuron
from lnb._neurons import Neurons, identity_masks, identity_parts, sum_parts
from lnb._numerics import as_statistics, statistics_dtype
from lnb._replicas import Axes, as_axes, axes_apart, known_axes
from lnb._sharding import laid_out
from lnb._solve_groups import SolveGroup, plan_groups, update_statistics
from lnb.solvers import Auto
from lnb.solvers._assignment import AnySolverChoice
from lnb.steps import Spectral, StepRule

if TYPE_CHECKING:
    import optax

MOST_SKIPPED_IN_A_ROW = 50
"""After so many batches in a row that are not finite, the updates are NaN, as with `optax.apply_if_finite`."""


class LNBState(NamedTuple):
    """State of `lnb` and of `scale_by_lnb`. The tuples have one entry for each group of neurons that share features."""

    step: Array  # steps taken, without those that were skipped
    skipped: Array  # batches skipped because they were not finite
    skipped_in_a_row: Array  # of these, the last ones without a step between
    average: Any  # of each trained leaf's gradient, not yet corrected for its start at zero; None without
    refresh_offsets: tuple[Array, ...]  # of each `RefreshSchedule`; as constants they would tell equal kernels apart
    statistics: tuple[Any, ...]  # the solver's averages
    warm_starts: tuple[Any, ...]  # each neuron's, a tuple for each group
    scaling: Any  # of weight decay and learning rate


def scale_by_lnb(
    neurons: Neurons, *, solver: AnySolverChoice = Auto(), step: StepRule = Spectral(), axis_name: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Precondition the gradient by every neuron's metric, theta = M^-1 g, and give the direction its length.

    Parameters without a neuron have the identity metric, so that theta = g. The learning rate is not known here, so
    that the solvers' `drift` adds nothing to a ridge: in `lnb.lnb` it does.

    Args:
        neurons: from `lnb.find_neurons`.
        solver: how M theta = g is solved, for all neurons; or a function that gives each neuron its solver.
        step: how far a step goes along theta, `lnb.Spectral()`, `lnb.Norm()` or `lnb.Polyak()`. With `lnb.Polyak()`
            call `update` with `value=loss` too.
        axis_name: for an update inside of `jax.shard_map`, `jax.pmap` or `jax.vmap`, the mapped axis, or a tuple of
            them, over whose replicas the batch is split. Replicas that average their gradients must share the
            statistics too, or they part. By default the axes are taken from the types: those along which features vary
            and gradients do not. `()` for replicas that are meant to keep statistics of their own.

    Returns:
        A transformation whose `update(grads, state, params, features=features)` takes the features from
        `neurons.value_and_grad`. A batch with a gradient or feature that is not finite changes nothing but the state's
        counts of skipped batches; after 50 in a row the updates are NaN. Leaves that are masked, or ignored by the
        search, are left to whatever else trains them.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the solver does not support a neuron's metric; at the update, `features` are missing or are not
            these neurons'.

    Warns:
        UserWarning: at the update, `axis_name` is not given, and the types do not tell which mapped axes are replicas':
            those of `pmap`, `vmap` and `shard_map(check_vma=False)` do not.

    Source: Algorithm 2 and section 3.4 of the paper; `lnb.Spectral` for the default step.
    """
    import optax

    return _algorithm_2(neurons, solver, step, 0.0, False, 0.0, optax.identity(), axis_name)


def lnb(
    neurons: Neurons,
    learning_rate: optax.ScalarOrSchedule,
    *,
    solver: AnySolverChoice = Auto(),
    step: StepRule = Spectral(),
    gradient_decay: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 1e-4,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Online linear neuron boosting (Algorithm 2): train with each linear function's features whitened.

    A chain: moving average of the gradient, `scale_by_lnb`, decoupled weight decay (eq. 4, biases too), learning rate.
    The paper's own settings are `solver=CG(), step=Norm(), nesterov=False`.

    Args:
        neurons: from `lnb.find_neurons`.
        learning_rate: the length of a step, a number or a schedule; its meaning depends on `step`. For
            `lnb.Spectral()` it is how far a step moves each neuron's output along every direction, about 0.02 to 0.05.
            Steps of a given length need a rate that decays.
        solver, step: as in `scale_by_lnb`.
        gradient_decay: of the moving average of the gradient, corrected for its start at zero; 0 for none.
        nesterov: step along the average as it will be after one more gradient like this one.
        weight_decay: rho of Algorithm 2; the parameters shrink by learning_rate * weight_decay a step.
        axis_name: as in `scale_by_lnb`: inside of a map, the axis over which the gradients are averaged.

    Returns:
        An optimizer: `init(params)`, then `update(grads, state, params, features=features)`.

    Raises:
        TypeError, ValueError: as in `scale_by_lnb`, or a number is out of its range.

    Source: Algorithm 2 of the paper; Dozat (2016) for the form of Nesterov's look ahead.

    >>> import jax.numpy as jnp, optax
    >>> from lnb import find_neurons
    >>> def loss_fn(params, x):
    ...     return jnp.square(x @ params["weight"] + params["bias"] - 1).mean()
    >>> params, x = {"weight": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}, jnp.eye(3)
    >>> neurons = find_neurons(loss_fn, params, x)
    >>> optimizer = lnb(neurons, learning_rate=0.02)
    >>> loss, grads, features = neurons.value_and_grad(params, x)
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params, features=features)
    >>> bool(loss_fn(optax.apply_updates(params, updates), x) < loss)
    True
    """
    import optax

    if not callable(learning_rate):
        check_number("`learning_rate`", learning_rate, 0, inf)
    check_number("`gradient_decay`", gradient_decay, 0, 1)
    check_number("`weight_decay`", weight_decay, 0, inf)
    scaling = optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_learning_rate(learning_rate))
    return _algorithm_2(neurons, solver, step, gradient_decay, nesterov, learning_rate, scaling, axis_name)


def _algorithm_2(
    neurons: Neurons,
    solver: AnySolverChoice,
    step: StepRule,
    gradient_decay: float,
    nesterov: bool,
    learning_rate: optax.ScalarOrSchedule,
    scaling: optax.GradientTransformation,
    axis_name: Any,
) -> optax.GradientTransformationExtraArgs:
    """Algorithm 2; `scaling` follows line 14, and has the learning rate."""
    import optax

    if not isinstance(neurons, Neurons):
        raise TypeError(f"`neurons` must come from `lnb.find_neurons`, got {type(neurons).__name__}.")
    if not isinstance(step, StepRule):
        raise TypeError(
            f"`step` must be a step rule such as `lnb.Spectral()`, `lnb.Norm()` or `lnb.Polyak()`, got {step!r}."
        )
    axes = as_axes(axis_name)
    algorithm = _Algorithm2(neurons, solver, step, gradient_decay, nesterov, learning_rate, scaling, axes)
    # A solver that does not fit is refused here, not at the first update.
    algorithm.plan(frozenset(range(neurons.treedef.num_leaves)) - neurons.ignored_leaves)
    return optax.GradientTransformationExtraArgs(algorithm.init, algorithm.update)


class _Plan(NamedTuple):
    """The neurons of the leaves that an optimizer trains."""

    neurons: tuple[Neuron, ...]
    groups: list[SolveGroup]
    identity: dict[int, Any]  # the leaves with elements whose metric is the identity, see `identity_masks`


class _Algorithm2:
    """Algorithm 2 in the type of statistics. Leaves are known by their place in `params`."""

    def __init__(
        self,
        neurons: Neurons,
        solver: AnySolverChoice,
        step: StepRule,
        gradient_decay: float,
        nesterov: bool,
        learning_rate: optax.ScalarOrSchedule,
        scaling: optax.GradientTransformation,
        axes: Axes,
    ) -> None:
        self.neurons = neurons
        self.solver = solver
        self.step = step
        self.gradient_decay = gradient_decay
        self.nesterov = nesterov
        self.learning_rate = learning_rate
        self.scaling = scaling
        self.axes = axes
        self.averages = not isinstance(gradient_decay, (int, float)) or gradient_decay > 0
        self.plan = cache(self._plan)
        self._layouts: dict[frozenset[int], Any] = {}  # of the state, by the leaves that are trained

    def _plan(self, trained: frozenset[int]) -> _Plan:
        kept = self.neurons.without(frozenset(range(self.neurons.treedef.num_leaves)) - trained)
        groups = plan_groups(kept, self.neurons.sharing, self.solver)
        return _Plan(kept, groups, identity_masks(kept, sorted(trained)))

    def init(self, params: Any) -> LNBState:
        """The state before the first step."""
        leaves = self._trained(self.neurons.leaves_of(params, "params"))
        return laid_out(self._init, leaves, self.plan(frozenset(leaves)).groups)

    def _init(self, leaves: dict[int, Array]) -> LNBState:
        trained, leaves = frozenset(leaves), as_statistics(leaves)
        groups = self.plan(trained).groups
        statistics, warm_starts = zip(*(group.init() for group in groups), strict=True) if groups else ((), ())
        state = LNBState(
            step=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_a_row=jnp.zeros((), jnp.int32),
            average=tuple(jnp.zeros_like(leaf) for leaf in leaves.values()) if self.averages else None,
            refresh_offsets=tuple(jnp.asarray(group.offset, jnp.int32) for group in groups),
            statistics=statistics,
            warm_starts=warm_starts,
            scaling=self.scaling.init(self._tree(leaves)),
        )
        self._layouts[trained] = _layout_of(state)
        return state

    def update(
        self,
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        features: Features | None = None,
        value: Any = None,
        **extra: Any,
    ) -> tuple[Any, LNBState]:
        """The step for a batch, and the state after it."""
        del extra
        self.neurons.check_features(features)
        given = self.neurons.leaves_of(updates, "updates")
        own = None if params is None else self.neurons.leaves_of(params, "params")
        gradients, own = self._trained(given), None if own is None else self._trained(own)
        if own is not None and own.keys() != gradients.keys():
            raise ValueError(
                "`params` and `updates` are masked differently: give both to `update` as one mask has them."
            )
        self._check_state(state, gradients)
        steps, state = with_automatic_axes(
            self._advance, gradients, state, own, features, value, like=(gradients, state)
        )
        leaves = [steps.get(k, leaf if leaf is None else jnp.zeros_like(leaf)) for k, leaf in enumerate(given)]
        present = [leaf for leaf in self.neurons.as_given(leaves) if leaf is not None]
        return jax.tree.unflatten(jax.tree.structure(updates), present), state

    def _trained(self, leaves: Sequence[Array | None]) -> dict[int, Array]:
        """The leaves that this optimizer trains: those that are neither masked nor ignored."""
        ignored = self.neurons.ignored_leaves
        return {k: leaf for k, leaf in enumerate(leaves) if leaf is not None and k not in ignored}

    def _tree(self, leaves: dict[int, Array]) -> Any:
        """A tree like `params` of these leaves, the others masked."""
        import optax

        places = range(self.neurons.treedef.num_leaves)
        return jax.tree.unflatten(self.neurons.treedef, [leaves.get(k, optax.MaskedNode()) for k in places])

    def _check_state(self, state: Any, leaves: dict[int, Array]) -> None:
        """Raise unless the state has the structure and shapes of this optimizer's."""
        trained = frozenset(leaves)
        if trained not in self._layouts:
            jax.eval_shape(self._init, leaves)
        if _layout_of(state) != self._layouts[trained]:
            raise ValueError(
                "`state` is of another optimizer: it was made for another network, or with another solver, decay or "
                "mask. Make it with this optimizer's `init(params)`, and restore checkpoints into that."
            )

    def _advance(
        self,
        latest: dict[int, Array],
        state: LNBState,
        params: dict[int, Array] | None,
        features: Features,
        value: Any,
    ) -> tuple[dict[int, Array], LNBState]:
        axes = known_axes(self.axes)

        def shared(group: SolveGroup) -> tuple[Any, ...]:
            return axes_apart(group.arrays(features), group.leaves_of(latest)) if axes is None else axes

        plan = self.plan(frozenset(latest))
        types = {k: leaf.dtype for k, leaf in latest.items()}
        latest, own = as_statistics((latest, params))
        gradients, average = latest, None
        if self.averages:
            leaves = tuple(latest.values())
            ahead, average = _look_ahead(leaves, state.average, state.step, self.gradient_decay, self.nesterov)
            gradients = dict(zip(latest, ahead, strict=True))
        rate: Any = self.learning_rate(state.step) if callable(self.learning_rate) else self.learning_rate
        directions = sum(neuron.groups * min(neuron.inputs, neuron.outputs) for neuron in plan.neurons)
        distance = self.step.distance(rate, directions)
        finite = _is_finite(plan, latest)
        if axes:
            finite = jax.lax.psum(jnp.where(finite, 0, 1), axes) == 0
        metrics = [group.metric(features, distance, shared(group)) for group in plan.groups]
        solved = _solve(plan, gradients, metrics, state, finite, self.step)
        unscaled, finite = solved.steps, solved.finite
        if value is not None and axes != ():
            value = jax.lax.pmean(value, axes or axes_apart([value], latest.values()))
        factor = self.step.whole(solved.squared_norm, value)
        if factor is not None:
            unscaled = {k: leaf * factor.astype(leaf.dtype) for k, leaf in unscaled.items()}
            finite = finite & jnp.isfinite(factor)
        # A branch, which no fusion crosses (docs/notes.md).
        finite = jax.lax.cond(finite, lambda count: count, lambda count: count + 1, jnp.zeros((), jnp.int32)) == 0
        own = None if own is None else self._tree(own)
        stepped, scaled = self.scaling.update(self._tree(unscaled), state.scaling, own)
        in_a_row = jnp.where(finite, 0, state.skipped_in_a_row + 1)
        instead = jnp.where(in_a_row > MOST_SKIPPED_IN_A_ROW, jnp.nan, 0)
        steps = {
            k: jnp.where(finite, leaf, instead.astype(leaf.dtype)).astype(types[k])
            for k, leaf in zip(types, jax.tree.leaves(stepped), strict=True)
        }

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, old)

        new_state = LNBState(
            step=state.step + jnp.where(finite, 1, 0),
            skipped=state.skipped + jnp.where(finite, 0, 1),
            skipped_in_a_row=in_a_row,
            average=keep(average, state.average),
            refresh_offsets=state.refresh_offsets,
            statistics=solved.statistics,
            warm_starts=keep(solved.warm_starts, state.warm_starts),
            scaling=keep(scaled, state.scaling),
        )
        return steps, new_state


def _layout_of(state: Any) -> tuple[Any, list[tuple[int, ...]]]:
    """The structure and the shapes of a state."""
    leaves, structure = jax.tree.flatten(state)
    return structure, [jnp.shape(leaf) for leaf in leaves]


def _look_ahead(gradient: Any, average: Any, steps: Array, decay: float, nesterov: bool) -> tuple[Any, Any]:
    """Algorithm 2, line 4: the corrected moving average, with Nesterov's look ahead or without; and the one to keep.

    Like `optax.ema`, but under strict type promotion too. The average to keep follows from the corrected one, so that
    no second copy of the gradient lives on for it.
    """
    now = _correction(decay, steps + 1)
    of_old, of_new = decay * now, (1 - decay) * now
    if nesterov:
        ahead = decay * _correction(decay, steps + 2)
        of_old, of_new = decay * ahead, (1 - decay) * ahead + of_new

    def weighted(first: Any, second: Any, of_first: Array, of_second: Array) -> Any:
        def combine(a: Array, b: Array) -> Array:
            return a * of_first.astype(a.dtype) + b * of_second.astype(b.dtype)

        return jax.tree.map(combine, first, second)

    ahead = weighted(average, gradient, of_old, of_new)
    share = (1 - decay) / of_new
    return ahead, weighted(average, ahead, decay - share * of_old, share)


def _correction(decay: float, count: Array) -> Array:
    """The factor that corrects a moving average of `count` gradients for its start at zero."""
    return 1 / (1 - decay ** count.astype(float))


def _is_finite(plan: _Plan, gradients: dict[int, Array]) -> Array:
    """Whether all gradients are finite; a feature that is not makes its weight's gradient not finite either.

    The sum of an array is checked in place of its elements: it is not finite if one of them is not.
    """
    arrays = list(identity_parts(plan.identity, gradients).values())
    weights = [(n.pack_leaves(gradients), n.has_bias) for n in plan.neurons if n.features is not None]
    arrays = [packed[:, :-1] if has_bias else packed for packed, has_bias in weights] + arrays
    return reduce(jnp.logical_and, [jnp.isfinite(x.sum()) for x in arrays], jnp.ones((), bool))


class _Solved(NamedTuple):
    steps: dict[int, Array]  # by leaf
    statistics: tuple[Any, ...]  # unchanged if the batch is not finite
    warm_starts: tuple[Any, ...]
    squared_norm: Array  # z = theta . g []
    finite: Array  # whether gradients and z are finite


def _solve(
    plan: _Plan,
    gradients: dict[int, Array],
    metrics: Sequence[Metric],
    state: LNBState,
    finite: Array,
    rule: StepRule,
) -> _Solved:
    """Solve for the directions of all leaves (Algorithm 2, lines 5 to 11), and take each neuron's step along its own.

    `metrics` are the groups', and `finite` tells whether the batch's gradients are finite.
    """
    with jax.named_scope("lnb_statistics"):
        statistics = update_statistics(
            plan.groups, metrics, state.statistics, state.step, state.refresh_offsets, finite
        )
    parts, squared_norms, warm_starts = [], [], []
    rows = zip(plan.groups, metrics, statistics, state.warm_starts, strict=True)
    for group, metric, updated, starts in rows:
        own = [neuron.pack_leaves(gradients) for neuron in group.neurons]
        with jax.named_scope("lnb_solve"):
            solutions = group.solve(metric, updated, own, starts)
        warm_starts.append(tuple(solution.warm_start for solution in solutions))
        for neuron, solution, gradient in zip(group.neurons, solutions, own, strict=True):
            with jax.named_scope("lnb_length"):
                step, squared_norm = rule.per_neuron(neuron, solution, gradient)
            parts.append(neuron.unpack_leaves(step))
            squared_norms.append(squared_norm)
    identity = identity_parts(plan.identity, gradients)
    parts.append({leaf: rule.per_leaf(g) for leaf, g in identity.items()})
    squared_norms += [jnp.vdot(g, g)[None] for g in identity.values()]
    steps = sum_parts(parts, gradients)
    dtype = statistics_dtype(*(square.dtype for square in squared_norms))
    squared_norm = jnp.concatenate([square.astype(dtype) for square in squared_norms or [jnp.zeros(1)]]).sum()
    return _Solved(steps, tuple(statistics), tuple(warm_starts), squared_norm, finite & jnp.isfinite(squared_norm))
