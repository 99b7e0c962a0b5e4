"""What LNB finds in one model, whether it is right, and how the model trains."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lnb
from public_models.captured import dense_inputs
from public_models.trial import Model, Trial

STEPS = 40
LAST = 5  # the loss at the end is the mean over so many steps
RATE = 0.02  # LNB's documented rate
ADAM_RATES = (1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Record:
    """What was measured of a model.

    Fields:
        versions: of its library's packages and of JAX.
        parameters: the number of their elements.
        coverage: the fraction of them that a neuron has.
        kinds: the number of neurons of each kind.
        uncovered: (path, reason) of each parameter without a neuron.
        gradient_error: the largest difference from the gradient of `jax.value_and_grad`, over its largest entry.
        gram_matrices: how many dense layers' Gram matrices were compared with captured inputs.
        gram_error: the largest difference among them, over the matrix's largest entry.
        losses: at the first step and at the end, by optimizer.
        untrained: the loss of the first weights on the last batches; None in records that are older than this field.
        failure: why there is no more than this; "" where there is.
    """

    library: str
    name: str
    note: str
    versions: dict[str, str]
    parameters: int = 0
    coverage: float = 0.0
    kinds: dict[str, int] | None = None
    uncovered: Sequence[tuple[str, str]] = ()
    gradient_error: float = 0.0
    gram_matrices: int = 0
    gram_error: float = 0.0
    losses: dict[str, tuple[float, float]] | None = None
    untrained: float | None = None
    find_seconds: float = 0.0
    failure: str = ""


def measure(model: Model) -> Record:
    """Build a model, find its neurons, compare them with captured inputs, and train it."""
    versions = {package: version(package) for package in (*model.packages, "jax")}
    trial = model.build()
    batch = [jnp.asarray(array) for array in trial.batch(0)]
    began = time.perf_counter()
    neurons = lnb.find_neurons(trial.loss_fn, trial.params, *batch, ignore=trial.ignore)
    seconds = time.perf_counter() - began
    (_, gradients, features), (_, expected) = jax.jit(
        lambda params: (
            neurons.value_and_grad(params, *batch),
            jax.value_and_grad(trial.loss_fn)(params, *batch),
        )
    )(trial.params)
    count, error = compare_gram_matrices(trial, neurons, features, batch)
    return Record(
        library=model.library,
        name=model.name,
        note=model.note,
        versions=versions,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(trial.params)),
        coverage=neurons.coverage,
        kinds=dict(Counter(neuron.kind for neuron in neurons)),
        uncovered=neurons.uncovered,
        gradient_error=_difference(jax.tree.leaves(gradients), jax.tree.leaves(expected)),
        gram_matrices=count,
        gram_error=error,
        losses=_train(trial, neurons),
        untrained=_untrained(trial),
        find_seconds=round(seconds, 2),
    )


def _difference(got: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest difference, over the largest entry of all."""
    scale = max(float(jnp.max(jnp.abs(array))) for array in expected)
    differences = (float(jnp.max(jnp.abs(one - other))) for one, other in zip(got, expected, strict=True))
    return max(differences) / (scale or 1.0)


def compare_gram_matrices(trial: Trial, neurons: Any, features: Any, batch: Sequence[Any]) -> tuple[int, float]:
    """How many dense layers were compared, and the largest relative difference.

    A layer in a loop of unknown length is left out: its Gram matrix is that of sampled iterations.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(trial.params)]
    plain = [neuron for neuron in neurons if neuron.kind == "dense" and neuron.groups == 1]
    plain = [neuron for neuron in plain if not any(read.is_sampled for read in neuron.features.reads)]
    errors = []
    for layer in dense_inputs(trial.loss_fn, trial.params, batch):
        if not layer.weight.any():
            continue  # other weights may be zero too
        for neuron in plain:
            own = (array for k in neuron.leaves for array in (leaves[k], leaves[k].T))
            if neuron.inputs == len(layer.weight) and any(np.array_equal(array, layer.weight) for array in own):
                expected = layer.second_moments / layer.samples
                got = np.asarray(neuron.gram(features)[0])[: neuron.inputs, : neuron.inputs]  # without the bias
                errors.append(float(np.abs(got - expected).max() / np.abs(expected).max()))
    return len(errors), max(errors, default=0.0)


def _untrained(trial: Trial) -> float:
    loss_fn = jax.jit(trial.loss_fn)
    batches = (map(jnp.asarray, trial.batch(number)) for number in range(STEPS - LAST, STEPS))
    return sum(float(loss_fn(trial.params, *batch)) for batch in batches) / LAST


def _train(trial: Trial, neurons: Any) -> dict[str, tuple[float, float]]:
    own = lnb.lnb(neurons, RATE)
    adam = optax.inject_hyperparams(optax.adam)(ADAM_RATES[0])

    @jax.jit
    def boost(params: Any, state: Any, *batch: Any) -> Any:
        loss, gradients, features = neurons.value_and_grad(params, *batch)
        gradients = jax.tree.map(jnp.conj, gradients)
        updates, state = own.update(gradients, state, params, features=features)
        return optax.apply_updates(params, updates), state, loss

    @jax.jit
    def descend(params: Any, state: Any, *batch: Any) -> Any:
        loss, gradients = jax.value_and_grad(trial.loss_fn)(params, *batch)
        gradients = jax.tree.map(jnp.conj, gradients)
        updates, state = adam.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = {"lnb": _losses(boost, trial, own.init(trial.params))}
    for rate in ADAM_RATES:
        state = adam.init(trial.params)
        state.hyperparams["learning_rate"] = jnp.asarray(rate, jnp.float32)
        losses[f"adam {rate:g}"] = _losses(descend, trial, state)
    return losses


def _losses(step: Any, trial: Trial, state: Any) -> tuple[float, float]:
    """The loss at the first step, and at the end."""
    params, losses = trial.params, []
    for number in range(STEPS):
        params, state, loss = step(params, state, *map(jnp.asarray, trial.batch(number)))
        losses.append(float(loss))
        if not math.isfinite(losses[-1]):
            return losses[0], math.nan
    return losses[0], sum(losses[-LAST:]) / LAST
