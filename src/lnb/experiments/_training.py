"""The training loop: it yields records and prints nothing."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lnb
from lnb.experiments._errors import ExperimentError
from lnb.experiments._optimizers import OptimizerSettings

PyTree = Any


@dataclass(frozen=True)
class Problem:
    """What a task gives the training loop: the network, its loss, and the data."""

    params: PyTree
    """Initial parameters; a run copies them, so that runs start alike."""
    loss_fn: Callable[[PyTree, PyTree], jax.Array]
    """Loss of the parameters on a batch, a scalar."""
    batches: Callable[[int, int], Iterator[PyTree]]
    """`batches(epoch, start)`: the batches of an epoch from one on, both counted from 0, the same on every call. Random
    keys are part of a batch, so that the step alone says where a run stands in its data and its randomness."""
    steps_per_epoch: int
    """How many `batches` gives for each epoch from its start."""
    evaluate: Callable[[PyTree], Mapping[str, float]]
    """Metrics of the parameters by name, on data that is not trained on where the task has any."""
    residuals: Callable[[PyTree, PyTree], jax.Array] | None = None
    """Of a least-squares problem, [n, outputs] for the parameters and a batch: the loss is the sum of their squares
    over n. None where the loss is something else."""


@dataclass(frozen=True)
class Record:
    """What is known after a number of steps."""

    step: int
    """Steps taken."""
    epoch: float
    """Passes over the training data."""
    seconds: float
    """Time spent on training: batches and steps, without compilation and evaluation."""
    milliseconds: float | None
    """Time of a step, on average since the record before; None before the first step."""
    loss: float
    """Training loss before each step, on average since the record before; at step 0 that of the
    first batch."""
    metrics: Mapping[str, float]
    """What the task measures at this step."""

    @property
    def finite(self) -> bool:
        """Whether the loss is a number; a run ends with the first record that is not."""
        return math.isfinite(self.loss)


def prepare(
    problem: Problem, settings: OptimizerSettings
) -> tuple[lnb.Neurons | None, optax.GradientTransformationExtraArgs]:
    """The neurons, if the optimizer reads features, and the optimizer.

    Raises:
        ExperimentError: a setting is out of its range.
    """
    neurons = None
    if settings.reads_features:
        neurons = lnb.find_neurons(problem.loss_fn, problem.params, next(problem.batches(0, 0)))
    if settings.reads_residuals and problem.residuals is None:
        raise ExperimentError(
            f"{type(settings).__name__} is for least-squares problems, the tasks `matrix-factorization` and "
            "`matrix-factorization-svd`; this task's loss is no sum of squares."
        )
    try:
        return neurons, settings.build(problem.residuals if settings.reads_residuals else neurons)
    except ValueError as error:
        raise ExperimentError(f"{type(settings).__name__}: {error}") from error


def train(problem: Problem, settings: OptimizerSettings, *, epochs: int, evaluate_every: int) -> Iterator[Record]:
    """Train from the problem's initial parameters, and tell how it goes.

    Args:
        problem: from a task.
        settings: of the optimizer.
        epochs: passes over the training data.
        evaluate_every: steps from one record to the next; the last step has one too.

    Returns:
        A record at step 0 and at each evaluation. The run ends with `epochs`, or with the first
        record whose loss is not finite, or when the caller stops asking.

    Raises:
        ExperimentError: a setting is out of its range, which shows before the first step.
    """
    if epochs < 1 or evaluate_every < 1:
        raise ExperimentError(f"`epochs` and `evaluate_every` must be at least 1, got {epochs} and {evaluate_every}.")
    return _run(problem, *prepare(problem, settings), epochs, evaluate_every)


def _run(
    problem: Problem,
    neurons: lnb.Neurons | None,
    optimizer: optax.GradientTransformationExtraArgs,
    epochs: int,
    evaluate_every: int,
) -> Iterator[Record]:
    # The step gives its arguments' memory away, so each array has to be this run's own.
    initial = (problem.params, optimizer.init(problem.params))
    params, state = jax.tree.map(jnp.copy, initial)
    first = next(problem.batches(0, 0))
    step = _compile_step(problem, neurons, optimizer, params, state, first)
    # The first call of a program costs more than the next ones: it is made on copies, before the clock runs.
    params_copy, state_copy = jax.tree.map(jnp.copy, initial)
    jax.block_until_ready(step(params_copy, state_copy, first))
    loss = float(jax.jit(problem.loss_fn)(params, first))
    yield Record(0, 0.0, 0.0, None, loss, problem.evaluate(params))

    batches = itertools.chain.from_iterable(problem.batches(epoch, 0) for epoch in range(epochs))
    total = epochs * problem.steps_per_epoch
    done, seconds = 0, 0.0
    while done < total and math.isfinite(loss):
        steps = min(evaluate_every, total - done)
        losses = []
        started = time.perf_counter()
        for batch in itertools.islice(batches, steps):
            params, state, value = step(params, state, batch)
            losses.append(value)
        jax.block_until_ready(params)
        elapsed = time.perf_counter() - started
        done, seconds = done + steps, seconds + elapsed
        loss = float(np.mean(jax.device_get(losses)))
        yield Record(
            step=done,
            epoch=done / problem.steps_per_epoch,
            seconds=seconds,
            milliseconds=1000 * elapsed / steps,
            loss=loss,
            metrics=problem.evaluate(params),
        )


def _compile_step(
    problem: Problem,
    neurons: lnb.Neurons | None,
    optimizer: optax.GradientTransformationExtraArgs,
    params: PyTree,
    state: PyTree,
    batch: PyTree,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree, jax.Array]]:
    """One step, compiled before the clock runs."""

    def step(params: PyTree, state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree, jax.Array]:
        if neurons is None:
            loss, grads = jax.value_and_grad(problem.loss_fn)(params, batch)
            updates, state = optimizer.update(grads, state, params, value=loss, batch=batch)
        else:
            loss, grads, features = neurons.value_and_grad(params, batch)
            updates, state = optimizer.update(grads, state, params, features=features, value=loss)
        return optax.apply_updates(params, updates), state, loss

    return jax.jit(step, donate_argnums=(0, 1)).lower(params, state, batch).compile()
