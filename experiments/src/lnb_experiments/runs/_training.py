"""The training loop: it yields records and prints nothing."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lnb
from lnb_experiments._errors import ExperimentError
from lnb_experiments.optimizers._kfac import Classifier
from lnb_experiments.optimizers._optimizers import OptimizerSettings

PyTree = Any
Schedule = Literal["linear", "constant"]
"""The factor of a learning rate: 1, or a number that falls linearly from 1 at the first step to 1 / steps."""


@dataclass(frozen=True)
class Problem:
    """The network, its loss and its data, as a task gives them to the training loop."""

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
    """Residuals of a least-squares problem, [n, outputs] for parameters and a batch: the loss is the sum of their
    squares over n. None where the loss is something else."""
    logits: Callable[[PyTree, PyTree], tuple[jax.Array, jax.Array | None]] | None = None
    """Logits of a classifier, [examples, ..., classes] for parameters and a batch, and the mask of those that count,
    [examples, ...] or None: the loss is their mean cross entropy. None where the loss is something else."""


@dataclass(frozen=True)
class Record:
    """The measurements after a number of steps."""

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
    """The task's own measurements at this step."""

    @property
    def finite(self) -> bool:
        """Whether the loss is a number; a run ends with the first record that is not."""
        return math.isfinite(self.loss)


@dataclass(frozen=True)
class Cost:
    """The cost of a run beside the time of its steps."""

    compile_seconds: float
    """Time to find the neurons and to compile the step."""
    step_bytes: int | None
    """XLA's estimate of the step's memory: arguments, outputs and temporaries, what they share counted once. None where
    the backend gives none."""
    resident_bytes: int | None
    """The process's peak resident memory when the run ended, other runs of the process included. None where the system
    does not tell."""


class Progress(NamedTuple):
    """The state of a run between two steps. All later steps depend on this and on the run's settings alone."""

    params: PyTree
    """Parameters."""
    state: PyTree
    """The optimizer's state."""
    step: int
    """Steps taken."""
    seconds: float
    """Time spent on training."""
    recorded_seconds: float
    """The same at the record before."""
    losses: tuple[Any, ...]
    """Training loss before each step since the record before."""


def prepare(
    problem: Problem, settings: OptimizerSettings
) -> tuple[lnb.Neurons | None, optax.GradientTransformationExtraArgs]:
    """The neurons, if the optimizer reads features, and the optimizer.

    Raises:
        ExperimentError: a setting is out of its range.
    """
    name = type(settings).__name__
    neurons = read = None
    if settings.reads == "features":
        neurons = read = lnb.find_neurons(problem.loss_fn, problem.params, next(problem.batches(0, 0)))
    if settings.reads == "residuals":
        if problem.residuals is None:
            raise ExperimentError(
                f"{name} is for least-squares problems, the tasks `matrix-factorization` and "
                "`matrix-factorization-svd`; this task's loss is no sum of squares."
            )
        read = problem.residuals
    if settings.reads == "logits":
        if problem.logits is None:
            raise ExperimentError(f"{name} is for classifiers; this task's loss is no cross entropy.")
        read = Classifier(problem.logits, next(problem.batches(0, 0)))
    try:
        return neurons, settings.build(read)
    except ValueError as error:
        raise ExperimentError(f"{name}: {error}") from error


def train(
    problem: Problem,
    settings: OptimizerSettings,
    *,
    epochs: int,
    evaluate_every: int,
    schedule: Schedule = "constant",
) -> Training:
    """Train from the problem's initial parameters, and tell how it goes.

    Args:
        problem: from a task.
        settings: of the optimizer.
        epochs: passes over the training data.
        evaluate_every: steps from one record to the next; the last step has one too.
        schedule: what the learning rate is multiplied by on the way.

    Returns:
        An iterator over the records: at step 0 and at each evaluation. The run ends with `epochs`, or with the first
        record whose loss is not finite, or when the caller stops asking.

    Raises:
        ExperimentError: a setting is out of its range, which shows before the first step.
    """
    return Training(problem, settings, epochs, evaluate_every, schedule)


class Training(Iterator[Record]):
    """A run: an iterator over its records that can also stop between two steps, and go on from there."""

    def __init__(
        self, problem: Problem, settings: OptimizerSettings, epochs: int, evaluate_every: int, schedule: Schedule
    ) -> None:
        """As `train`, which see."""
        if epochs < 1 or evaluate_every < 1:
            raise ExperimentError(
                f"`epochs` and `evaluate_every` must be at least 1, got {epochs} and {evaluate_every}."
            )
        started = time.perf_counter()
        self.steps = epochs * problem.steps_per_epoch
        self._problem = problem
        self._evaluate_every = evaluate_every
        self._neurons, optimizer = prepare(problem, settings)
        self._optimizer = _scheduled(optimizer, schedule, self.steps)
        self._compile_seconds = time.perf_counter() - started
        self._step: Any = None
        self._progress: Progress | None = None
        self._has_begun = False
        self._loss = 0.0

    @property
    def progress(self) -> Progress:
        """Where the run stands. The next step takes its arrays away."""
        if self._progress is None:
            self._progress = self._begin()
        return self._progress

    @property
    def has_begun(self) -> bool:
        """Whether the run has given its first record, or goes on from where another has."""
        return self._has_begun

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to do."""
        return self.progress.step == self.steps or not math.isfinite(self._loss)

    def resume(self, progress: Progress) -> None:
        """Go on from where an equal run stood, rather than from the initial parameters."""
        if self._progress is None:
            self._begin()
        self._progress, self._has_begun = progress, True
        self._batches = _batches_from(self._problem, progress.step)

    def compile(self) -> None:
        """Compile the step and warm it up, before the clock runs; the first record does so too."""
        if self._step is not None:
            return
        copies, batch = self._copied(), next(self._problem.batches(0, 0))
        params, state = self._shapes
        started = time.perf_counter()
        self._step = _compile_step(self._problem, self._neurons, self._optimizer, params, state, batch)
        self._compile_seconds += time.perf_counter() - started
        # The first call of a program costs more than the next ones: it is made on copies.
        jax.block_until_ready(self._step(copies.params, copies.state, batch))

    def cost(self) -> Cost:
        """The cost of the run so far."""
        self.compile()
        return Cost(self._compile_seconds, _step_bytes(self._step), _resident_bytes())

    def __next__(self) -> Record:
        """Train to the next record."""
        if self.is_over:
            raise StopIteration
        record = self.advance()
        assert record is not None
        return record

    def advance(self, until: int | None = None, stop: Callable[[], bool] = lambda: False) -> Record | None:
        """Train to the next record, or to the step `until` if that comes first.

        Args:
            until: the step to stop after; None for the next record's.
            stop: asked before every step; the run stands still once it is true.

        Returns:
            The record of the step that was reached; None if it has none.
        """
        self.compile()
        step = self.progress.step
        if not self._has_begun:
            record = self._first_record()
            self._has_begun = True
            return record
        due = min(self.steps, (step // self._evaluate_every + 1) * self._evaluate_every)
        self._take_steps(due if until is None else min(due, until), stop)
        return self._record() if self.progress.step == due else None

    def profile(self, folder: Path, steps: int) -> None:
        """Write a trace of so many further steps, taken on copies: the run and its records know nothing of them.

        Args:
            folder: for JAX's profiler, which adds to what is there.
            steps: how many to trace, compilation left out.
        """
        self.compile()
        params, state, step, *_ = self._copied()
        batches = _batches_from(self._problem, step)
        with jax.profiler.trace(folder):
            for number in range(step, step + steps):
                with jax.profiler.StepTraceAnnotation("step", step_num=number):
                    params, state, _ = self._step(params, state, next(batches))
            jax.block_until_ready(params)

    def _copied(self) -> Progress:
        """Where the run stands, with arrays that a step may take without harm to the run."""
        params, state = jax.tree.map(jnp.copy, (self.progress.params, self.progress.state))
        return self.progress._replace(params=params, state=state)

    def _begin(self) -> Progress:
        # The step gives its arguments' memory away, so each array has to be this run's own.
        initial = (self._problem.params, self._optimizer.init(self._problem.params))
        params, state = jax.tree.map(jnp.copy, initial)
        # The step is compiled for these shapes, in a run that goes on as in one that starts.
        self._shapes = jax.eval_shape(lambda *trees: trees, params, state)
        self._batches = _batches_from(self._problem, 0)
        return Progress(params, state, 0, 0.0, 0.0, ())

    def _take_steps(self, until: int, stop: Callable[[], bool]) -> None:
        params, state, step, seconds, recorded_seconds, before = self.progress
        losses = list(before)
        started = time.perf_counter()
        while step < until and not stop():
            params, state, loss = self._step(params, state, next(self._batches))
            losses.append(loss)
            step += 1
        jax.block_until_ready(params)
        seconds += time.perf_counter() - started
        self._progress = Progress(params, state, step, seconds, recorded_seconds, tuple(losses))

    def _first_record(self) -> Record:
        params = self.progress.params
        self._loss = float(jax.jit(self._problem.loss_fn)(params, next(self._problem.batches(0, 0))))
        return Record(0, 0.0, 0.0, None, self._loss, self._problem.evaluate(params))

    def _record(self) -> Record:
        now = self.progress
        self._loss = float(np.mean(jax.device_get(now.losses)))
        self._progress = now._replace(recorded_seconds=now.seconds, losses=())
        return Record(
            step=now.step,
            epoch=now.step / self._problem.steps_per_epoch,
            seconds=now.seconds,
            milliseconds=1000 * (now.seconds - now.recorded_seconds) / len(now.losses),
            loss=self._loss,
            metrics=self._problem.evaluate(now.params),
        )


def _scheduled(
    optimizer: optax.GradientTransformationExtraArgs, schedule: Schedule, steps: int
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, with the schedule's factor after it, so that its own setting stays a plain learning rate."""
    if schedule == "constant":
        return optimizer
    if schedule == "linear":
        return optax.chain(optimizer, optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, steps)))
    raise ExperimentError(f"`schedule` must be linear or constant, got {schedule!r}.")


def _batches_from(problem: Problem, step: int) -> Iterator[PyTree]:
    """The batches of every step from `step` on, without end."""
    epoch, start = divmod(step, problem.steps_per_epoch)
    while True:
        yield from problem.batches(epoch, start)
        epoch, start = epoch + 1, 0


def _step_bytes(step: Any) -> int | None:
    memory = step.memory_analysis()
    if memory is None:
        return None
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return int(total - memory.alias_size_in_bytes)


def _resident_bytes() -> int | None:
    if importlib.util.find_spec("resource") is None:  # Windows
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _compile_step(
    problem: Problem,
    neurons: lnb.Neurons | None,
    optimizer: optax.GradientTransformationExtraArgs,
    params: PyTree,
    state: PyTree,
    batch: PyTree,
) -> jax.stages.Compiled:
    """One step: the parameters, the state and the loss before it."""

    def step(params: PyTree, state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree, jax.Array]:
        if neurons is None:
            loss, grads = jax.value_and_grad(problem.loss_fn)(params, batch)
            updates, state = optimizer.update(grads, state, params, value=loss, batch=batch)
        else:
            loss, grads, features = neurons.value_and_grad(params, batch)
            updates, state = optimizer.update(grads, state, params, features=features, value=loss)
        return optax.apply_updates(params, updates), state, loss

    return jax.jit(step, donate_argnums=(0, 1)).lower(params, state, batch).compile()
