"""The update of Algorithm 2 as Optax transformations: `scale_by_lnb` is its mathematics, `lnb` the whole chain.

Optax is imported where an optimizer is made, since importing it takes longer than importing all of `lnb`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lnb._batch import Features
from lnb._blocks import Block, Clock, SolverChoice, all_finite, own_step, plan_blocks, settled
from lnb._checks import check_number
from lnb._explicit_axes import with_automatic_axes
from lnb._neuron import Neuron
from lnb._neurons import Neurons, identity_parts, sum_parts
from lnb._numerics import split_bias, statistics_dtype
from lnb._solvers import Auto
from lnb._spectral import norm_step_of_table

if TYPE_CHECKING:
    import optax

Step = Literal["norm", "polyak", "spectral"]

MOST_SKIPPED_IN_A_ROW = 50
"""After so many batches in a row that are not finite the updates are NaN, as with `optax.apply_if_finite`."""


class LNBState(NamedTuple):
    """State of `lnb` and of `scale_by_lnb`."""

    step: Array  # steps taken, not counting those that were passed over
    skipped: Array  # batches passed over, since they were not finite
    skipped_in_a_row: Array  # of these, the last ones without a step between
    average: Any  # of the gradient of each leaf trained, not yet corrected for its start at zero; None without
    turns: tuple[Array, ...]  # of each block's `Clock`; compiled in, they would tell equal kernels apart
    statistics: tuple[Any, ...]  # one entry for each block of neurons: the solver's averages
    memory: tuple[Any, ...]  # one entry for each block of neurons: what its solver remembers of each
    scaling: Any  # of weight decay and learning rate


def scale_by_lnb(
    neurons: Neurons, *, solver: SolverChoice = Auto(), step: Step = "spectral", min_norm: float = 1e-2
) -> optax.GradientTransformationExtraArgs:
    """Precondition the gradient by every neuron's metric, theta = M^-1 g, and give the direction its length.

    With z = theta . g over all parameters together, and s the smaller side of a neuron's weights [i(+1), o]:

        step        update
        "spectral"  theta (theta^T M theta)^-1/2 of each neuron: the steepest step that moves its output by about 1
                    along every direction; theta sqrt(s / (theta . g)), as long in the mean, where that would cost more
                    than a quarter of the neuron's forward and backward pass
        "norm"      theta / max(min_norm, sqrt(max(z, 0))): Algorithm 2, lines 6 to 14
        "polyak"    theta loss / max(min_norm^2, z): to where a loss with minimum 0 would have it if it were linear
                    (Polyak, 1987)

    Parameters without a neuron have the identity metric; their "spectral" step, like that of a scale, has the length of
    one of the second form.

    Args:
        neurons: from `lnb.find_neurons`.
        solver: how M theta = g is solved, for all neurons, or a function that gives each neuron its solver; by
            default `Auto()`. Weights used as W and as W^T are solved exactly with a solver's settings, and neurons
            kept as their equations by `CG` with its ridge.
        step: as above; "polyak" needs `update` to be given `value=loss` too.
        min_norm: lower bound on sqrt(z), where it is used.

    Returns:
        A transformation whose `update(grads, state, params, features=features)` takes the features from
        `neurons.value_and_grad`. A batch with a non-finite gradient or feature changes nothing but the state's
        counts of skipped batches; after 50 in a row the updates are NaN. Leaves that are masked, or
        ignored by the search, are left to whatever else trains them.

    Raises:
        TypeError, ValueError: an argument is not what it should be; at the update, `features` are missing or are not
            these neurons'.

    Source: Algorithm 2 and section 3.4 of the paper; `lnb._spectral` for the spectral step.
    """
    import optax

    return _boosting(neurons, solver, step, min_norm, 0.0, False, optax.identity())


def lnb(
    neurons: Neurons,
    learning_rate: optax.ScalarOrSchedule,
    *,
    solver: SolverChoice = Auto(),
    step: Step = "spectral",
    gradient_decay: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 1e-4,
    min_norm: float = 1e-2,
) -> optax.GradientTransformationExtraArgs:
    """Online linear neuron boosting (Algorithm 2): train with each linear function's features whitened.

    A chain: moving average of the gradient, `scale_by_lnb`, decoupled weight decay (eq. 4, biases too), learning rate.
    The paper's own settings are `solver=CG(), step="norm", nesterov=False`.

    Args:
        neurons: from `lnb.find_neurons`.
        learning_rate: how far a step moves each neuron's output along every direction, about 0.02 to 0.05; with
            `step="norm"` the length sqrt(epsilon) of a step of all neurons together, about 0.1 to 1; with "polyak" a
            multiple, 1 for the textbook's. Or a schedule of it: a step of given length wants one that decays.
        solver, step, min_norm: as in `scale_by_lnb`.
        gradient_decay: of the moving average of the gradient, corrected for its start at zero; 0 for none.
        nesterov: step along the average as it will be once the next gradient, taken to be like this one, is in it.
        weight_decay: rho of Algorithm 2; the parameters shrink by learning_rate * weight_decay a step.

    Returns:
        An optimizer: `init(params)`, then `update(grads, state, params, features=features)`.

    Raises:
        TypeError, ValueError: as in `scale_by_lnb`.

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
    return _boosting(neurons, solver, step, min_norm, gradient_decay, nesterov, scaling)


def _boosting(
    neurons: Neurons,
    solver: SolverChoice,
    step: Step,
    min_norm: float,
    gradient_decay: float,
    nesterov: bool,
    scaling: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Algorithm 2 in the type of statistics, `scaling` being what follows line 14."""
    import optax

    if not isinstance(neurons, Neurons):
        raise TypeError(f"`neurons` must come from `lnb.find_neurons`, got {type(neurons).__name__}.")
    if step not in ("norm", "polyak", "spectral"):
        raise ValueError(f"`step` must be 'norm', 'polyak' or 'spectral', got {step!r}.")
    check_number("`min_norm`", min_norm, 0, inf)
    averages = not isinstance(gradient_decay, (int, float)) or gradient_decay > 0

    @cache
    def plan(trained: frozenset[int]) -> tuple[tuple[Neuron, ...], list[Block]]:
        kept = neurons.without(frozenset(range(neurons.treedef.num_leaves)) - trained)
        return kept, plan_blocks(kept, neurons.sharing, solver)

    # Wrong choices of a solver are refused here, not at the first update.
    plan(frozenset(range(neurons.treedef.num_leaves)) - neurons.ignored_leaves)

    def own_part(tree: Any, argument: str) -> dict[int, Array]:
        """The leaves that this optimizer trains: those that are neither masked nor ignored."""
        leaves = enumerate(neurons.leaves_of(tree, argument))
        return {k: leaf for k, leaf in leaves if leaf is not None and k not in neurons.ignored_leaves}

    def as_tree(part: dict[int, Array]) -> Any:
        leaves = [part.get(k, optax.MaskedNode()) for k in range(neurons.treedef.num_leaves)]
        return jax.tree.unflatten(neurons.treedef, leaves)

    def init(params: Any) -> LNBState:
        part = _as_statistics(own_part(params, "params"))
        blocks = plan(frozenset(part))[1]
        statistics, memory = zip(*(block.init() for block in blocks), strict=True) if blocks else ((), ())
        return LNBState(
            step=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_a_row=jnp.zeros((), jnp.int32),
            average=tuple(jnp.zeros_like(leaf) for leaf in part.values()) if averages else None,
            turns=tuple(jnp.asarray(block.turn, jnp.int32) for block in blocks),
            statistics=statistics,
            memory=memory,
            scaling=scaling.init(as_tree(part)),
        )

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        features: Features | None = None,
        value: Any = None,
        **extra: Any,
    ) -> tuple[Any, LNBState]:
        del extra
        neurons.check_features(features)
        given = neurons.leaves_of(updates, "updates")
        gradients = own_part(updates, "updates")
        own = None if params is None else own_part(params, "params")
        if own is not None and own.keys() != gradients.keys():
            raise ValueError(
                "`params` and `updates` are masked differently: give both to `update` as one mask has them."
            )
        _check_state(state, jax.eval_shape(init, updates))
        steps, state = with_automatic_axes(advance, gradients, state, own, features, value, like=(gradients, state))
        leaves = [steps.get(k, leaf if leaf is None else jnp.zeros_like(leaf)) for k, leaf in enumerate(given)]
        present = [leaf for leaf in leaves if leaf is not None]
        return jax.tree.unflatten(jax.tree.structure(updates), present), state

    def advance(
        latest: dict[int, Array], state: LNBState, params: dict[int, Array] | None, features: Features, value: Any
    ) -> tuple[dict[int, Array], LNBState]:
        kept, blocks = plan(frozenset(latest))
        types = {k: leaf.dtype for k, leaf in latest.items()}
        gradients = latest = _as_statistics(latest)
        average = None
        if averages:
            of_leaves = tuple(latest.values())
            ahead, average = _look_ahead(of_leaves, state.average, state.step, gradient_decay, nesterov)
            gradients = dict(zip(latest, ahead, strict=True))
        finite = _is_finite(kept, latest)
        solved = _solve(kept, blocks, gradients, features, state, finite, step == "spectral")
        directions, finite = solved.directions, solved.finite
        if step != "spectral":
            squared = solved.squared
            factor = _norm_factor(squared, min_norm) if step == "norm" else _polyak_factor(squared, value, min_norm)
            directions = {k: direction * factor.astype(direction.dtype) for k, direction in directions.items()}
            finite = finite & jnp.isfinite(factor)
        finite = settled(finite)
        own = None if params is None else as_tree(_as_statistics(params))
        stepped, scaled = scaling.update(as_tree(directions), state.scaling, own)
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
            turns=state.turns,
            statistics=solved.statistics,
            memory=keep(solved.memory, state.memory),
            scaling=keep(scaled, state.scaling),
        )
        return steps, new_state

    return optax.GradientTransformationExtraArgs(init, update)


def _check_state(state: Any, expected: Any) -> None:
    """Raise unless the state is of the structure and shapes of this optimizer's."""
    fits = jax.tree.structure(state) == jax.tree.structure(expected) and all(
        jnp.shape(own) == other.shape
        for own, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True)
    )
    if not fits:
        raise ValueError(
            "`state` is of another optimizer: it was made for another network, or with another solver, decay or mask. "
            "Make it with this optimizer's `init(params)`, and restore checkpoints into that."
        )


def _look_ahead(gradient: Any, average: Any, steps: Array, decay: float, nesterov: bool) -> tuple[Any, Any]:
    """Algorithm 2, line 4: the corrected moving average, and the one to keep; with Nesterov's look ahead if so asked.

    As `optax.ema` has it, but under strict type promotion too. The average to keep is written in the other, so that
    the gradient itself is not kept for it.
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
    """What a moving average of `count` gradients is multiplied by for its start at zero."""
    return 1 / (1 - decay ** count.astype(float))


def _is_finite(neurons: Sequence[Neuron], gradients: dict[int, Array]) -> Array:
    """Whether all gradients are; a feature that is not leaves its weight's gradient not finite either."""
    weights = [
        split_bias(neuron.pack_leaves(gradients), neuron.has_bias)[0]
        for neuron in neurons
        if neuron.features is not None
    ]
    return all_finite([*weights, *identity_parts(neurons, gradients).values()])


class _Solved(NamedTuple):
    directions: dict[int, Array]  # by leaf
    statistics: tuple[Any, ...]  # as they were, if the batch is not finite
    memory: tuple[Any, ...]
    squared: Array  # z = theta . g
    finite: Array  # whether gradients and directions are


def _solve(
    neurons: Sequence[Neuron],
    blocks: Sequence[Block],
    gradients: dict[int, Array],
    features: Features,
    state: LNBState,
    finite: Array,
    spread_out: bool,
) -> _Solved:
    """The directions of all leaves (Algorithm 2, lines 5 to 11), with `spread_out` each neuron's own step already.

    `finite` tells whether the batch's gradients are.
    """
    parts, squares, statistics, memory = [], [], [], []
    for block, turn, old, remembered in zip(blocks, state.turns, state.statistics, state.memory, strict=True):
        own = [neuron.pack_leaves(gradients) for neuron in block.neurons]
        renewed = block.renew(features, old, Clock(state.step, turn), finite)
        solutions = block.solve(features, renewed, own, remembered)
        statistics.append(renewed)
        memory.append(tuple(solution.memory for solution in solutions))
        for neuron, solution, gradient in zip(block.neurons, solutions, own, strict=True):
            direction, squared = own_step(neuron, solution, gradient) if spread_out else solution[:2]
            parts.append(neuron.unpack_leaves(direction))
            squares.append(squared)
    identity = identity_parts(neurons, gradients)
    parts.append({leaf: norm_step_of_table(g) if spread_out else g for leaf, g in identity.items()})
    squares += [jnp.vdot(g, g)[None] for g in identity.values()]
    directions = sum_parts(parts, gradients)
    dtype = statistics_dtype(*(square.dtype for square in squares))
    squared = jnp.concatenate([square.astype(dtype) for square in squares or [jnp.zeros(1)]]).sum()
    return _Solved(directions, tuple(statistics), tuple(memory), squared, finite & jnp.isfinite(squared))


def _norm_factor(squared: Array, min_norm: float) -> Array:
    """1 / sqrt(z), and no more than 1 / min_norm."""
    return 1 / jnp.maximum(min_norm, jnp.sqrt(jnp.maximum(squared, 0)))


def _polyak_factor(squared: Array, value: Any, min_norm: float) -> Array:
    """loss / z, the step to where a loss with minimum 0 would vanish if it were linear."""
    if value is None:
        raise ValueError(
            '`value` is missing: with `step="polyak"`, call '
            "`optimizer.update(grads, state, params, features=features, value=loss)`."
        )
    return jnp.asarray(value, squared.dtype) / jnp.maximum(min_norm**2, squared)


def _as_statistics(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(statistics_dtype(x.dtype)), tree)
