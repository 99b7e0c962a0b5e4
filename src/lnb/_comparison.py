"""What `lnb compare` is asked for, read from its arguments."""

from __future__ import annotations

import argparse
import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from lnb import experiments as ex

_DEFAULT_OPTIMIZERS = ("adam", "lnb", "lnb-cholesky")


@dataclass(frozen=True)
class Comparison:
    """What `lnb compare` was asked for; the settings of task and optimizers are added for each task."""

    optimizers: tuple[str, ...]
    """Optimizers to compare."""
    scale: str
    """Size of the task: cpu, which two cores do in a minute, or paper; other defaults for what follows."""
    epochs: int
    """Passes over the training data."""
    seed: int
    """Of the initial weights and of the order of the examples."""
    evaluate_every: int
    """Steps from one record to the next."""
    schedule: ex.Schedule
    """What the learning rate is multiplied by: 1, or what falls linearly from 1 to 0 over the run's steps."""
    learning_rate: tuple[str, ...]
    """Short for --NAME.learning-rate: pairs such as adam=3e-3 lnb=0.5."""
    output: Path
    """Folder of records and plot, in a folder named like the task; what an earlier comparison left is replaced."""
    checkpoint_every: int | None
    """Steps from one checkpoint of each run to the next. Ctrl-C saves one in any case."""
    resume: bool
    """Go on where an equal comparison was cut short, from the newest checkpoint of each run."""
    profile: bool
    """Write JAX's profile of some further steps of each run, taken on copies, which no record and no time counts."""


def parse(task: ex.Task, arguments: Sequence[str]) -> Any:
    """The `Comparison`, with a field `task` and one for each optimizer, hyphens in its name as underscores."""
    name, scale = scale_of(task, arguments)
    starting = task.starting_settings(name)
    nested = {"task": scale.settings, **{field_of(name): settings for name, settings in starting.items()}}
    asked = dataclasses.make_dataclass(
        "Comparison",
        [(name, type(value), dataclasses.field(default=value)) for name, value in nested.items()],
        bases=(Comparison,),
        frozen=True,
    )
    default = asked(
        optimizers=_DEFAULT_OPTIMIZERS,
        scale=name,
        epochs=scale.epochs,
        seed=0,
        evaluate_every=scale.evaluate_every,
        schedule=task.schedule,
        learning_rate=(),
        output=Path("lnb-results"),
        checkpoint_every=None,
        resume=False,
        profile=False,
    )
    return tyro.cli(
        asked,
        default=default,
        prog=f"lnb compare {task.name}",
        description=f"{task.summary}: train it from the same weights on the same batches with each optimizer.",
        args=list(arguments),
    )


def chosen_settings(task: ex.Task, asked: Any, names: Sequence[str]) -> dict[str, Any]:
    """The settings of the optimizers to compare.

    Raises:
        ExperimentError: something was set that the comparison does not use, or a learning rate is no number.
    """
    for name, untouched in task.starting_settings(asked.scale).items():
        if name not in names and getattr(asked, field_of(name)) != untouched:
            raise ex.ExperimentError(f"--{name} has options, but `optimizers` does not name it: {', '.join(names)}.")
    settings = {name: getattr(asked, field_of(name)) for name in names}
    for pair in asked.learning_rate:
        name, _, rate = pair.partition("=")
        if name not in settings:
            raise ex.ExperimentError(
                f"`learning_rate` takes pairs NAME=RATE with names of `optimizers` ({', '.join(names)}), got {pair!r}."
            )
        try:
            settings[name] = dataclasses.replace(settings[name], learning_rate=float(rate))
        except ValueError as error:
            raise ex.ExperimentError(f"`learning_rate` takes pairs such as adam=3e-3, got {pair!r}.") from error
    return settings


def headers_of(task: ex.Task, asked: Any, settings: Mapping[str, Any]) -> list[ex.RunHeader]:
    """A header for each run of the comparison."""
    environment, comparison = ex.describe_environment(), str(uuid.uuid4())
    headers = [
        ex.RunHeader(
            task=task.name,
            optimizer=name,
            task_settings=dataclasses.asdict(asked.task),
            optimizer_settings=dataclasses.asdict(chosen),
            seed=asked.seed,
            scale=asked.scale,
            epochs=asked.epochs,
            evaluate_every=asked.evaluate_every,
            schedule=asked.schedule,
            target=task.target,
            comparison=comparison,
            environment=environment,
            command="",
        )
        for name, chosen in settings.items()
    ]
    return [dataclasses.replace(header, command=ex.repeat_command(header)) for header in headers]


def scale_of(task: ex.Task, arguments: Sequence[str]) -> tuple[str, ex.Scale]:
    """The scale that the arguments name, and what it is: the other options' defaults depend on it.

    Raises:
        ExperimentError: the task has no such scale.
    """
    parser = argparse.ArgumentParser(prog="lnb", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    parser.add_argument("--scale", default="cpu")
    name = parser.parse_known_args(list(arguments))[0].scale
    return name, task.at(name)


def field_of(name: str) -> str:
    """The field for an optimizer's settings.

    >>> field_of("lnb-auto")
    'lnb_auto'
    """
    return name.replace("-", "_")
