"""The command `lnb check-default`: LNB as the library has it beside a tuned AdamW on a few tasks, a line each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from lnb_experiments.cli._compare import Comparison
from lnb_experiments.cli._options import DEFAULT_OUTPUT, options_of_tasks
from lnb_experiments.cli._show import standard_output
from lnb_experiments.optimizers._optimizers import LNB
from lnb_experiments.runs._records import read_run
from lnb_experiments.runs._sweep import end_value
from lnb_experiments.tasks._tasks import find_task

CHECKED = ("char-decoder", "regression", "burgers", "autoencoder")
"""Tasks of different kinds that run in five minutes together, on two cores."""


@dataclass(frozen=True)
class DefaultCheck:
    """Compare LNB as the library has it, untuned, with a tuned AdamW on four tasks, in about five minutes."""

    tasks: tuple[str, ...] = CHECKED
    """Tasks to compare them on, each at its small scale."""
    seed: int = 0
    """Seed of the initial weights and of the order of the examples."""
    output: Path = DEFAULT_OUTPUT / "check-default"
    """Folder of records and plots, in a folder for each task; what an earlier check left is replaced."""
    resume: bool = False
    """Go on where an equal check was cut short, and repeat no run that is complete."""

    def run(self) -> None:
        """Carry the command out.

        Raises:
            ExperimentError: a task is unknown, or a comparison cannot be carried out.
            Interrupted: after Ctrl-C.
        """
        comparisons = options_of_tasks(
            Comparison,
            optimizers=("adamw", "lnb"),
            seed=self.seed,
            output=self.output,
            checkpoint_every=None,
            resume=self.resume,
            profile=False,
        )
        tasks = [find_task(name) for name in self.tasks]
        lines = []
        for task in tasks:
            comparison = comparisons[task.name]
            # The task's own settings of LNB are tuned.
            dataclasses.replace(comparison, settings={**comparison.settings, "lnb": LNB()}).run()
            runs = (read_run(self.output / task.name / f"{name}.jsonl") for name in ("adamw", "lnb"))
            adamw, boosting = (end_value(run, task.selection) for run in runs)
            lines.append(
                f"{task.name:<18} {task.selection.replace('_', ' '):<16} adamw {adamw:<9.4g} lnb {boosting:<9.4g} "
                f"lnb / adamw {boosting / adamw:.3f}"
            )
        console = standard_output()
        console.print("\nAt the end of each run, lower is better; lnb with its defaults, adamw with a tuned rate:")
        for line in lines:
            console.print(line)
