"""Many runs in one file: a table in Parquet's format, compressed, with a row for each record.

The columns `run` (where the run's own file lay), those of the header and those of the cost are the same in all rows of
a run; settings are JSON. `pandas.read_parquet` reads such a file without this package.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lnb_experiments._errors import ExperimentError
from lnb_experiments.runs._records import Run, RunHeader, has_ended, read_run
from lnb_experiments.runs._training import Cost, Record
from lnb_experiments.tasks._task import Target

_HEADER = [field.name for field in dataclasses.fields(RunHeader)]
_NESTED = ("task_settings", "optimizer_settings", "target", "environment")
_COST = [field.name for field in dataclasses.fields(Cost)]
_RECORD = ["step", "epoch", "seconds", "milliseconds", "loss"]


@dataclass(frozen=True)
class Results:
    """The runs of a folder."""

    runs: tuple[Run, ...]
    """Those that have ended; each combination of settings and seed once."""
    timings: tuple[Run, ...]
    """Those and their repetitions, whose times count too."""
    left_out: tuple[str, ...]
    """A line for each run that is not among `runs`, with the reason."""


def read_results(folder: Path) -> Results:
    """Read all runs of a folder: every `*.jsonl` and every `*.parquet` in it and below.

    Raises:
        ExperimentError: there is no such folder, it has no run that has ended, or a file of it is not one of runs.
    """
    found = _read_folder(folder)
    unfinished = sorted(path.relative_to(folder) for path in folder.rglob("*.part"))
    left_out = [f"{path} was cut short, or is being written" for path in unfinished]
    left_out += [f"{name} was cut short: it has not come to its last step" for name, r in found if not has_ended(r)]
    ended = [(name, run) for name, run in found if has_ended(run)]
    if not ended:
        raise ExperimentError(f"`results` has no run that has ended: {folder}. Run `lnb sweep` or `lnb compare` first.")
    kept: dict[str, tuple[str, Run]] = {}
    for name, run in sorted(ended, key=lambda pair: -pair[1].records[-1].step):  # a run that stopped early goes last
        first, _ = kept.setdefault(_identity(run), (name, run))
        if first != name:
            left_out.append(f"{name} repeats {first}: only its times count")
    return Results(
        runs=tuple(run for _, run in sorted(kept.values(), key=lambda pair: pair[0])),
        timings=tuple(run for _, run in ended),
        left_out=tuple(sorted(left_out)),
    )


def pack_results(folder: Path, output: Path) -> list[Path]:
    """Write all runs of a folder that have ended to one Parquet file for each task.

    Args:
        folder: of records.
        output: the folder of the files `TASK.parquet`; what is there is replaced.

    Raises:
        ExperimentError: as `read_results`, or the files cannot be written.
    """
    runs = [(name, run) for name, run in _read_folder(folder) if has_ended(run)]
    tasks = sorted({run.header.task for _, run in runs})
    paths = [output / f"{task}.parquet" for task in tasks]
    try:
        output.mkdir(parents=True, exist_ok=True)
        for task, path in zip(tasks, paths, strict=True):
            table = pd.concat([_to_table(name, run) for name, run in runs if run.header.task == task])
            table.to_parquet(path, compression="zstd", index=False)
    except OSError as error:
        raise ExperimentError(f"`output` cannot be written: {error.filename}: {error.strerror}.") from error
    return paths


def _read_folder(folder: Path) -> list[tuple[str, Run]]:
    """Each run with its name, the path below the folder where its file lies or lay."""
    if not folder.is_dir():
        raise ExperimentError(f"`results` must be a folder with records of runs, got {folder}.")
    found = [(str(path.relative_to(folder)), read_run(path)) for path in folder.rglob("*.jsonl")]
    for path in folder.rglob("*.parquet"):
        found += read_archive(path)
    return sorted(found, key=lambda pair: pair[0])


def read_archive(path: Path) -> list[tuple[str, Run]]:
    """The runs of a Parquet file, each with its name.

    Raises:
        ExperimentError: the file cannot be read, or is not one that `pack_results` wrote.
    """
    try:
        table = pd.read_parquet(path)
        return [(str(name), _from_table(rows)) for name, rows in table.groupby("run", sort=False)]
    except (OSError, ValueError, TypeError, KeyError) as error:  # PyArrow's own errors are ValueErrors
        raise ExperimentError(f"`results` has a file that is not one of runs: {path}.") from error


def _to_table(name: str, run: Run) -> pd.DataFrame:
    header: dict[str, Any] = {
        key: json.dumps(value) if key in _NESTED else value for key, value in dataclasses.asdict(run.header).items()
    }
    table = pd.DataFrame([{**dataclasses.asdict(r), **r.metrics} for r in run.records]).drop(columns="metrics")
    constants = {"run": name, **header, **(dataclasses.asdict(run.cost) if run.cost else dict.fromkeys(_COST))}
    table = pd.DataFrame(constants, index=table.index).join(table)
    return table.astype({"step_bytes": "Int64", "resident_bytes": "Int64", "milliseconds": float})


def _from_table(rows: pd.DataFrame) -> Run:
    columns: dict[str, list[Any]] = rows.to_dict("list")  # of Python's own numbers
    first: dict[str, Any] = {name: None if _is_missing(values[0]) else values[0] for name, values in columns.items()}
    header: dict[str, Any] = {key: json.loads(first[key]) if key in _NESTED else first[key] for key in _HEADER}
    header["target"] = Target(**header["target"])
    metrics = [name for name in columns if name not in ("run", *_HEADER, *_COST, *_RECORD)]
    records = []
    for values in zip(*columns.values(), strict=True):
        row = dict(zip(columns, values, strict=True))
        if _is_missing(row["milliseconds"]):  # before the first step
            row["milliseconds"] = None
        records.append(Record(**{key: row[key] for key in _RECORD}, metrics={key: row[key] for key in metrics}))
    cost: dict[str, Any] = {key: first[key] for key in _COST}
    return Run(RunHeader(**header), tuple(records), None if cost["compile_seconds"] is None else Cost(**cost))


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def _identity(run: Run) -> str:
    header = run.header
    own = (header.task, header.optimizer, header.task_settings, header.optimizer_settings, header.seed)
    return json.dumps((*own, header.scale, header.epochs, header.schedule), sort_keys=True)
