"""Checks that a solver or a step rule of your own does what `lnb.lnb` expects. The library's own pass them too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb._neurons import Neurons, find_neurons
from lnb._solve_groups import SolveGroup, plan_groups
from lnb._transform import lnb
from lnb.solvers import Diagonal, Solution, SolverChoice
from lnb.steps import StepRule


def check_solver(solver: SolverChoice) -> tuple[str, ...]:
    """Check a solver on small networks with every structure of metric.

    The networks have dense layers with and without a bias, an embedding, a scale, a weight that is used as W and as
    W^T, and a weight that no layer's form fits. On each the solver must

    - give directions of the gradient's shape that are finite, and zero for a gradient of zero,
    - return theta . g as `squared_norm`, and directions along which the loss falls,
    - keep its statistics' structure, shapes and types from step to step and from batch size to batch size,
    - run inside `jax.jit`, with its state donated, and in a scan,
    - keep float32 statistics of a network in bfloat16.

    Args:
        solver: the solver, or a rule such as `lnb.Auto()`.

    Returns:
        The structures of metric, of "tied" and "general", that it says not to support.

    Raises:
        AssertionError: a check fails; the message says which, on which neuron.
        TypeError: it is not a solver.
        ValueError: it does not support the structure "gram".

    >>> import lnb
    >>> check_solver(lnb.Diagonal())
    ()
    """
    if not isinstance(solver, SolverChoice):
        raise TypeError(f"`solver` must be an object of a subclass of `lnb.Solver`, got {type(solver).__name__}.")
    unsupported = []
    for structure, (loss_fn, params, batch) in _networks().items():
        neurons = find_neurons(loss_fn, params, *batch(12))
        try:
            groups = plan_groups(neurons, neurons.sharing, solver)
        except ValueError:
            if structure == "gram":
                raise
            unsupported.append(structure)
            continue
        _check_groups(groups, neurons, params, batch)
        _check_training(loss_fn, params, batch, solver=solver)
    return tuple(unsupported)


def check_step(step: StepRule) -> None:
    """Check a step rule on small networks.

    It must give steps of the gradient's shapes that are finite, zero for a gradient of zero, and along which the loss
    falls, inside `jax.jit` too.

    Args:
        step: the step rule.

    Raises:
        AssertionError: a check fails; the message says which.
        TypeError: it is not a step rule.

    >>> import lnb
    >>> check_step(lnb.Norm())
    """
    for loss_fn, params, batch in _networks().values():
        _check_training(loss_fn, params, batch, solver=Diagonal(), step=step)


Network = tuple[Callable[..., Array], dict[str, Array], Callable[[int], tuple[Array, ...]]]


def _networks() -> dict[str, Network]:
    """For each structure of metric a loss, its parameters, and batches of a size."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return jnp.asarray(random.standard_normal(shape) / shape[0] ** 0.5, jnp.float32)

    def gram_loss(params: dict[str, Array], x: Array, tokens: Array) -> Array:
        h = jnp.tanh(x @ params["w"] + params["b"]) + params["table"][tokens]
        return jnp.square(jnp.tanh(h * params["scale"] + params["shift"]) @ params["v"] - 1).mean()

    gram = {
        "w": normal(5, 4),
        "b": normal(4),
        "table": normal(7, 4),
        "scale": jnp.ones(4),
        "shift": jnp.zeros(4),
        "v": normal(4, 3),
    }

    def tied_loss(params: dict[str, Array], tokens: Array) -> Array:
        h = jnp.tanh(params["table"][tokens] @ params["w"])
        return jnp.square(h @ params["table"].T + params["bias"] - 1).mean()

    tied = {"table": normal(7, 4), "w": normal(4, 4), "bias": normal(7)}

    def general_loss(params: dict[str, Array], x: Array) -> Array:
        return jnp.square(jnp.tanh(x @ jnp.cumsum(params["w"], 0)) - 1).mean()

    def of(kinds: str) -> Callable[[int], tuple[Array, ...]]:
        def batch(size: int) -> tuple[Array, ...]:
            random = np.random.default_rng(size)
            x = jnp.asarray(random.standard_normal((size, 5)) + 1, jnp.float32)
            tokens = jnp.asarray(random.integers(0, 7, size), jnp.int32)
            return tuple({"x": x, "t": tokens}[kind] for kind in kinds)

        return batch

    return {
        "gram": (gram_loss, gram, of("xt")),
        "tied": (tied_loss, tied, of("t")),
        "general": (general_loss, {"w": normal(5, 3)}, of("x")),
    }


def _check_groups(
    groups: list[SolveGroup], neurons: Neurons, params: Any, batch: Callable[[int], tuple[Array, ...]]
) -> None:
    """Check the solvers of a network's groups on their own."""

    @jax.jit
    def solve(states: Any, steps: Array, scale: Array, *arguments: Array) -> list[Any]:
        _, grads, features = neurons.value_and_grad(params, *arguments)
        results = []
        for group, (statistics, warm_starts) in zip(groups, states, strict=True):
            gradients = [scale * neuron.pack(grads) for neuron in group.neurons]
            metric = group.metric(features)
            updated = jax.eval_shape(group.solver.update, metric, statistics, steps)
            before, after = _layout(statistics), _layout(updated)
            _require(
                before == after, f"{_name(group)}: the statistics were {before} after `init`, {after} after `update`"
            )
            statistics = group.update(metric, statistics, steps + 1, True)
            solutions = group.solve(metric, statistics, gradients, warm_starts)
            results.append((statistics, solutions, gradients))
        return results

    names = [_name(group) for group in groups]
    fresh = [group.init() for group in groups]
    for name, state in zip(names, fresh, strict=True):
        for leaf in jax.tree.leaves(state):
            _require(isinstance(leaf, Array), f"{name}: statistics and warm starts must be arrays, got {leaf!r}")
    states = fresh
    for steps, size in enumerate((12, 12, 5)):
        results = solve(states, jnp.asarray(steps), jnp.ones(()), *batch(size))
        states = [(statistics, tuple(s.warm_start for s in solutions)) for statistics, solutions, _ in results]
        for name, before, after in zip(names, fresh, states, strict=True):
            before, after = _layout(before), _layout(after)
            _require(before == after, f"{name}: the state was {before} after `init`, {after} after a batch of {size}")
        for name, (_, solutions, gradients) in zip(names, results, strict=True):
            for solution, gradient in zip(solutions, gradients, strict=True):
                _check_solution(name, solution, gradient)
    for name, (_, solutions, _) in zip(names, solve(fresh, jnp.asarray(0), jnp.zeros(()), *batch(12)), strict=True):
        still = all(not np.any(solution.direction) for solution in solutions)
        _require(still, f"{name}: `direction` is not zero for a gradient of zero")
    for name, group in zip(names, groups, strict=True):
        costs = group.solver.flops(group.sizes, group.neurons[0].outputs)
        _require(len(costs) == 2 and min(costs) >= 0, f"{name}: `flops` must be two numbers of at least 0, got {costs}")


def _name(group: SolveGroup) -> str:
    return f"{type(group.solver).__name__} on the neuron {group.neurons[0].name}"


def _check_solution(name: str, solution: Solution, gradient: Array) -> None:
    theta, z = np.asarray(solution.direction), np.asarray(solution.squared_norm)
    _require(theta.shape == gradient.shape, f"{name}: `direction` is {theta.shape}, the gradient {gradient.shape}")
    _require(z.shape == gradient.shape[:1], f"{name}: `squared_norm` is {z.shape}, expected {gradient.shape[:1]}")
    _require(np.isfinite(theta).all(), f"{name}: `direction` is not finite")
    wanted = (theta * np.asarray(gradient)).sum((1, 2))
    close = np.allclose(z, wanted, rtol=1e-3, atol=1e-6)
    _require(close, f"{name}: `squared_norm` is {z}, and the product of `direction` and the gradient is {wanted}")
    _require(z.sum() > 0, f"{name}: the loss does not fall along `direction`, theta . g is {z.sum()}")


def _check_training(
    loss_fn: Callable[..., Array], params: Any, batch: Callable[[int], tuple[Array, ...]], **settings: Any
) -> None:
    """Check the optimizer on a whole network."""
    name = " and ".join(repr(setting) for setting in settings.values())
    neurons = find_neurons(loss_fn, params, *batch(12))
    optimizer = lnb(neurons, 0.01, weight_decay=0.0, **settings)

    def train(start: tuple[Any, Any], scale: Array) -> tuple[tuple[Any, Any], Array]:
        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Array]:
            value, grads, features = neurons.value_and_grad(carry[0], *batch(12))
            grads = jax.tree.map(lambda leaf: scale * leaf, grads)
            updates, state = optimizer.update(grads, carry[1], carry[0], features=features, value=value)
            return (jax.tree.map(jnp.add, carry[0], updates), state), value

        return jax.lax.scan(step, start, None, length=5)

    train = jax.jit(train, donate_argnums=0)

    def start() -> Any:
        return jax.tree.map(jnp.copy, (params, optimizer.init(params)))

    (_, state), losses = train(start(), jnp.ones(()))
    _require(bool(losses[-1] < losses[0]), f"{name}: the loss does not fall in five small steps, {losses}")
    _require(int(state.skipped) == 0, f"{name}: {state.skipped} of five steps were not finite")
    (after, _), _ = train(start(), jnp.zeros(()))
    still = all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(after), jax.tree.leaves(params), strict=True))
    _require(still, f"{name}: a gradient of zero has an update that is not")
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(optimizer.init(low)) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    _require(kinds <= {jnp.dtype(jnp.float32)}, f"{name}: of a network in bfloat16 the state is {kinds}, not float32")


def _layout(*trees: Any) -> Any:
    return [(jax.tree.structure(tree), [(x.shape, x.dtype.name) for x in jax.tree.leaves(tree)]) for tree in trees]


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message + ".")
