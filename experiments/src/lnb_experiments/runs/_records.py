"""Records of a run as JSON lines: its header, a line for each record, and a last line with its cost.

Every table and every figure about a run is computed from these records.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax

from lnb_experiments._errors import ExperimentError
from lnb_experiments.runs._training import Cost, Record
from lnb_experiments.tasks._task import Target
from lnb_experiments.tasks._tasks import find_task

_PACKAGES = ("jax", "jaxlib", "optax", "numpy", "lnb")


@dataclass(frozen=True)
class RunHeader:
    """The configuration of a run."""

    task: str
    """Name of the task."""
    optimizer: str
    """Name of the optimizer."""
    task_settings: Mapping[str, Any]
    """Hyper-parameters of the task."""
    optimizer_settings: Mapping[str, Any]
    """Hyper-parameters of the optimizer."""
    seed: int
    """Seed of the initial weights and of the order of the examples."""
    scale: str
    """Name of the task's scale."""
    epochs: int
    """Passes over the training data that were requested."""
    evaluate_every: int
    """Steps from one record to the next."""
    schedule: str
    """The name of the learning rate's schedule."""
    target: Target
    """The value that the run is timed to."""
    comparison: str
    """The same for runs that took turns on one machine, whose timings can be compared."""
    environment: Mapping[str, Any]
    """As `describe_environment` gives it."""
    command: str
    """The shell command that repeats this run, alone."""


@dataclass(frozen=True)
class Run:
    """A run that was read back."""

    header: RunHeader
    records: tuple[Record, ...]
    cost: Cost | None = None
    """None if the run did not come to its end."""

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.header.optimizer_settings["learning_rate"]


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

    Args:
        path: of the file.
        header: of a run that starts; what is there is replaced.
        step: in place of a header, the step that a run goes on from: what was written of later ones is cut off.

    Raises:
        ExperimentError: the file cannot be written, which shows before the first step.
    """

    def __init__(self, path: Path, header: RunHeader | None = None, step: int = -1) -> None:
        self.path = path
        self._records, self._step = 0, 0
        with self._as_experiment_error():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: a line that does not fit on the disk is known when it is written.
            self._file = path.open("r+b" if header is None else "wb", buffering=0)
        try:
            if header is None:
                self._cut(step)
            else:
                self._write(dataclasses.asdict(header))
        except ExperimentError:
            self._file.close()
            raise

    def write(self, record: Record) -> None:
        """Append a record."""
        self._write({**dataclasses.asdict(record), "finite": record.finite})
        self._records, self._step = self._records + 1, record.step

    def write_cost(self, cost: Cost) -> None:
        """Append what the run cost, which ends the file."""
        self._write({"cost": dataclasses.asdict(cost)})

    def sync(self) -> None:
        """Have the records on the disk, before a checkpoint is there that counts on them."""
        with self._as_experiment_error():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close the file."""
        self.close()

    def _cut(self, step: int) -> None:
        header, *lines = _whole_lines(self._file.read())
        kept = [line for line in lines if json.loads(line).get("step", math.inf) <= step]
        with self._as_experiment_error():
            self._file.truncate(len(header) + sum(map(len, kept)))
            self._file.seek(0, os.SEEK_END)
        self._records, self._step = len(kept), step

    def _write(self, line: Mapping[str, Any]) -> None:
        rest = (json.dumps(_encode(line), allow_nan=False) + "\n").encode()
        whole = self._file.tell()
        try:
            with self._as_experiment_error():
                while rest:
                    rest = rest[self._file.write(rest) :]
        except ExperimentError:
            with contextlib.suppress(OSError):  # a device has no end to cut off
                self._file.truncate(whole)
            raise

    @contextlib.contextmanager
    def _as_experiment_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = f" Kept are {self._records} records, to step {self._step}." if self._records else ""
            raise ExperimentError(f"`output` cannot be written: {self.path}: {error.strerror}.{kept}") from error


def read_run(path: Path) -> Run:
    """The run whose records are at `path`; a last line that was not written to its end is not part of it.

    Raises:
        ExperimentError: the file cannot be read, or is not one that `RecordWriter` wrote.
    """
    try:
        header, *lines = map(json.loads, _whole_lines(path.read_bytes()))
        header["target"] = Target(**header["target"])
        costs = [Cost(**line["cost"]) for line in lines if "cost" in line]
        records = tuple(_decode(line) for line in lines if "cost" not in line)
        return Run(RunHeader(**header), records, costs[-1] if costs else None)
    except OSError as error:
        raise ExperimentError(f"`records` cannot be read: {path}: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ExperimentError(f"`records` must be files that `lnb compare` wrote; {path} is not one.") from error


def read_previous(path: Path) -> Run | None:
    """The run that an earlier command began at `path`; None if there is none, or it ended before its header was whole.

    Raises:
        ExperimentError: as `read_run`.
    """
    if not path.exists() or (path.is_file() and not _whole_lines(path.read_bytes())):
        return None
    return read_run(path)


def check_same_settings(found: RunHeader, requested: RunHeader, advice: str) -> None:
    """Check that a run which is there already is the one that is requested.

    Raises:
        ExperimentError: it is not; the message names every setting that differs, and ends with the advice.
    """
    before, now = (dict(_settings(header)) for header in (found, requested))
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        pairs = "; ".join(f"`{name}` was {before.get(name)}, now it is {now.get(name)}" for name in differing)
        raise ExperimentError(f"`output` holds a run of {found.optimizer} with other settings: {pairs}. {advice}")


@dataclass(frozen=True)
class Summary:
    """A run in a few numbers."""

    optimizer: str
    """Name of the optimizer."""
    loss: float
    """Training loss at the end."""
    target_metric: float
    """The metric of the target, at the end."""
    diverged_at: int | None
    """The step by which the loss was no longer finite; None if it always was."""
    steps: int
    """Steps taken."""
    steps_to_target: int | None
    """Steps until the target was first seen to be reached; None if it was not."""
    seconds_to_target: float | None
    """Seconds of training until then, without compilation and evaluation."""
    milliseconds: float | None
    """Median time of a step; None before the first."""


def summarize(run: Run) -> Summary:
    """The run in a few numbers.

    Raises:
        ExperimentError: the run has no records.
    """
    if not run.records:
        raise ExperimentError(f"the run of {run.header.optimizer!r} has no records: it was cut short before its first.")
    last = run.records[-1]
    reached = _first_at_target(run)
    times = [record.milliseconds for record in run.records if record.milliseconds is not None]
    return Summary(
        optimizer=run.header.optimizer,
        loss=last.loss,
        target_metric=last.metrics[run.header.target.metric],
        diverged_at=None if last.finite else last.step,
        steps=last.step,
        steps_to_target=reached and reached.step,
        seconds_to_target=reached and reached.seconds,
        milliseconds=statistics.median(times) if times else None,
    )


def has_ended(run: Run) -> bool:
    """Whether the run came to its end: its last step, its divergence, or its target where its task stops there."""
    if not run.records:
        return False
    last = run.records[-1]
    if not last.finite or last.epoch >= run.header.epochs:
        return True
    return find_task(run.header.task).stop_at_target and run.header.target.reached(last.metrics)


def _first_at_target(run: Run) -> Record | None:
    target = run.header.target
    return next((record for record in run.records if record.finite and target.reached(record.metrics)), None)


def _settings(header: RunHeader) -> Iterator[tuple[str, Any]]:
    """The settings that determine the records, by the names of the command's options, as JSON has them."""
    line = json.loads(json.dumps(_encode(dataclasses.asdict(header))))
    for name in ("task", "optimizer", "scale", "schedule", "epochs", "evaluate_every", "seed", "target"):
        yield name, line[name]
    yield from _flat("task", line["task_settings"])
    yield from _flat(header.optimizer, line["optimizer_settings"])


def _flat(group: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{group}.{key}", value)
        else:
            yield f"{group}.{key}", value


def _whole_lines(text: bytes) -> list[bytes]:
    """The lines that were written to their end."""
    return [line for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


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
