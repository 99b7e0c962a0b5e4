"""The command `lnb sweep`: a grid of learning rates with one seed, then the best of them with more seeds."""

from __future__ import annotations

import dataclasses
import functools
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from lnb import experiments as ex
from lnb._comparison import field_of, scale_of
from lnb._terminal import console as standard_output


@dataclass(frozen=True)
class _Sweep:
    """What `lnb sweep` was asked for; the settings of task and optimizers are added for each task."""

    optimizer: str
    """The optimizer to tune."""
    scale: str
    """Which of the task's sizes."""
    schedule: ex.Schedule
    """What the learning rate is multiplied by: 1, or what falls linearly from 1 to 0 over the run's steps."""
    rates: tuple[float, ...]
    """Learning rates to try, by default the optimizer's grid."""
    extend: bool
    """Go on past an end of the grid that is best, by at most two rates."""
    seeds: tuple[int, ...]
    """The first picks the rate; the picked rate is run with the others too."""
    epochs: int
    """Passes over the training data."""
    evaluate_every: int
    """Steps from one record to the next."""
    output: Path
    """Folder of the records; runs that are there whole are not run again."""


def sweep(arguments: Sequence[str]) -> None:
    """Carry the command out.

    Raises:
        ExperimentError: it cannot be.
    """
    if not arguments:
        raise ex.ExperimentError(f"`lnb sweep` needs a task first, one of {', '.join(ex.TASKS)}.")
    task = ex.find_task(arguments[0])
    asked = _parse(task, arguments[1:])
    settings = _settings(task, asked)
    rates = asked.rates or ex.grid_of(task.name, asked.optimizer)
    out = standard_output()
    build = functools.lru_cache(maxsize=1)(functools.partial(task.build, asked.task))  # a grid has one seed
    run = functools.partial(_run, out, build, asked, _header(task, asked, settings))
    runs = ex.sweep(run, task.selection, rates=rates, seeds=asked.seeds, extend=asked.extend)
    out.print(
        f"{task.name}: {asked.optimizer}, {asked.schedule} schedule, {asked.epochs} epochs, "
        f"rates {', '.join(f'{rate:g}' for rate in sorted(rates))} with seed {asked.seeds[0]}.",
        highlight=False,
    )
    _report(out, task, list(runs), asked.seeds[0])


def _header(task: ex.Task, asked: Any, settings: Any) -> Callable[[float, int], tuple[Any, ex.RunHeader]]:
    """From a rate and a seed to the optimizer's settings and what is run."""
    environment = ex.describe_environment()

    def header(rate: float, seed: int) -> tuple[Any, ex.RunHeader]:
        chosen = dataclasses.replace(settings, learning_rate=rate)
        header = ex.RunHeader(
            task=task.name,
            optimizer=asked.optimizer,
            task_settings=dataclasses.asdict(asked.task),
            optimizer_settings=dataclasses.asdict(chosen),
            seed=seed,
            scale=asked.scale,
            epochs=asked.epochs,
            evaluate_every=asked.evaluate_every,
            schedule=asked.schedule,
            target=task.target,
            comparison=str(uuid.uuid4()),
            environment=environment,
            command="",
        )
        return chosen, dataclasses.replace(header, command=ex.repeat_command(header))

    return header


def _run(
    out: Console,
    build: Callable[[int], ex.Problem],
    asked: Any,
    header_of: Callable[[float, int], tuple[Any, ex.RunHeader]],
    rate: float,
    seed: int,
) -> ex.Run:
    """The finished run of a rate and a seed, told in a line."""
    settings, header = header_of(rate, seed)

    def start() -> ex.Training:
        return ex.train(
            build(seed), settings, epochs=asked.epochs, evaluate_every=asked.evaluate_every, schedule=asked.schedule
        )

    path = asked.output / header.task / header.schedule / header.optimizer / f"rate={rate:g},seed={seed}.jsonl"
    run, was_there = ex.finish_run(path, header, start)
    note = ", there before" if was_there else ""
    line = f"rate {rate:<7g} seed {seed}  {_describe(run)}{note}"
    out.print(line, highlight=False, soft_wrap=True)
    return run


def _describe(run: ex.Run) -> str:
    task, last = ex.find_task(run.header.task), run.records[-1]
    seconds = f"{last.step:,} steps in {last.seconds:.3g} s"
    if not math.isfinite(ex.end_value(run, task.selection)):
        return f"diverged by step {last.step:,} ({seconds})"
    parts = [f"{_title(task)} {last.metrics[task.selection]:.5g}"]
    if "accuracy" in last.metrics:
        parts.append(f"accuracy {last.metrics['accuracy']:.2%}")
    return f"{', '.join(parts)} ({seconds})"


def _report(out: Console, task: ex.Task, runs: Sequence[ex.Run], seed: int) -> None:
    """The closing table of a sweep, and what to know about its pick."""
    choice = ex.choose_rate({_rate(run): ex.end_value(run, task.selection) for run in runs if run.header.seed == seed})
    table = Table(pad_edge=False)
    table.add_column("rate", justify="right")
    for title in ("seed", f"final {_title(task)}", "final accuracy"):
        table.add_column(title, justify="right")
    table.add_column("")
    for run in sorted(runs, key=_rate):
        value, last = ex.end_value(run, task.selection), run.records[-1]
        accuracy = last.metrics.get("accuracy")
        table.add_row(
            f"{_rate(run):g}",
            str(run.header.seed),
            f"{value:.5g}" if math.isfinite(value) else f"diverged by step {last.step:,}",
            "-" if accuracy is None or not math.isfinite(value) else f"{accuracy:.2%}",
            "picked" if _rate(run) == choice.rate else "",
        )
    out.print()
    out.print(table)
    if choice.rate is None:
        out.print("No rate is picked: every run diverged. Try lower `--rates`, or `--extend`.")
    elif choice.edge is not None:
        out.print(f"The best is at the edge of the grid, its {choice.edge} rate: a better one may lie beyond it.")


def _rate(run: ex.Run) -> float:
    return run.header.optimizer_settings["learning_rate"]


def _title(task: ex.Task) -> str:
    return task.selection.replace("_", " ")


def _parse(task: ex.Task, arguments: Sequence[str]) -> Any:
    """The `_Sweep`, with a field `task` and one for each optimizer, hyphens in its name as underscores."""
    scale, size = scale_of(task, arguments)
    starting = task.starting_settings(scale)
    nested = {"task": size.settings, **{field_of(name): settings for name, settings in starting.items()}}
    asked = dataclasses.make_dataclass(
        "Sweep",
        [(name, type(value), dataclasses.field(default=value)) for name, value in nested.items()],
        bases=(_Sweep,),
        frozen=True,
    )
    default = asked(
        optimizer=tyro.MISSING,
        scale=scale,
        schedule=task.schedule,
        rates=(),
        extend=False,
        seeds=(0, 1, 2),
        epochs=size.epochs,
        evaluate_every=size.evaluate_every,
        output=Path("lnb-results"),
    )
    return tyro.cli(
        asked,
        default=default,
        prog=f"lnb sweep {task.name}",
        description=f"{task.summary}: tune the learning rate of an optimizer on it.",
        args=list(arguments),
    )


def _settings(task: ex.Task, asked: Any) -> Any:
    """The settings of the optimizer to tune.

    Raises:
        ExperimentError: it is unknown, or something was set that the sweep does not use.
    """
    chosen, starting = ex.check_optimizer(asked.optimizer), task.starting_settings(asked.scale)
    for name, untouched in starting.items():
        if name != chosen and getattr(asked, field_of(name)) != untouched:
            raise ex.ExperimentError(f"--{name} has options, but `optimizer` is {chosen}.")
    settings = getattr(asked, field_of(chosen))
    if settings.learning_rate != starting[chosen].learning_rate:
        raise ex.ExperimentError(f"--{chosen}.learning-rate is what a sweep varies: give `--rates`.")
    return settings
