"""The command `lnb`: compare optimizers on a task, inspect its neurons, list the tasks, plot records.

Everything that can be set is a field of a frozen dataclass, which tyro reads.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import tyro
    from rich.console import Console
    from rich.table import Table

    from lnb import experiments as ex
    from lnb._closing import PLOT_NAME
    from lnb._closing import close as _close
    from lnb._compare_command import compare as _compare
    from lnb._compare_command import task_of as _task_of
    from lnb._comparison import scale_of as _scale_of
    from lnb._report_command import report as _report
    from lnb._sweep_command import sweep as _sweep
    from lnb._terminal import console as _console
except ModuleNotFoundError as error:
    message = (
        f"lnb: the command needs the extra `experiments` ({error.name} is missing): pip install 'lnb[experiments]'"
    )
    raise SystemExit(message) from None

_USAGE = """usage: lnb COMMAND ...

  lnb compare TASK   train one network with several optimizers: table, records, plot
  lnb sweep TASK     tune an optimizer's learning rate on a task, then run it with several seeds
  lnb report FOLDER  write a page about all records of a folder: tables, figures, verdicts
  lnb inspect TASK   print the neurons that are found in a task's network
  lnb tasks          list the tasks
  lnb plot RECORDS   draw and tabulate saved records

`lnb compare TASK --help` and `lnb sweep TASK --help` list every hyper-parameter of task and optimizers."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` spells, by default the process's own arguments.

    Returns:
        0; 2 if the command cannot be carried out, which one line on the standard error explains; 130 if interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "compare": _compare,
        "sweep": _sweep,
        "report": _report,
        "inspect": _inspect,
        "tasks": _tasks,
        "plot": _plot,
    }
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            return _print_usage()
        if arguments[0] not in commands:
            raise ex.ExperimentError(f"`command` is unknown: {arguments[0]!r}; known are {', '.join(commands)}.")
        if arguments[0] in ("compare", "sweep", "inspect") and arguments[1:2] in (["-h"], ["--help"]):
            return _print_usage()
        commands[arguments[0]](arguments[1:])
    except ex.ExperimentError as error:
        Console(stderr=True).print(f"lnb: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt as error:
        told = str(error) or "what is in the files is kept."
        Console(stderr=True).print(f"lnb: interrupted; {told}", markup=False, highlight=False, soft_wrap=True)
        return 130
    return 0


def _print_usage() -> int:
    _console().print(_USAGE, markup=False, highlight=False, soft_wrap=True)
    return 0


def _inspect(arguments: Sequence[str]) -> None:
    task = _task_of("inspect", arguments)
    problem = task.build(_parse_settings(task, arguments[1:]), 0)
    neurons, _ = ex.prepare(problem, ex.LNB())
    _console().print(str(neurons), markup=False, highlight=False, soft_wrap=True)


def _tasks(arguments: Sequence[str]) -> None:
    tyro.cli(_Nothing, prog="lnb tasks", description="List the tasks.", args=list(arguments))
    table = Table(box=None, show_header=False, pad_edge=False)
    for task in ex.TASKS.values():
        table.add_row(task.name, task.summary)
    _console().print(table)


@dataclass(frozen=True)
class _Nothing:
    """No arguments."""


@dataclass(frozen=True)
class _PlotArguments:
    """What `lnb plot` was asked for."""

    records: tyro.conf.Positional[tuple[Path, ...]]
    """Files that `lnb compare` wrote, all of one task."""
    output: Path = Path(PLOT_NAME)
    """The PNG."""


def _plot(arguments: Sequence[str]) -> None:
    asked = tyro.cli(
        _PlotArguments, prog="lnb plot", description="Draw and tabulate saved records.", args=list(arguments)
    )
    _close(_console(), asked.records, asked.output)


def _parse_settings(task: ex.Task, arguments: Sequence[str]) -> Any:
    name, scale = _scale_of(task, arguments)
    asked = dataclasses.make_dataclass("Inspection", [("scale", str), ("task", type(scale.settings))], frozen=True)
    return tyro.cli(
        asked,
        default=asked(name, scale.settings),
        prog=f"lnb inspect {task.name}",
        description="Print the neurons that are found in the network.",
        args=list(arguments),
    ).task
