"""Labelled images and a tanh network: section 5.2 of the paper, and the same on small digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import shuffled_batches
from lnb_experiments.data._data import LabelledImages, Split
from lnb_experiments.runs._training import Problem
from lnb_experiments.tasks._networks import Dense, apply_mlp, init_mlp

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ClassifierSettings:
    """Hyper-parameters of a network for classification."""

    hidden: tuple[int, ...] = (800,)
    """Width of each hidden layer."""
    batch_size: int = 1000
    """Examples in a batch; what is left over at the end of an epoch waits for another epoch."""


class Batch(NamedTuple):
    """Labelled images."""

    images: Float[Array, "n i"]
    labels: Int[Array, " n"]


def classification(
    load: Callable[[], LabelledImages], inverted: bool, settings: ClassifierSettings, seed: int
) -> Problem:
    """A tanh network that gives images their class, trained on the mean cross entropy.

    Args:
        load: the data.
        inverted: train and test on 1 - x, which shifts every feature and changes nothing else.
        settings: of the network.
        seed: of the initial weights and of the order of the examples.

    Returns:
        A problem with the metrics `accuracy` and `validation_loss`, on all of the test images.

    Raises:
        ExperimentError: the data is not to be had, or a setting is out of its range.
    """
    if not all(width > 0 for width in settings.hidden):
        raise ExperimentError(f"`hidden` must be positive widths, got {settings.hidden}.")
    data = load()
    train, test = (_on_device(split, inverted) for split in (data.train, data.test))
    sizes = (train.images.shape[1], *settings.hidden, data.classes)

    @jax.jit
    def measure(params: tuple[Dense, ...]) -> dict[str, Array]:
        logits = apply_mlp(params, test.images)
        hits = jnp.argmax(logits, axis=1).astype(test.labels.dtype) == test.labels
        return {"accuracy": hits.mean(), "validation_loss": _cross_entropy(logits, test.labels)}

    def evaluate(params: tuple[Dense, ...]) -> Mapping[str, float]:
        return {name: float(value) for name, value in measure(params).items()}

    batches = shuffled_batches(train, settings.batch_size, seed)
    return Problem(
        params=init_mlp(jax.random.key(seed), sizes),
        loss_fn=_loss_fn,
        batches=batches.epoch,
        steps_per_epoch=batches.steps_per_epoch,
        evaluate=evaluate,
        logits=lambda params, batch: (apply_mlp(params, batch.images), None),
    )


def _loss_fn(params: tuple[Dense, ...], batch: Batch) -> Array:
    return _cross_entropy(apply_mlp(params, batch.images), batch.labels)


def _cross_entropy(logits: Float[Array, "n o"], labels: Int[Array, " n"]) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _on_device(split: Split, inverted: bool) -> Batch:
    images = 1 - split.images if inverted else split.images
    return Batch(jnp.asarray(images), jnp.asarray(split.labels))
