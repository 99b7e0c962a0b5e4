"""The shell command that repeats a run, spelled from the run's header."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lnb_experiments.optimizers._optimizers import settings_of
from lnb_experiments.runs._records import RunHeader
from lnb_experiments.tasks._tasks import find_task


def repeat_command(header: RunHeader) -> str:
    """The command that repeats a run alone: the task, the optimizer, and whatever differs from their defaults.

    Where the records go and how often a checkpoint is saved change nothing about a run and are left out.

    Args:
        header: of the run; its `command` is not looked at.

    Returns:
        A line for a shell, quoted.
    """
    task = find_task(header.task)
    scale = task.at(header.scale)
    optimizer = task.starting_settings(header.scale)[header.optimizer]
    words = ["lnb", "compare", task.name_at(header.scale), "--optimizers", header.optimizer]
    words += _options("schedule", header.schedule, task.schedule)
    words += _options("epochs", header.epochs, scale.epochs)
    words += _options("evaluate-every", header.evaluate_every, scale.evaluate_every)
    words += _options("seed", header.seed, 0)
    words += _options("task", header.task_settings, dataclasses.asdict(scale.settings))
    words += _options(header.optimizer, header.optimizer_settings, settings_of(optimizer))
    return shlex.join(words)


def _options(name: str, value: Any, default: Any) -> Iterator[str]:
    """The words that set an option, or each one below it; none where the value is the default."""
    if isinstance(value, Mapping):
        known = default if isinstance(default, Mapping) else {}
        for key in [key for key in value if key != "kind"]:  # the optimizer's name tells the class of its solver
            # A setting that is no longer one shows in the command.
            yield from _options(f"{name}.{key.replace('_', '-')}", value[key], known.get(key))
    elif isinstance(value, bool):
        if value != default:
            group, _, last = name.rpartition(".")
            yield f"--{name}" if value else "--" + f"{group}.no-{last}".lstrip(".")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if not isinstance(default, Sequence) or list(value) != list(default):
            yield from (f"--{name}", *map(str, value))
    elif value != default:
        yield from (f"--{name}", str(value))
