"""Networks that predict the next character of a text, trained on windows that are drawn from it at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import drawn_batches
from lnb_experiments.data._text import encode_text, held_out_windows
from lnb_experiments.runs._training import Problem

if TYPE_CHECKING:
    from jaxtyping import Float, Int

PyTree = Any

_EVALUATION_BATCH = 64


class WindowSettings(Protocol):
    """What a task says about its windows."""

    @property
    def context(self) -> int:
        """Characters that a prediction sees at most."""
        ...

    @property
    def batch_size(self) -> int:
        """Windows of the text in a batch."""
        ...

    @property
    def validation_windows(self) -> int | None:
        """How many windows of the held-out text measure a run, evenly spaced; None for all that fit side by side."""
        ...


def next_character(
    text: str,
    settings: WindowSettings,
    seed: int,
    init: Callable[[Array, int], PyTree],
    apply: Callable[[PyTree, Int[Array, "n t"]], Float[Array, "n t v"]],
) -> Problem:
    """A network trained on the mean cross entropy of the next character, in nats.

    Args:
        text: its first nine tenths are trained on, and the rest is held out.
        settings: of the windows.
        seed: of the initial weights and of the windows.
        init: the parameters for a random key and a number of different characters.
        apply: the logits of the characters that follow.

    Returns:
        A problem with the metric `validation_loss`, in nats per character, on windows that are the same for all seeds.
        A batch is an array of characters, [n, t + 1].

    Raises:
        ExperimentError: the text is too short, or a setting is out of its range.
    """
    if min(settings.context, settings.batch_size) < 1:
        raise ExperimentError(
            f"`context` and `batch_size` must be positive, got {settings.context} and {settings.batch_size}."
        )
    encoded, context = encode_text(text), settings.context
    windows = jnp.asarray(held_out_windows(encoded, context, settings.validation_windows))  # [m, t + 1]
    training = jnp.asarray(encoded.training)

    def draw(key: Array) -> Int[Array, "n t+1"]:
        starts = jax.random.randint(key, (settings.batch_size, 1), 0, len(training) - context)
        return training[starts + jnp.arange(context + 1)]

    def loss_fn(params: PyTree, characters: Int[Array, "n t+1"]) -> Array:
        logits = apply(params, characters[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, characters[:, 1:]).mean()

    measure = jax.jit(loss_fn)

    def evaluate(params: PyTree) -> Mapping[str, float]:
        parts = [windows[start : start + _EVALUATION_BATCH] for start in range(0, len(windows), _EVALUATION_BATCH)]
        return {"validation_loss": sum(float(measure(params, part)) * len(part) for part in parts) / len(windows)}

    batches = drawn_batches(draw, seed)
    return Problem(
        params=init(jax.random.key(seed), encoded.vocabulary),
        loss_fn=loss_fn,
        batches=batches.epoch,
        steps_per_epoch=batches.steps_per_epoch,
        evaluate=evaluate,
        logits=lambda params, characters: (apply(params, characters[:, :-1]), None),
    )
