"""Records of runs as JSON lines: first what was run and with what, then a line for each record.

Everything that is said about a run afterwards, in a table or a figure, is read from its file.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import jax

from lnb.experiments._errors import ExperimentError
from lnb.experiments._task import Target
from lnb.experiments._training import Record

_PACKAGES = ("jax", "jaxlib", "optax", "numpy", "lnb")


@dataclass(frozen=True)
class RunHeader:
    """What was run, and with what."""

    task: str
    """Name of the task."""
    optimizer: str
    """Name of the optimizer."""
    task_settings: Mapping[str, Any]
    """Hyper-parameters of the task."""
    optimizer_settings: Mapping[str, Any]
    """Hyper-parameters of the optimizer."""
    seed: int
    """Of the initial weights and of the order of the examples."""
    epochs: int
    """Passes over the training data that were asked for."""
    target: Target
    """What the run is timed to."""
    comparison: str
    """The same for runs that took turns on one machine, whose timings can be compared."""
    environment: Mapping[str, Any]
    """As `describe_environment` gives it."""


@dataclass(frozen=True)
class Run:
    """A run that was read back."""

    header: RunHeader
    records: tuple[Record, ...]


def describe_environment() -> dict[str, Any]:
    """Versions, git commit, device and number of CPUs: what a repetition of the run needs to know.

    >>> sorted(describe_environment())
    ['commit', 'cpus', 'device', 'machine', 'started', 'versions']
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            versions[package] = "not installed"
    return {
        "versions": versions,
        "commit": _git_commit(),
        "device": jax.devices()[0].device_kind,
        "cpus": os.cpu_count(),
        "machine": platform.platform(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


class RecordWriter:
    """Writes a run's file line by line, so that a run that is cut short leaves what it had.

    Raises:
        ExperimentError: the file cannot be written, which shows before the first step.
    """

    def __init__(self, path: Path, header: RunHeader) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = path.open("w", encoding="utf-8")
        except OSError as error:
            raise ExperimentError(f"`output` cannot be written: {path}: {error.strerror}.") from error
        self._write(dataclasses.asdict(header))

    def write(self, record: Record) -> None:
        """Append a record."""
        self._write({**dataclasses.asdict(record), "finite": record.finite})

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(_encode(line), allow_nan=False) + "\n")
        self._file.flush()


def read_run(path: Path) -> Run:
    """The run whose records are at `path`.

    Raises:
        ExperimentError: the file cannot be read, or is not one that `RecordWriter` wrote.
    """
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        header = json.loads(header)
        header["target"] = Target(**header["target"])
        return Run(RunHeader(**header), tuple(_decode(json.loads(line)) for line in lines))
    except OSError as error:
        raise ExperimentError(f"`records` cannot be read: {path}: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ExperimentError(f"`records` must be files that `lnb compare` wrote; {path} is not one.") from error


def _encode(value: Any) -> Any:
    """JSON has no numbers that are not finite: they are written as words, which `float` reads."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _encode(entry) for key, entry in value.items()}
    return value


def _decode(line: Mapping[str, Any]) -> Record:
    milliseconds = line["milliseconds"]
    return Record(
        step=line["step"],
        epoch=line["epoch"],
        seconds=line["seconds"],
        milliseconds=None if milliseconds is None else float(milliseconds),
        loss=float(line["loss"]),
        metrics={name: float(value) for name, value in line["metrics"].items()},
    )


def _git_commit() -> str | None:
    """The commit of the source tree, with "-dirty" if it was edited since; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
