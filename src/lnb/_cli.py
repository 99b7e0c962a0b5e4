"""The command `lnb`: compare optimizers on a task, inspect its neurons, list the tasks, plot records.

The only user of the terminal. Everything that can be set is a field of a frozen dataclass, which tyro reads.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import tyro
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn
    from rich.table import Table

    from lnb import experiments as ex
except ModuleNotFoundError as error:
    message = (
        f"lnb: the command needs the extra `experiments` ({error.name} is missing): pip install 'lnb[experiments]'"
    )
    raise SystemExit(message) from None

_USAGE = """usage: lnb COMMAND ...

  lnb compare TASK   train one network with several optimizers: table, records, plot
  lnb inspect TASK   print the neurons that are found in a task's network
  lnb tasks          list the tasks
  lnb plot RECORDS   draw and tabulate saved records

`lnb compare TASK --help` lists every hyper-parameter of task and optimizers."""

_DEFAULT_OPTIMIZERS = ("adam", "lnb", "lnb-cholesky")
_PLOT_NAME = "comparison.png"
_FILE_WIDTH = 140
_REPORTS = 4  # lines that a run prints on the way where there is no terminal for a progress bar


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` spells, by default the process's own arguments.

    Returns:
        0; 2 if the command cannot be carried out, which one line on the standard error explains; 130 if interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"compare": _compare, "inspect": _inspect, "tasks": _tasks, "plot": _plot}
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            return _print_usage()
        if arguments[0] not in commands:
            raise ex.ExperimentError(f"`command` is unknown: {arguments[0]!r}; known are {', '.join(commands)}.")
        if arguments[0] in ("compare", "inspect") and arguments[1:2] in (["-h"], ["--help"]):
            return _print_usage()
        commands[arguments[0]](arguments[1:])
    except ex.ExperimentError as error:
        Console(stderr=True).print(f"lnb: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("lnb: interrupted; the records so far are kept.", soft_wrap=True)
        return 130
    return 0


def _print_usage() -> int:
    _console().print(_USAGE, markup=False, highlight=False, soft_wrap=True)
    return 0


@dataclass(frozen=True)
class _Comparison:
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
    learning_rate: tuple[str, ...]
    """Short for --NAME.learning-rate: pairs such as adam=3e-3 lnb=0.5."""
    output: Path
    """Folder of records and plot, in a folder named like the task; what an earlier comparison left is replaced."""


def _compare(arguments: Sequence[str]) -> None:
    task = _task_of("compare", arguments)
    asked = _parse_comparison(task, arguments[1:])
    names = tuple(dict.fromkeys(map(ex.check_optimizer, asked.optimizers)))
    if not names:
        raise ex.ExperimentError("`optimizers` must name at least one.")
    settings = _chosen_settings(task, asked, names)
    problem = task.build(asked.task, asked.seed)
    runs = {
        name: ex.train(problem, chosen, epochs=asked.epochs, evaluate_every=asked.evaluate_every)
        for name, chosen in settings.items()
    }
    console, total = _console(), asked.epochs * problem.steps_per_epoch
    with contextlib.ExitStack() as stack:
        writers = {
            header.optimizer: stack.enter_context(
                ex.RecordWriter(asked.output / task.name / f"{header.optimizer}.jsonl", header)
            )
            for header in _headers(task, asked, settings)
        }
        console.print(f"{task.name}: {task.summary}. Seed {asked.seed}, up to {total:,} steps.", highlight=False)
        with _display(console, names, total) as display:
            _take_turns(runs, writers, task, display)
    _report(console, [writer.path for writer in writers.values()], asked.output / task.name / _PLOT_NAME)


def _headers(task: ex.Task, asked: Any, settings: Mapping[str, Any]) -> list[ex.RunHeader]:
    environment, comparison = ex.describe_environment(), str(uuid.uuid4())
    return [
        ex.RunHeader(
            task=task.name,
            optimizer=name,
            task_settings=dataclasses.asdict(asked.task),
            optimizer_settings=dataclasses.asdict(chosen),
            seed=asked.seed,
            epochs=asked.epochs,
            target=task.target,
            comparison=comparison,
            environment=environment,
        )
        for name, chosen in settings.items()
    ]


def _take_turns(
    runs: Mapping[str, Iterator[ex.Record]],
    writers: Mapping[str, ex.RecordWriter],
    task: ex.Task,
    display: _Display,
) -> None:
    """Advance the runs in turn, a record each: whatever else keeps the machine busy slows them all alike."""
    going = dict(runs)
    while going:
        for name, run in list(going.items()):
            record = next(run, None)
            if record is not None:
                writers[name].write(record)
                display.show(name, record)
            at_target = record is not None and task.stop_at_target and task.target.reached(record.metrics)
            if record is None or at_target or not record.finite:
                del going[name]
                display.finish(name)


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
    output: Path = Path(_PLOT_NAME)
    """The PNG."""


def _plot(arguments: Sequence[str]) -> None:
    asked = tyro.cli(
        _PlotArguments, prog="lnb plot", description="Draw and tabulate saved records.", args=list(arguments)
    )
    _report(_console(), asked.records, asked.output)


def _task_of(command: str, arguments: Sequence[str]) -> ex.Task:
    if arguments:
        return ex.find_task(arguments[0])
    raise ex.ExperimentError(f"`lnb {command}` needs a task first, one of {', '.join(ex.TASKS)}.")


def _parse_comparison(task: ex.Task, arguments: Sequence[str]) -> Any:
    """The `_Comparison`, with a field `task` and one for each optimizer, hyphens in its name as underscores."""
    name, scale = _scale_of(task, arguments)
    starting = task.starting_settings(name)
    nested = {"task": scale.settings, **{_field(name): settings for name, settings in starting.items()}}
    asked = dataclasses.make_dataclass(
        "Comparison",
        [(name, type(value), dataclasses.field(default=value)) for name, value in nested.items()],
        bases=(_Comparison,),
        frozen=True,
    )
    default = asked(
        optimizers=_DEFAULT_OPTIMIZERS,
        scale=name,
        epochs=scale.epochs,
        seed=0,
        evaluate_every=scale.evaluate_every,
        learning_rate=(),
        output=Path("lnb-results"),
    )
    return tyro.cli(
        asked,
        default=default,
        prog=f"lnb compare {task.name}",
        description=f"{task.summary}: train it from the same weights on the same batches with each optimizer.",
        args=list(arguments),
    )


def _scale_of(task: ex.Task, arguments: Sequence[str]) -> tuple[str, ex.Scale]:
    """The scale that the arguments name, and what it is: the other options' defaults depend on it.

    Raises:
        ExperimentError: the task has no such scale.
    """
    parser = argparse.ArgumentParser(prog="lnb", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    parser.add_argument("--scale", default="cpu")
    name = parser.parse_known_args(list(arguments))[0].scale
    return name, task.at(name)


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


def _chosen_settings(task: ex.Task, asked: Any, names: Sequence[str]) -> dict[str, Any]:
    """The settings of the optimizers to compare.

    Raises:
        ExperimentError: something was set that the comparison does not use, or a learning rate is no number.
    """
    for name, untouched in task.starting_settings(asked.scale).items():
        if name not in names and getattr(asked, _field(name)) != untouched:
            raise ex.ExperimentError(f"--{name} has options, but `optimizers` does not name it: {', '.join(names)}.")
    settings = {name: getattr(asked, _field(name)) for name in names}
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


def _field(name: str) -> str:
    return name.replace("-", "_")


class _Display:
    """Tells how runs go: by progress bars on a terminal, else by a few lines for each run."""

    def __init__(self, console: Console, names: Sequence[str], total: int) -> None:
        self._console = console
        self._total = total
        self._last: dict[str, ex.Record] = {}
        self._width = max(map(len, names))
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=9),
            TextColumn("{task.completed:,}/{task.total:,}"),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {
            name: self.progress.add_task(name.ljust(self._width), total=total, state="compiling") for name in names
        }

    def show(self, name: str, record: ex.Record) -> None:
        """Take a record in."""
        before = self._last.get(name)
        self._last[name] = record
        self.progress.update(self._bars[name], completed=record.step, state=_describe(record))
        quarter = record.step * _REPORTS // self._total
        if before is None or quarter > before.step * _REPORTS // self._total:
            self._print_line(name, record, "" if record.step else " (before training)")

    def finish(self, name: str) -> None:
        """The run has ended."""
        record = self._last[name]
        note = "" if record.finite else "diverged"
        if record.finite and record.step < self._total:
            note = "target reached"
        self.progress.update(self._bars[name], state=f"{_describe(record)} {note}")
        self.progress.stop_task(self._bars[name])
        if note:
            self._print_line(name, record, f" ({note})")

    def _print_line(self, name: str, record: ex.Record, note: str) -> None:
        if not self._console.is_terminal:
            self._console.print(
                f"{name.ljust(self._width)}  step {record.step:>6,}  {_describe(record)}{note}",
                highlight=False,
                soft_wrap=True,
            )


@contextlib.contextmanager
def _display(console: Console, names: Sequence[str], total: int) -> Iterator[_Display]:
    display = _Display(console, names, total)
    with display.progress:
        yield display


def _describe(record: ex.Record) -> str:
    parts = [f"loss {record.loss:<9.4g}"]
    if "accuracy" in record.metrics:
        parts.append(f"accuracy {record.metrics['accuracy']:6.2%}")
    if record.milliseconds is not None:
        parts.append(f"{record.milliseconds:.3g} ms/step")
    return "  ".join(parts)


def _report(console: Console, paths: Sequence[Path], plot: Path) -> None:
    """Print the closing table of the runs at `paths`, draw them, and name the files."""
    # Drawing needs matplotlib, whose import takes longer than the other commands do.
    from lnb._plots import plot_runs, run_labels

    runs = [ex.read_run(path) for path in paths]
    summaries = [ex.summarize(run) for run in runs]
    plot_runs(runs, plot)
    console.print()
    console.print(_closing_table(runs, summaries, run_labels(runs)))
    if not ex.timed_together(runs):
        console.print("Timings come from separate comparisons: their ratio holds only if the machine was alike.")
    for path in paths:
        console.print(f"records  {path}", highlight=False, soft_wrap=True)
    console.print(f"plot     {plot}", highlight=False, soft_wrap=True)


def _closing_table(runs: Sequence[ex.Run], summaries: Sequence[ex.Summary], labels: Sequence[str]) -> Table:
    metric = runs[0].header.target.metric
    judged = "test accuracy" if metric == "accuracy" else f"final {metric.replace('_', ' ')}"
    adam = next((s.milliseconds for s in summaries if s.optimizer == "adam" and s.milliseconds), None)
    table = Table(title=f"{runs[0].header.task}, target: {runs[0].header.target}", title_justify="left", pad_edge=False)
    table.add_column("optimizer", no_wrap=True)
    for title in ("final loss", judged, "steps to target", "seconds to target", "ms/step", "ratio to adam"):
        table.add_column(title, justify="right")
    for label, summary in zip(labels, summaries, strict=True):
        row = [label, f"{summary.loss:.4g}"]
        if summary.diverged_at is not None:
            row[1] = f"diverged by step {summary.diverged_at:,}"
        row.append(format(summary.target_metric, ".2%" if metric == "accuracy" else ".3g"))
        row.append(_cell(summary.steps_to_target, ",", f"not in {summary.steps:,}"))
        row += [_cell(summary.seconds_to_target, ".3g"), _cell(summary.milliseconds, ".3g")]
        row.append(_cell(summary.milliseconds and adam and summary.milliseconds / adam, ".2f"))
        table.add_row(*row)
    return table


def _cell(value: float | None, form: str, missing: str = "-") -> str:
    return missing if value is None else format(value, form)


def _console() -> Console:
    """Standard output; where it is no terminal, wide enough that no table is broken."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)
