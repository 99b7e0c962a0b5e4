"""The command `lnb sweep`: a grid of learning rates with one seed, then the best of them with more seeds."""

from __future__ import annotations

import dataclasses
import functools
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lnb_experiments._errors import ExperimentError
from lnb_experiments.cli._options import RunOptions
from lnb_experiments.cli._show import standard_output
from lnb_experiments.optimizers._optimizers import check_optimizer
from lnb_experiments.runs._records import Run, describe_environment
from lnb_experiments.runs._stored import locked
from lnb_experiments.runs._sweep import choose_rate, end_value, finish_run, grid_of, sweep
from lnb_experiments.tasks._task import Task, check_seed


@dataclass(frozen=True)
class Sweep(RunOptions):
    """Tune the learning rate of an optimizer, then run it with several seeds."""

    optimizer: str
    """The optimizer to tune."""
    rates: tuple[float, ...]
    """Learning rates to try, by default the optimizer's grid."""
    extend: bool
    """Go on past an end of the grid that is best, by at most two rates."""
    seeds: tuple[int, ...]
    """The first picks the rate; the picked rate is run with the others too."""
    output: Path
    """Folder of the records; runs that are there whole are not run again."""

    def run(self) -> None:
        """Carry the command out.

        Raises:
            ExperimentError: it cannot be.
        """
        name, task, console = check_optimizer(self.optimizer), self.task, standard_output()
        self.check_unused([name])
        optimizer = self.settings[name]
        if optimizer.learning_rate != task.starting_settings(self.scale)[name].learning_rate:
            raise ExperimentError(f"--{name}.learning-rate is what a sweep varies: give `--rates`.")
        for seed in self.seeds:
            check_seed(seed)
        rates = self.rates or grid_of(task.name, name)
        folder = self.output / self.name / self.schedule / name
        environment = describe_environment()
        build = functools.lru_cache(maxsize=1)(self.build)  # a grid has one seed

        def run(rate: float, seed: int) -> Run:
            chosen = dataclasses.replace(optimizer, learning_rate=rate)
            header = self.header(name, chosen, seed, str(uuid.uuid4()), environment)
            path = folder / f"rate={rate:g},seed={seed}.jsonl"
            finished, was_there = finish_run(path, header, lambda: self.train(build(seed), chosen))
            console.print(f"rate {rate:<7g} seed {seed}  {_describe(finished, task)}{', there before' * was_there}")
            return finished

        runs = sweep(run, task.selection, rates=rates, seeds=self.seeds, extend=self.extend)
        with locked(folder):
            console.print(
                f"{task.name}: {name}, {self.schedule} schedule, {self.epochs} epochs, "
                f"rates {', '.join(f'{rate:g}' for rate in sorted(rates))} with seed {self.seeds[0]}."
            )
            _show(console, task, list(runs), self.seeds[0])


def _describe(run: Run, task: Task) -> str:
    last = run.records[-1]
    seconds = f"{last.step:,} steps in {last.seconds:.3g} s"
    if not math.isfinite(end_value(run, task.selection)):
        return f"diverged by step {last.step:,} ({seconds})"
    accuracy = f", accuracy {last.metrics['accuracy']:.2%}" if "accuracy" in last.metrics else ""
    return f"{_title(task)} {last.metrics[task.selection]:.5g}{accuracy} ({seconds})"


def _show(console: Console, task: Task, runs: Sequence[Run], seed: int) -> None:
    """The closing table of a sweep, and what to know about its pick."""
    choice = choose_rate({run.rate: end_value(run, task.selection) for run in runs if run.header.seed == seed})
    table = Table(pad_edge=False)
    for title in ("rate", "seed", f"final {_title(task)}", "final accuracy"):
        table.add_column(title, justify="right")
    table.add_column("")
    for run in sorted(runs, key=lambda run: run.rate):
        value, last = end_value(run, task.selection), run.records[-1]
        accuracy = last.metrics.get("accuracy")
        table.add_row(
            f"{run.rate:g}",
            str(run.header.seed),
            f"{value:.5g}" if math.isfinite(value) else f"diverged by step {last.step:,}",
            "-" if accuracy is None or not math.isfinite(value) else f"{accuracy:.2%}",
            "picked" if run.rate == choice.rate else "",
        )
    console.print()
    console.print(table)
    if choice.rate is None:
        console.print("No rate is picked: every run diverged. Try lower `--rates`, or `--extend`.")
    elif choice.edge is not None:
        console.print(f"The best is at the edge of the grid, its {choice.edge} rate: a better one may lie beyond it.")


def _title(task: Task) -> str:
    return task.selection.replace("_", " ")
