"""What a run comes to, computed from its records."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lnb.experiments._errors import ExperimentError
from lnb.experiments._records import Run
from lnb.experiments._tasks import find_task
from lnb.experiments._training import Record


@dataclass(frozen=True)
class Summary:
    """A run in a few numbers."""

    optimizer: str
    """Name of the optimizer."""
    loss: float
    """Training loss at the end."""
    target_metric: float
    """What the target is about, at the end."""
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


def timed_together(runs: Sequence[Run]) -> bool:
    """Whether the runs took turns on one machine, so that their times can be compared."""
    return len({run.header.comparison for run in runs}) <= 1


def _first_at_target(run: Run) -> Record | None:
    target = run.header.target
    return next((record for record in run.records if record.finite and target.reached(record.metrics)), None)
