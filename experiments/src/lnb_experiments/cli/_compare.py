"""The command `lnb compare`: train one network with several optimizers whose runs are interleaved."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lnb_experiments._errors import ExperimentError
from lnb_experiments.cli._interleaved import InterleavedRuns
from lnb_experiments.cli._options import RunOptions
from lnb_experiments.cli._show import PLOT_NAME, Display, show_runs, standard_output
from lnb_experiments.optimizers._optimizers import check_optimizer
from lnb_experiments.runs._records import (
    Run,
    RunHeader,
    check_same_settings,
    describe_environment,
    read_previous,
    read_run,
)
from lnb_experiments.runs._stored import StoredRun, locked, remove_checkpoint

_PROFILED = 10  # steps, in which every statistic that is renewed now and then has its turn


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after which checkpoints of all runs were saved."""


@dataclass(frozen=True)
class Comparison(RunOptions):
    """Train the same network from the same weights on the same batches with each optimizer."""

    optimizers: tuple[str, ...]
    """Optimizers to compare."""
    seed: int
    """Seed of the initial weights and of the order of the examples."""
    output: Path
    """Folder of records and plot, in a folder named like the task; what an earlier comparison left is replaced."""
    checkpoint_every: int | None
    """Steps from one checkpoint of each run to the next. Ctrl-C saves one in any case."""
    resume: bool
    """Go on where an equal comparison was cut short, from the newest checkpoint of each run."""
    profile: bool
    """Write JAX's profile of some further steps of each run, taken on copies, which no record and no time counts."""

    def run(self) -> None:
        """Carry the command out.

        Raises:
            ExperimentError: it cannot be, or a run failed.
            Interrupted: after Ctrl-C.
        """
        names = tuple(dict.fromkeys(map(check_optimizer, self.optimizers)))
        if not names:
            raise ExperimentError("`optimizers` must name at least one.")
        self.check_unused(names)
        folder = self.output / self.name
        problem, environment, comparison = self.build(self.seed), describe_environment(), str(uuid.uuid4())
        trainings = {name: self.train(problem, self.settings[name]) for name in names}
        stored = {
            name: StoredRun(training, folder / f"{name}.jsonl", self.checkpoint_every)
            for name, training in trainings.items()
        }
        headers = {name: self.header(name, self.settings[name], self.seed, comparison, environment) for name in names}
        with locked(folder):
            previous = _previous(folder, headers) if self.resume else {}
            failures = self._train(stored, headers, previous, self.epochs * problem.steps_per_epoch)
            paths = [folder / f"{name}.jsonl" for name in names]
            paths = [path for path in paths if read_run(path).records]
            if paths:
                show_runs(standard_output(), paths, folder / PLOT_NAME)
        if failures:
            reasons = "; ".join(f"{name} failed: {reason}" for name, reason in failures.items())
            raise ExperimentError(f"{reasons}. Its records up to there are kept, and so are the other runs.")

    def _train(
        self, stored: dict[str, StoredRun], headers: dict[str, RunHeader], previous: Mapping[str, Run], total: int
    ) -> Mapping[str, str]:
        """Train all runs that are not complete yet; the reason of each failure, by the name of the run."""
        console, notes = standard_output(), []
        with contextlib.ExitStack() as stack:
            for name, run in list(stored.items()):
                stack.callback(run.close)
                if name in previous and previous[name].cost is not None:
                    remove_checkpoint(run.path)  # its process may have ended between its last line and this
                    notes.append(f"{name} is complete: it is not run again.")
                    del stored[name]
                else:
                    notes.append(_open(run, headers[name], previous.get(name), self.resume))
            console.print(f"{self.name}: {self.task.summary}. Seed {self.seed}, up to {total:,} steps.")
            for note in filter(None, notes):
                console.print(note)
            if not stored:
                return {}
            with Display(console, list(stored), total) as display:
                runs = InterleavedRuns(self.task, stored, display)
                runs.compile()
                for profile in runs.profile(_PROFILED) if self.profile else ():
                    console.print(f"profile  {profile} ({_PROFILED} further steps, in no record)")
                if not runs.train():
                    raise Interrupted
            return runs.failures


def _previous(folder: Path, headers: dict[str, RunHeader]) -> dict[str, Run]:
    """The runs of an equal comparison that were begun; those that were not are to be timed together with the rest."""
    found = {name: read_previous(folder / f"{name}.jsonl") for name in headers}
    previous = {name: run for name, run in found.items() if run is not None}
    for name, run in previous.items():
        check_same_settings(run.header, headers[name], "Give the same, or start again without `--resume`.")
    for comparison in [run.header.comparison for run in previous.values() if run.cost is None][:1]:
        for name, header in headers.items():
            headers[name] = dataclasses.replace(header, comparison=comparison)
    return previous


def _open(run: StoredRun, header: RunHeader, previous: Run | None, is_resumed: bool) -> str:
    """Let the run start, or go on; a note about that."""
    name = header.optimizer
    if previous is None or not run.resume(previous):
        run.start(header)
        return f"{name} has no checkpoint: it starts from the beginning." if is_resumed else ""
    before, now = previous.header.environment, header.environment
    others = ", ".join(key for key in now if key != "started" and before.get(key) != now[key])
    other = f" It was begun under another {others}, so its records may differ from then on." if others else ""
    return f"{name} goes on from step {run.training.progress.step:,}.{other}"
