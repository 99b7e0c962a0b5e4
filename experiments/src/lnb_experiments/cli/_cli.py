"""The command `lnb`: compare optimizers on a task, tune one, inspect a network's neurons, report about records.

A task at the scale of two CPU cores is called by its name, and at the paper's scale by its name and `-paper`.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from jax import Array
from rich.table import Table
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from lnb_experiments._errors import ExperimentError
from lnb_experiments.cli._check_default import DefaultCheck
from lnb_experiments.cli._compare import Comparison, Interrupted
from lnb_experiments.cli._options import DEFAULT_OUTPUT, RunOptions, options_of_tasks
from lnb_experiments.cli._show import PLOT_NAME, show_runs, standard_error, standard_output
from lnb_experiments.cli._sweep import Sweep
from lnb_experiments.optimizers._optimizers import LNB
from lnb_experiments.runs._archive import pack_results
from lnb_experiments.runs._training import prepare
from lnb_experiments.tasks._tasks import TASKS

_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[float] | None:
    """Read the settings of solvers that may be arrays in a program: on the command line they are numbers."""
    if info.type != float | Array:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=lambda words: float(words[0]),
        is_instance=lambda value: isinstance(value, (int, float)),
        str_from_instance=lambda value: [str(value)],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` spells, by default the process's own arguments.

    Returns:
        0; 2 if the command cannot be carried out, which one line on the standard error explains; 130 if interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        command = tyro.cli(
            _commands(),
            prog="lnb",
            description="Linear neuron boosting beside others.",
            args=arguments,
            registry=_REGISTRY,
        )
        getattr(command, "options", command).run()
    except ExperimentError as error:
        standard_error().print(f"lnb: {error}")
        return 2
    except Interrupted:
        words = ["lnb", *arguments, *([] if "--resume" in arguments else ["--resume"])]
        standard_error().print(f"lnb: interrupted; the runs that had begun are saved. To go on:\n{shlex.join(words)}")
        return 130
    except KeyboardInterrupt:
        standard_error().print("lnb: interrupted; what is in the files is kept.")
        return 130
    return 0


@dataclass(frozen=True)
class Inspection(RunOptions):
    """Print the neurons that are found in the network."""

    def run(self) -> None:
        """Carry the command out."""
        neurons, _ = prepare(self.build(0), LNB())
        standard_output().print(str(neurons), markup=False)


@dataclass(frozen=True)
class ListTasks:
    """List the tasks."""

    def run(self) -> None:
        """Carry the command out."""
        table = Table(box=None, show_header=False, pad_edge=False)
        for task in TASKS.values():
            table.add_row(task.name, task.summary)
        standard_output().print(table)


@dataclass(frozen=True)
class Plot:
    """Draw and tabulate saved records."""

    records: tyro.conf.Positional[tuple[Path, ...]]
    """Files that `lnb compare` wrote, all of one task."""
    output: Path = Path(PLOT_NAME)
    """The PNG."""

    def run(self) -> None:
        """Carry the command out."""
        show_runs(standard_output(), self.records, self.output)


@dataclass(frozen=True)
class Pack:
    """Pack all runs of a folder that have ended into one compressed file for each task."""

    results: tyro.conf.Positional[Path]
    """Folder that `lnb sweep` and `lnb compare` wrote to."""
    output: Path
    """Folder of the files TASK.parquet; what is there is replaced."""

    def run(self) -> None:
        """Carry the command out."""
        for path in pack_results(self.results, self.output):
            standard_output().print(str(path))


@dataclass(frozen=True)
class Report:
    """Write a page about all records of a folder."""

    results: tyro.conf.Positional[Path]
    """Folder of records, as `lnb sweep`, `lnb compare` and `lnb pack` write them."""
    output: Path | None = None
    """The page, by default report.html in that folder; its figures and summary.md are written beside it."""

    def run(self) -> None:
        """Carry the command out."""
        # Drawing needs matplotlib, whose import takes longer than the other commands do.
        from lnb_experiments.report._report import write_report

        for path in write_report(self.results, self.output or self.results / "report.html"):
            standard_output().print(str(path))


def _commands() -> Any:
    """A union of subcommands, as tyro reads it."""
    comparisons = options_of_tasks(
        Comparison,
        optimizers=("adam", "lnb", "lnb-paper"),
        seed=0,
        output=DEFAULT_OUTPUT,
        checkpoint_every=None,
        resume=False,
        profile=False,
    )
    sweeps = options_of_tasks(
        Sweep, optimizer=tyro.MISSING, rates=(), extend=False, seeds=(0, 1, 2), output=DEFAULT_OUTPUT
    )
    commands = {
        "compare": _of_tasks(comparisons, "Train one network with several optimizers: table, records, plot."),
        "sweep": _of_tasks(sweeps, "Tune an optimizer's learning rate, then run it with several seeds."),
        "check-default": DefaultCheck,
        "inspect": _of_tasks(options_of_tasks(Inspection), "Print the neurons that are found in a task's network."),
        "tasks": ListTasks,
        "plot": Plot,
        "pack": Pack,
        "report": Report,
    }
    return Union[tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands.items())]  # noqa: UP007


def _of_tasks(options: Mapping[str, Any], description: str) -> Any:
    """A command with a subcommand for each task at each scale."""
    summaries = {task.name_at(scale): task.summary for task in TASKS.values() for scale in task.scales}
    tasks = tyro.extras.subcommand_type_from_defaults(options, summaries)
    command = dataclasses.make_dataclass("Command", [("options", Annotated[tasks, tyro.conf.arg(name="")])])
    command.__doc__ = description
    return command
