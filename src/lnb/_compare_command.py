"""The command `lnb compare`: train one network with several optimizers that take turns."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lnb import experiments as ex
from lnb._closing import PLOT_NAME, close
from lnb._comparison import chosen_settings, headers_of, parse
from lnb._display import Display
from lnb._terminal import console as standard_output
from lnb._turns import Turns

_PROFILED = 10  # steps, in which every statistic that is renewed now and then has its turn


def compare(arguments: Sequence[str]) -> None:
    """Carry the command out.

    Raises:
        ExperimentError: it cannot be, or a run failed.
        KeyboardInterrupt: after Ctrl-C; the message says how to go on.
    """
    task = task_of("compare", arguments)
    asked = parse(task, arguments[1:])
    names = tuple(dict.fromkeys(map(ex.check_optimizer, asked.optimizers)))
    if not names:
        raise ex.ExperimentError("`optimizers` must name at least one.")
    settings = chosen_settings(task, asked, names)
    problem = task.build(asked.task, asked.seed)
    console, folder = standard_output(), asked.output / task.name
    headers = {header.optimizer: header for header in headers_of(task, asked, settings)}
    begun = _begun(folder, headers) if asked.resume else {}
    going = {
        name: _stored(problem, asked, chosen, folder / f"{name}.jsonl")
        for name, chosen in settings.items()
        if name not in begun or begun[name].cost is None
    }
    total = asked.epochs * problem.steps_per_epoch
    notes = [_leave(folder / f"{name}.jsonl", name) for name in names if name not in going]
    try:
        notes += [_open(run, headers[name], begun.get(name), asked.resume) for name, run in going.items()]
        console.print(f"{task.name}: {task.summary}. Seed {asked.seed}, up to {total:,} steps.", highlight=False)
        for note in filter(None, notes):
            console.print(note, highlight=False, soft_wrap=True)
        failures, has_ended = _train(console, task, going, total, _PROFILED if asked.profile else 0)
    finally:
        for run in going.values():
            run.close()
    if not has_ended:
        words = ["lnb", "compare", *arguments, *([] if asked.resume else ["--resume"])]
        raise KeyboardInterrupt(f"the runs that had begun are saved. To go on:\n{shlex.join(words)}")
    paths = [folder / f"{name}.jsonl" for name in names]
    paths = [path for path in paths if ex.read_run(path).records]
    if paths:
        close(console, paths, folder / PLOT_NAME)
    if failures:
        told = "; ".join(f"{name} failed: {reason}" for name, reason in failures.items())
        raise ex.ExperimentError(f"{told}. Its records up to there are kept, and so are the other runs.")


def task_of(command: str, arguments: Sequence[str]) -> ex.Task:
    """The task that the first of a command's arguments names.

    Raises:
        ExperimentError: there is none of that name.
    """
    if arguments:
        return ex.find_task(arguments[0])
    raise ex.ExperimentError(f"`lnb {command}` needs a task first, one of {', '.join(ex.TASKS)}.")


def _stored(problem: ex.Problem, asked: Any, chosen: ex.OptimizerSettings, path: Path) -> ex.StoredRun:
    training = ex.train(
        problem, chosen, epochs=asked.epochs, evaluate_every=asked.evaluate_every, schedule=asked.schedule
    )
    return ex.StoredRun(training, path, asked.checkpoint_every)


def _begun(folder: Path, headers: dict[str, ex.RunHeader]) -> dict[str, ex.Run]:
    """The runs of an equal comparison that were begun; those that were not are to be timed together with the rest."""
    found = {name: ex.read_begun(folder / f"{name}.jsonl") for name in headers}
    begun = {name: run for name, run in found.items() if run is not None}
    for name, run in begun.items():
        ex.check_same_settings(run.header, headers[name], "Give the same, or start again without `--resume`.")
    for comparison in [run.header.comparison for run in begun.values() if run.cost is None][:1]:
        for name, header in headers.items():
            headers[name] = dataclasses.replace(header, comparison=comparison)
    return begun


def _open(run: ex.StoredRun, header: ex.RunHeader, begun: ex.Run | None, is_resumed: bool) -> str:
    """Let the run start, or go on; what is to be said about that."""
    name = header.optimizer
    if begun is None or not run.resume(begun):
        run.start(header)
        return f"{name} has no checkpoint: it starts from the beginning." if is_resumed else ""
    before, now = begun.header.environment, header.environment
    others = ", ".join(key for key in now if key != "started" and before.get(key) != now[key])
    other = f" It was begun under another {others}, so its records may differ from then on." if others else ""
    return f"{name} goes on from step {run.training.progress.step:,}.{other}"


def _leave(path: Path, name: str) -> str:
    """Leave a run that is complete as it is; what is to be said about that."""
    ex.Checkpoints.beside(path).remove()  # it may have been killed between its last line and this
    return f"{name} is complete: it is not run again."


def _train(
    console: Console, task: ex.Task, going: dict[str, ex.StoredRun], total: int, profiled: int
) -> tuple[Mapping[str, str], bool]:
    """What went wrong, by the name of the run, and whether all have ended."""
    if not going:
        return {}, True
    with Display(console, list(going), total) as display:
        turns = Turns(task, going, display)
        turns.compile()
        for profile in turns.profile(profiled) if profiled else ():
            console.print(
                f"profile  {profile} ({profiled} further steps, in no record)", highlight=False, soft_wrap=True
            )
        return turns.failures, turns.take()
