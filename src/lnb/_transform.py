"""The update of Algorithm 2 as Optax transformations: `scale_by_lnb` is its mathematics, `lnb` the whole chain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lnb._blocks import Block, SolverChoice, all_finite, plan_blocks
from lnb._linear_maps import statistics_dtype
from lnb._moments import average, correction
from lnb._neurons import Features, Neurons
from lnb._solvers import auto
from lnb._spectral import norm_step_of_table

Step = Literal["norm", "polyak", "spectral"]


class LNBState(NamedTuple):
    """State of `scale_by_lnb`."""

    step: Array  # steps taken, not counting those that were passed over
    statistics: tuple[Any, ...]  # one entry for each block of neurons: the solver's averages
    memory: tuple[Any, ...]  # one entry for each block of neurons: what their solver remembers


class GuardedState(NamedTuple):
    """State of a transformation that passes over batches that are not finite."""

    inner: Any
    skipped: Array  # batches passed over so far


def scale_by_lnb(
    neurons: Neurons, *, solver: SolverChoice = auto(), step: Step = "spectral", min_norm: float = 1e-2
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
            default `auto()`. Weights used as W and as W^T are solved exactly with a solver's settings, and neurons
            kept as their equations by `CG` with its ridge.
        step: as above; "polyak" needs `update` to be given `value=loss` too.
        min_norm: lower bound on sqrt(z), where it is used.

    Returns:
        A transformation whose `update(grads, state, params, features=features)` takes the features from
        `neurons.value_and_grad`. A batch with a non-finite gradient or feature changes nothing but `state.skipped`.

    Raises:
        TypeError, ValueError: an argument is not what it should be; at the update, `features` are missing or are not
            these neurons'.

    Source: Algorithm 2 and section 3.4 of the paper; `lnb._spectral` for the spectral step.
    """
    return _guarded(_scale_by_lnb(neurons, solver, min_norm, step))


def lnb(
    neurons: Neurons,
    learning_rate: optax.ScalarOrSchedule,
    *,
    solver: SolverChoice = auto(),
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
    _check_number("learning_rate", learning_rate, 0, float("inf"))
    _check_number("gradient_decay", gradient_decay, 0, 1)
    _check_number("weight_decay", weight_decay, 0, float("inf"))
    return _guarded(
        optax.chain(
            _average_gradient(gradient_decay, nesterov),
            _scale_by_lnb(neurons, solver, min_norm, step),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


class AverageState(NamedTuple):
    """State of the gradient's moving average."""

    step: Array  # steps taken
    average: Any  # like the parameters, not yet corrected for its start at zero


def _average_gradient(decay: float, nesterov: bool) -> optax.GradientTransformation:
    """Algorithm 2, line 4: what `optax.ema` does, under strict type promotion and with Nesterov's look ahead too."""

    def init(params: Any) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AverageState]:
        del params
        step = state.step + 1
        moved = jax.tree.map(lambda old, new: average(old, new, decay), state.average, updates)
        now, ahead = correction(decay, step), correction(decay, step + 1)

        def direction(moved: Array, new: Array) -> Array:
            if not nesterov:
                return moved * now.astype(moved.dtype)
            return moved * (decay * ahead).astype(moved.dtype) + new * ((1 - decay) * now).astype(new.dtype)

        return jax.tree.map(direction, moved, updates), AverageState(step, moved)

    return optax.GradientTransformation(init, update)


def _scale_by_lnb(
    neurons: Neurons, solver: SolverChoice, min_norm: float, step: Step
) -> optax.GradientTransformationExtraArgs:
    if not isinstance(neurons, Neurons):
        raise TypeError(f"`neurons` must come from `lnb.find_neurons`, got {type(neurons).__name__}.")
    if step not in ("norm", "polyak", "spectral"):
        raise ValueError(f"`step` must be 'norm', 'polyak' or 'spectral', got {step!r}.")
    _check_number("min_norm", min_norm, 0, float("inf"))
    blocks = plan_blocks(neurons, solver)

    def init(params: Any) -> LNBState:
        del params
        statistics = tuple(block.solver.init(block.found, block.dtype) for block in blocks)
        memory = tuple(block.solver.init_memory(block.shape, block.dtype) for block in blocks)
        return LNBState(jnp.zeros((), jnp.int32), statistics, memory)

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        features: Features | None = None,
        value: Any = None,
        finite: Array | bool = True,
        **extra: Any,
    ) -> tuple[Any, LNBState]:
        del params, extra
        neurons.check_features(features)
        assert features is not None
        leaves, treedef = jax.tree.flatten(updates)
        if step == "spectral":
            steps, moved = _solve(neurons, blocks, leaves, features, state, finite, spread=True)
            return jax.tree.unflatten(treedef, steps), moved
        directions, moved = _solve(neurons, blocks, leaves, features, state, finite, spread=False)
        dtype = statistics_dtype(*(direction.dtype for direction in directions))
        pairs = zip(directions, leaves, strict=True)
        squared = reduce(jnp.add, [jnp.vdot(d.astype(dtype), g.astype(dtype)) for d, g in pairs])
        if step == "norm":
            factor = 1 / jnp.maximum(min_norm, jnp.sqrt(jnp.maximum(squared, 0)))
        else:
            factor = _polyak_factor(squared, value, min_norm)
        stepped = [direction * factor.astype(direction.dtype) for direction in directions]
        return jax.tree.unflatten(treedef, stepped), moved

    return optax.GradientTransformationExtraArgs(init, update)


def _solve(
    neurons: Neurons,
    blocks: Sequence[Block],
    gradients: Sequence[Array],
    features: Features,
    state: LNBState,
    finite: Array | bool,
    spread: bool,
) -> tuple[list[Array], LNBState]:
    """The directions of all leaves (Algorithm 2, lines 5 to 11), and the state that they leave.

    With `spread` each neuron's is its own step already.
    """
    parts = []
    for neuron in neurons:
        if neuron.features is None:
            own = neuron.unpack_leaves(neuron.pack_leaves(gradients))
            parts.append({leaf: norm_step_of_table(part) for leaf, part in own.items()} if spread else own)
    statistics, memory = [], []
    for block, old, remembered in zip(blocks, state.statistics, state.memory, strict=True):
        renewed = block.renew(features, old, state.step, finite)
        gradient = block.pack(gradients)
        direction, kept = block.solve(features, renewed, state.step, gradient, remembered)
        if spread:
            direction = block.spread(direction, gradient)
        statistics.append(renewed)
        memory.append(kept)
        parts += block.unpack(direction)
    directions: list[Array | None] = [None] * len(gradients)
    for part in parts:
        for leaf, piece in part.items():
            before = directions[leaf]
            directions[leaf] = piece if before is None else before + piece
    moved = LNBState(state.step + 1, tuple(statistics), tuple(memory))
    uncovered = [norm_step_of_table(gradient) for gradient in gradients] if spread else gradients
    return neurons.fill_uncovered(directions, uncovered), moved


def _polyak_factor(squared: Array, value: Any, min_norm: float) -> Array:
    """loss / z, the step to where a loss with minimum 0 would vanish if it were linear."""
    if value is None:
        raise ValueError(
            '`value` is missing: with `step="polyak"`, call '
            "`optimizer.update(grads, state, params, features=features, value=loss)`."
        )
    return jnp.asarray(value, squared.dtype) / jnp.maximum(min_norm**2, squared)


def _guarded(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Compute `inner` in the type of statistics, and pass over batches that are not finite."""

    def init(params: Any) -> GuardedState:
        return GuardedState(inner.init(_as_statistics(params)), jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, GuardedState]:
        gradients, values = _as_statistics(updates), _as_statistics(params)
        # A feature that is not finite leaves its weight's gradient not finite either.
        finite = all_finite(updates)
        stepped, moved = inner.update(gradients, state.inner, values, finite=finite, **extra)
        finite = finite & all_finite(stepped)
        kept = jax.tree.map(partial(_keep, finite), moved, state.inner, is_leaf=lambda x: isinstance(x, LNBState))
        stepped = jax.tree.map(lambda u, g: jnp.where(finite, u, 0).astype(g.dtype), stepped, updates)
        return stepped, GuardedState(kept, state.skipped + jnp.where(finite, 0, 1))

    return optax.GradientTransformationExtraArgs(init, update)


def _keep(finite: Array, moved: Any, old: Any) -> Any:
    """The new state if the step was finite; statistics have seen to that themselves, without another copy of them."""
    if isinstance(moved, LNBState):
        step, memory = _keep(finite, (moved.step, moved.memory), (old.step, old.memory))
        return LNBState(step, moved.statistics, memory)
    return jax.tree.map(lambda new, before: jnp.where(finite, new, before), moved, old)


def _as_statistics(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(statistics_dtype(x.dtype)), tree)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, (int, float)) and not low <= value < high:
        bounds = f"at least {low:g}" if high == float("inf") else f"in [{low:g}, {high:g})"
        raise ValueError(f"`{name}` must be {bounds}, got {value!r}.")
