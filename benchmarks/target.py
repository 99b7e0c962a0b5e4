"""Steps and seconds to a target, with optimizers that take turns: the second table of `make bench`.

Each optimizer trains at the learning rate that `lnb sweep` picked for it, as the records in `results/` have it. Records
go beside the page, to `target/`, a compressed file for each task.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

import lnb_experiments as ex
from lnb_experiments.cli import main as lnb_command

ROOT = Path(__file__).parent
BASELINE = "adamw"


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement."""

    tasks: tuple[str, ...] = ("mnist", "mnist-inverted", "vit-cifar10")
    """Names of tasks."""
    sweeps: Path = ROOT.parent / "results"
    """Folder of the sweeps that picked the rates."""
    output: Path = ROOT / "results"
    """Folder of the records, and of `target.md`, the page about all of them."""


def picked_rates(task: str, results: ex.Results) -> dict[str, float]:
    """The learning rate of each optimizer that a sweep of the task with a linear schedule picked."""
    swept, _ = ex.experiments_of(results.runs, results.timings)
    (experiment,) = (
        experiment
        for experiment in swept
        if (experiment.task, experiment.schedule, experiment.scale) == (task, "linear", "cpu")
        and experiment.epochs == ex.find_task(task).at("cpu").epochs
    )
    picked = {entry.optimizer: entry.choice.rate for entry in experiment.entries}
    # K-FAC needs an older JAX than the others.
    return {name: rate for name, rate in picked.items() if rate is not None and name != "kfac"}


def write_page(settings: Settings) -> None:
    """All that was measured so far."""
    lines = []
    for task in ex.TASKS:
        archive = settings.output / "target" / f"{task}.parquet"
        runs = [run for _, run in ex.read_archive(archive)] if archive.exists() else []
        summaries = {run.header.optimizer: (run, ex.summarize(run)) for run in runs}
        if BASELINE not in summaries:
            continue
        (first, baseline) = summaries[BASELINE]
        lines += [
            f"| `{task}`, {first.header.target} | rate | steps | seconds | of AdamW's | ms/step | ratio |",
            "|---|---|---|---|---|---|---|",
        ]
        for name in [name for name in ex.OPTIMIZERS if name in summaries]:
            run, summary = summaries[name]
            assert summary.milliseconds is not None
            assert baseline.milliseconds is not None
            cells = [name, f"{run.header.optimizer_settings['learning_rate']:g}"]
            if summary.seconds_to_target is None:
                cells += [f"not in {summary.steps:,}", f"not in {run.records[-1].seconds:.3g}", "-"]
            else:
                # The time that the baseline needs, or a lower bound of it.
                own = baseline.seconds_to_target or first.records[-1].seconds
                share = f"{summary.seconds_to_target / own:.2f}"
                cells += [f"{summary.steps_to_target:,}", f"{summary.seconds_to_target:.3g}"]
                cells.append(share if baseline.seconds_to_target else f"less than {share}")
            cells += [f"{summary.milliseconds:.3g}", f"{summary.milliseconds / baseline.milliseconds:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    (settings.output / "target.md").write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    """Measure, print, and keep."""
    settings = tyro.cli(Settings)
    results = ex.read_results(settings.sweeps)
    for task in settings.tasks:
        rates = picked_rates(task, results)
        words = ["--optimizers", *rates, "--schedule", "linear"]
        words += [word for name, rate in rates.items() for word in (f"--{name}.learning-rate", f"{rate:g}")]
        with tempfile.TemporaryDirectory() as folder:
            if lnb_command(["compare", task, *words, "--output", folder]) != 0:
                raise SystemExit(1)
            ex.pack_results(Path(folder), settings.output / "target")
        write_page(settings)


if __name__ == "__main__":
    main()
