"""LNB alone beside LNB for the layers with AdamW for tables and head, on two tasks: `python benchmarks/head.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import optax
import tyro

import lnb
import lnb_experiments as ex

PARTS: Mapping[str, tuple[str, ...]] = {
    "char-transformer": (".embedding", ".positions"),  # the embedding is the head too
    "vit-cifar10": (".head",),
}
"""The beginnings of the paths of each task's tables and head."""


@dataclass(frozen=True)
class Partitioned:
    """`lnb.lnb` for the layers, and AdamW for the parameters whose paths begin so."""

    parts: tuple[str, ...]
    learning_rate: float
    head_rate: float
    reads: ClassVar[str] = "features"

    def build(self, neurons: lnb.Neurons) -> optax.GradientTransformationExtraArgs:
        """The transformation."""

        def labels(params: object) -> object:
            return jax.tree_util.tree_map_with_path(
                lambda path, _: "head" if jax.tree_util.keystr(path).startswith(self.parts) else "layers", params
            )

        layers = lnb.lnb(neurons, self.learning_rate)
        return optax.partition({"layers": layers, "head": optax.adamw(self.head_rate)}, labels)


@dataclass(frozen=True)
class Arguments:
    """The runs to train."""

    task: Annotated[Literal["char-transformer", "vit-cifar10"], tyro.conf.Positional]
    learning_rate: float = 0.05
    """Learning rate of LNB."""
    head_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Learning rates of AdamW, each a run."""
    seed: int = 0
    """Seed of the initial weights and the order of the data."""


def main(arguments: Arguments) -> None:
    """Print the last validation loss of each run, learning rates falling linearly to 0."""
    task = ex.TASKS[arguments.task]
    scale = task.at("cpu")
    alone = ex.LNB(learning_rate=arguments.learning_rate)
    runs = {"LNB alone": alone} | {
        f"AdamW at {rate:g} for {', '.join(PARTS[task.name])}": Partitioned(
            PARTS[task.name], arguments.learning_rate, rate
        )
        for rate in arguments.head_rates
    }
    for name, settings in runs.items():
        problem = task.build(scale.settings, arguments.seed)
        *_, record = ex.train(
            problem, settings, epochs=scale.epochs, evaluate_every=scale.evaluate_every, schedule="linear"
        )
        print(f"{task.name}  {name}: {record.metrics['validation_loss']:.4f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
