"""The tasks: frozen settings, what builds a problem from them, and what each optimizer starts from.

A new task is a settings dataclass, a function from settings and a seed to a `Problem`, and an entry
of `TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from lnb.experiments._classification import (
    ClassifierSettings,
    classification,
)
from lnb.experiments._data import load_digits, load_mnist
from lnb.experiments._errors import ExperimentError
from lnb.experiments._matrix_factorization import (
    MatrixFactorizationSettings,
    matrix_factorization,
    row_scaled,
    singular_values_scaled,
)
from lnb.experiments._optimizers import (
    LNB,
    OPTIMIZERS,
    SGD,
    Adam,
    AdamW,
    LNBAuto,
    LNBCholesky,
    LNBDiagonal,
    LNBLowRank,
    Muon,
    OptimizerSettings,
)
from lnb.experiments._training import Problem, Schedule


@dataclass(frozen=True)
class Target:
    """A value of a metric that a run is timed to."""

    metric: str
    """Name of the metric, a key of a record's `metrics`."""
    value: float
    """The value to reach."""
    at_least: bool
    """Whether larger values are better."""

    def reached(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metrics have it.

        >>> Target("accuracy", 0.97, at_least=True).reached({"accuracy": 0.98})
        True
        """
        value = metrics[self.metric]
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        value = f"{self.value:.0%}" if self.metric == "accuracy" else f"{self.value:g}"
        return f"{self.metric.replace('_', ' ')} {sign} {value}"


@dataclass(frozen=True)
class Task:
    """A network to train on some data, and how that is judged."""

    name: str
    """What the command line calls it."""
    summary: str
    """One line."""
    settings: Any
    """Its hyper-parameters, a frozen dataclass."""
    build: Callable[[Any, int], Problem]
    """From settings and a seed to the network and its data."""
    target: Target
    """What its runs are timed to."""
    epochs: int
    """Passes over the training data."""
    evaluate_every: int
    """Steps between evaluations."""
    stop_at_target: bool
    """Whether a run ends once it has reached the target."""
    optimizers: Mapping[str, OptimizerSettings]
    """What each optimizer starts from."""
    schedule: Schedule = "constant"
    """What the learning rate is multiplied by on the way."""


def _started_from(**tuned: OptimizerSettings) -> Mapping[str, OptimizerSettings]:
    named = {name.replace("_", "-"): settings for name, settings in tuned.items()}
    return MappingProxyType({**OPTIMIZERS, **named})


# Adam's learning rates are the best on seed 0 of a grid, two or three to a decade, that goes on past the best to both
# sides. LNB's rate and ridge are the paper's on MNIST, the best of {0.25, 0.5} x {0.1, 1} on digits, and the textbook's
# step on the factorization.
_MNIST_OPTIMIZERS = _started_from(
    adam=Adam(learning_rate=2e-2),
    adamw=AdamW(learning_rate=2e-2),
    sgd=SGD(learning_rate=0.1),
    muon=Muon(learning_rate=0.02),
    lnb=LNB(learning_rate=0.5, ridge=1.0, clip_norm=1.0),
    lnb_cholesky=LNBCholesky(learning_rate=0.5, ridge=1.0, clip_norm=1.0),
    lnb_diagonal=LNBDiagonal(learning_rate=0.5, ridge=1.0, clip_norm=1.0),
    lnb_low_rank=LNBLowRank(learning_rate=0.5, ridge=1.0, clip_norm=1.0),
    lnb_auto=LNBAuto(learning_rate=0.5),
)

_INVERTED_MNIST_OPTIMIZERS = MappingProxyType(
    {**_MNIST_OPTIMIZERS, "adam": Adam(learning_rate=3e-4), "adamw": AdamW(learning_rate=3e-4)}
)

_DIGITS_OPTIMIZERS = _started_from(
    adam=Adam(learning_rate=2e-2),
    adamw=AdamW(learning_rate=2e-2),
    lnb=LNB(learning_rate=0.25, ridge=0.1, clip_norm=1.0),
    lnb_cholesky=LNBCholesky(learning_rate=0.25, ridge=0.1, clip_norm=1.0),
    lnb_diagonal=LNBDiagonal(learning_rate=0.25, ridge=0.1, clip_norm=1.0),
    lnb_low_rank=LNBLowRank(learning_rate=0.25, ridge=0.1, clip_norm=1.0),
    lnb_auto=LNBAuto(learning_rate=0.25),
)

# The batch is all of the data, so nothing has to be averaged; the loss has minimum 0, which Polyak's step asks for.
_FULL_BATCH: dict[str, Any] = {
    "learning_rate": 1.0,
    "step": "polyak",
    "gradient_decay": 0.0,
    "weight_decay": 0.0,
    "min_norm": 1e-6,
    "ridge": 1e-3,
}

_FACTORIZATION_OPTIMIZERS = _started_from(
    adam=Adam(learning_rate=1.0),
    adamw=AdamW(learning_rate=1.0, weight_decay=0.0),
    lnb=LNB(steps=5, **_FULL_BATCH),
    lnb_cholesky=LNBCholesky(every=1, decay=0.0, **_FULL_BATCH),
    lnb_diagonal=LNBDiagonal(**_FULL_BATCH),
    lnb_low_rank=LNBLowRank(rank=60, decay=0.0, **_FULL_BATCH),
    lnb_auto=LNBAuto(**{**_FULL_BATCH, "ridge": 10.0}),
)

_FACTORIZATION = partial(
    Task,
    settings=MatrixFactorizationSettings(),
    target=Target("relative_loss", 1e-6, at_least=False),
    epochs=5000,
    evaluate_every=5,
    stop_at_target=True,
    optimizers=_FACTORIZATION_OPTIMIZERS,
)

_DIGITS = partial(
    Task,
    settings=ClassifierSettings(hidden=(100,), batch_size=100),
    target=Target("accuracy", 0.97, at_least=True),
    epochs=20,
    evaluate_every=5,
    stop_at_target=False,
    optimizers=_DIGITS_OPTIMIZERS,
)

_MNIST = partial(
    Task,
    settings=ClassifierSettings(hidden=(800,), batch_size=1000),
    epochs=5,
    evaluate_every=10,
    stop_at_target=False,
)

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _FACTORIZATION(
            name="matrix-factorization",
            summary="Two-layer linear network that fits y = A x, the rows of A scaled from 1 to 1e-5 (section 5.1)",
            build=partial(matrix_factorization, row_scaled),
        ),
        _FACTORIZATION(
            name="matrix-factorization-svd",
            summary="The same with an A whose singular values fall from 1 to 1e-5 of the largest",
            build=partial(matrix_factorization, singular_values_scaled),
        ),
        _DIGITS(
            name="digits",
            summary="Tanh network on scikit-learn's handwritten digits of 8 x 8 pixels",
            build=partial(classification, load_digits, False),
        ),
        _DIGITS(
            name="digits-inverted",
            summary="The same with its pixels inverted, 1 - x",
            build=partial(classification, load_digits, True),
        ),
        _MNIST(
            name="mnist",
            summary="784-800-10 tanh network on MNIST (section 5.2)",
            target=Target("accuracy", 0.97, at_least=True),
            build=partial(classification, load_mnist, False),
            optimizers=_MNIST_OPTIMIZERS,
        ),
        _MNIST(
            name="mnist-inverted",
            summary="The same with its pixels inverted, 1 - x",
            target=Target("accuracy", 0.95, at_least=True),
            build=partial(classification, load_mnist, True),
            optimizers=_INVERTED_MNIST_OPTIMIZERS,
        ),
    )
}
"""The tasks by name."""


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ExperimentError: there is none; the message lists those that there are.
    """
    if name not in TASKS:
        raise ExperimentError(f"`task` is unknown: {name!r}; known are {', '.join(TASKS)}.")
    return TASKS[name]
