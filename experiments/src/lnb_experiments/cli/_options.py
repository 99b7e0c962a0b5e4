"""The options of the commands that run a task, with the task's own defaults.

Each task at each scale is a subcommand, whose defaults are an instance of one of these dataclasses. tyro reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Fixed, Suppress, arg

from lnb_experiments._errors import ExperimentError
from lnb_experiments.optimizers._optimizers import OptimizerSettings, settings_of
from lnb_experiments.runs._commands import repeat_command
from lnb_experiments.runs._records import RunHeader
from lnb_experiments.runs._training import Problem, Schedule, Training, train
from lnb_experiments.tasks._task import Task
from lnb_experiments.tasks._tasks import TASKS, find_task


@dataclass(frozen=True)
class RunOptions:
    """The options that `lnb compare` and `lnb sweep` share."""

    name: Suppress[Fixed[str]]
    scale: Suppress[Fixed[str]]
    epochs: int
    """Passes over the training data."""
    evaluate_every: int
    """Steps from one record to the next."""
    schedule: Schedule
    """The factor of the learning rate: 1, or a number that falls linearly from 1 to 0 over the run's steps."""
    settings: Annotated[dict[str, Any], arg(name="")]
    """The settings of the task, under "task", and of every optimizer, under its name."""

    @property
    def task(self) -> Task:
        """The task that the options are for."""
        return find_task(self.name)

    def build(self, seed: int) -> Problem:
        """The task's problem with these options."""
        return self.task.build(self.settings["task"], seed)

    def train(self, problem: Problem, optimizer: OptimizerSettings) -> Training:
        """A run with these options."""
        return train(
            problem,
            optimizer,
            epochs=self.epochs,
            evaluate_every=self.evaluate_every,
            schedule=self.schedule,
        )

    def header(
        self, name: str, optimizer: OptimizerSettings, seed: int, comparison: str, environment: Mapping[str, Any]
    ) -> RunHeader:
        """The header of a run with these options."""
        header = RunHeader(
            task=self.name,
            optimizer=name,
            task_settings=dataclasses.asdict(self.settings["task"]),
            optimizer_settings=settings_of(optimizer),
            seed=seed,
            scale=self.scale,
            epochs=self.epochs,
            evaluate_every=self.evaluate_every,
            schedule=self.schedule,
            target=self.task.target,
            comparison=comparison,
            environment=environment,
            command="",
        )
        return dataclasses.replace(header, command=repeat_command(header))

    def check_unused(self, names: Sequence[str]) -> None:
        """Check that no option is set of an optimizer that is not among `names`.

        Raises:
            ExperimentError: one is.
        """
        for name, untouched in self.task.starting_settings(self.scale).items():
            if name not in names and self.settings[name] != untouched:
                raise ExperimentError(
                    f"--{name} has options, but the optimizers of this command are: {', '.join(names)}."
                )


def options_of_tasks(kind: type[Any], **defaults: Any) -> dict[str, Any]:
    """For each task at each of its scales the options of a command, by the name of the subcommand.

    Args:
        kind: a subclass of `RunOptions`.
        defaults: of the fields that the subclass has of its own.
    """
    return {
        task.name_at(scale): kind(
            name=task.name,
            scale=scale,
            epochs=size.epochs,
            evaluate_every=size.evaluate_every,
            schedule=task.schedule,
            settings={"task": size.settings, **task.starting_settings(scale)},
            **defaults,
        )
        for task in TASKS.values()
        for scale, size in task.scales.items()
    }


DEFAULT_OUTPUT = Path("lnb-results")
