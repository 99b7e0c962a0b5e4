"""All runs of a folder, and what of it is left out and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lnb.experiments._errors import ExperimentError
from lnb.experiments._records import Run, read_run
from lnb.experiments._summary import has_ended


@dataclass(frozen=True)
class Results:
    """The runs of a folder."""

    runs: tuple[Run, ...]
    """Those that have ended, each combination of settings and seed once."""
    timings: tuple[Run, ...]
    """Those and the repetitions, whose times count too."""
    left_out: tuple[str, ...]
    """A line for each file that is not among `runs`, with the reason."""


def read_results(folder: Path) -> Results:
    """Every `*.jsonl` below a folder.

    Raises:
        ExperimentError: the folder is none, holds no run that has ended, or a `*.jsonl` that is no run.
    """
    if not folder.is_dir():
        raise ExperimentError(f"`results` must be a folder that `lnb sweep` or `lnb compare` wrote to, got {folder}.")
    left_out = [f"{path.relative_to(folder)} was cut short, or is being written" for path in _paths(folder, ".part")]
    ended: list[tuple[str, Run]] = []
    for path in _paths(folder, ".jsonl"):
        run = read_run(path)
        if has_ended(run):
            ended.append((str(path.relative_to(folder)), run))
        else:
            left_out.append(f"{path.relative_to(folder)} was cut short: it has not come to its last step")
    if not ended:
        raise ExperimentError(f"`results` has no run that has ended: {folder}. Run `lnb sweep` or `lnb compare` first.")
    kept: dict[str, tuple[str, Run]] = {}
    for path, run in sorted(ended, key=lambda pair: -pair[1].records[-1].step):  # a run that stopped early goes last
        first, _ = kept.setdefault(_identity(run), (path, run))
        if first != path:
            left_out.append(f"{path} repeats {first}: only its times count")
    return Results(
        runs=tuple(run for _, run in sorted(kept.values(), key=lambda pair: pair[0])),
        timings=tuple(run for _, run in ended),
        left_out=tuple(sorted(left_out)),
    )


def _paths(folder: Path, ending: str) -> Iterator[Path]:
    return iter(sorted(path for path in folder.rglob(f"*{ending}") if path.is_file()))


def _identity(run: Run) -> str:
    header = run.header
    own = (header.task, header.optimizer, header.task_settings, header.optimizer_settings, header.seed)
    return json.dumps((*own, header.scale, header.epochs, header.schedule), sort_keys=True)
