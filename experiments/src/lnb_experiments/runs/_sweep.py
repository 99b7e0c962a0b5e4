"""A sweep: every learning rate of a grid with one seed, then the one that ends best with the other seeds.

A rate is judged by the task's `selection` at the end of the schedule, never at its best moment. Every optimizer has a
grid of the same size, so that none is tuned with more care than another.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lnb_experiments._errors import ExperimentError
from lnb_experiments.runs._records import RecordWriter, Run, RunHeader, check_same_settings, has_ended, read_run
from lnb_experiments.runs._training import Training

GRIDS: Mapping[str, tuple[float, ...]] = {
    "adam": (3e-4, 1e-3, 3e-3, 1e-2),
    "adamw": (3e-4, 1e-3, 3e-3, 1e-2),
    "sgd": (0.01, 0.03, 0.1, 0.3),
    "muon": (0.003, 0.01, 0.02, 0.05),
    "kfac": (0.1, 0.3, 1.0, 3.0),
    "gauss-newton": (0.1, 0.2, 0.5, 1.0),
    "lnb": (0.01, 0.02, 0.05, 0.1),
    "lnb-paper": (0.1, 0.2, 0.5, 1.0),
    "lnb-cholesky": (0.01, 0.02, 0.05, 0.1),
    "lnb-diagonal": (0.01, 0.02, 0.05, 0.1),
    "lnb-low-rank": (0.01, 0.02, 0.05, 0.1),
}
"""The learning rates that are tried for each optimizer."""

# The factorization has a full batch and a loss with minimum 0: Adam bears long steps, LNB takes multiples of Polyak's.
_POLYAK = (0.25, 0.5, 1.0, 2.0)
_FACTORIZATION_GRIDS: Mapping[str, tuple[float, ...]] = {
    "adam": (0.1, 0.3, 1.0, 3.0),
    "adamw": (0.1, 0.3, 1.0, 3.0),
    **{name: _POLYAK for name in GRIDS if name.startswith("lnb")},
}

# MNIST's batches are large, and inverted pixels bear short steps of Adam alone.
_MNIST_GRIDS: Mapping[str, tuple[float, ...]] = {
    "adam": (3e-3, 1e-2, 2e-2, 5e-2),
    "adamw": (3e-3, 1e-2, 2e-2, 5e-2),
    "muon": (0.01, 0.02, 0.05, 0.1),
    "lnb-paper": (0.2, 0.5, 1.0, 2.0),
}
_SHORT = (1e-4, 3e-4, 1e-3, 3e-3)
_INVERTED_MNIST_GRIDS: Mapping[str, tuple[float, ...]] = {
    **_MNIST_GRIDS,
    "adam": _SHORT,
    "adamw": _SHORT,
    "sgd": (1e-3, 3e-3, 0.01, 0.03),
}

TASK_GRIDS: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "matrix-factorization": _FACTORIZATION_GRIDS,
    "matrix-factorization-svd": _FACTORIZATION_GRIDS,
    "mnist": _MNIST_GRIDS,
    "mnist-deep": _MNIST_GRIDS,
    "mnist-inverted": _INVERTED_MNIST_GRIDS,
    "mnist-deep-inverted": _INVERTED_MNIST_GRIDS,
}
"""The grids of a task that replace those of `GRIDS`."""

_EXTENSIONS = 2  # rates that a grid may be extended by


@dataclass(frozen=True)
class Choice:
    """Which learning rate of a grid is picked."""

    rate: float | None
    """The one that ends best; None if no run stayed finite."""
    edge: Literal["lowest", "highest"] | None
    """Which end of the grid it is at; None inside, and for a grid of one. With no rate, all were too high: "lowest"."""


def grid_of(task: str, optimizer: str) -> tuple[float, ...]:
    """The learning rates to try for an optimizer on a task.

    Raises:
        ExperimentError: there is no grid for the optimizer.
    """
    grids = {**GRIDS, **TASK_GRIDS.get(task, {})}
    if optimizer not in grids:
        raise ExperimentError(f"`rates` must be given for {optimizer!r}: there is no grid for it.")
    return grids[optimizer]


def end_value(run: Run, metric: str) -> float:
    """The metric at the end of a run; infinite if the run diverged or the metric is no number.

    Raises:
        ExperimentError: the run does not have the metric.
    """
    last = run.records[-1]
    if metric not in last.metrics:
        raise ExperimentError(
            f"the run of {run.header.optimizer!r} on {run.header.task!r} has no metric {metric!r}, but "
            f"{', '.join(last.metrics) or 'none'}: it was recorded by another version; repeat it."
        )
    value = last.metrics[metric]
    return value if last.finite and math.isfinite(value) else math.inf


def choose_rate(ends: Mapping[float, float]) -> Choice:
    """The learning rate whose run ends best, and whether the best may lie outside of the grid.

    Args:
        ends: from learning rate to the value at the end, lower is better.

    >>> choose_rate({0.1: 0.5, 0.2: 0.4, 0.5: math.inf})
    Choice(rate=0.2, edge=None)
    """
    rates = sorted(ends)
    best = min(rates, key=lambda rate: ends[rate])  # the lower of two that are alike
    if not math.isfinite(ends[best]):
        return Choice(None, "lowest")
    if len(rates) == 1 or best not in (rates[0], rates[-1]):
        return Choice(best, None)
    return Choice(best, "lowest" if best == rates[0] else "highest")


def rate_beyond(rates: Sequence[float], edge: Literal["lowest", "highest"]) -> float:
    """The next rate past an edge of two rates or more, by the factor of every second one: 1, 3, 10 or 1, 2, 5, 10.

    >>> rate_beyond([3e-4, 1e-3, 3e-3, 1e-2], "highest"), rate_beyond([3e-4, 1e-3, 3e-3, 1e-2], "lowest")
    (0.03, 0.0001)
    """
    ordered = sorted(rates, reverse=edge == "lowest")
    *_, before, last = ordered
    beyond = last * last / before if len(ordered) == 2 else before * last / ordered[-3]
    return float(f"{beyond:.2g}")


def sweep(
    run: Callable[[float, int], Run],
    metric: str,
    *,
    rates: Sequence[float],
    seeds: Sequence[int],
    extend: bool = False,
) -> Iterator[Run]:
    """The runs of a sweep, in order: the grid with the first seed, then the picked rate with the others.

    Args:
        run: the finished run of a learning rate and a seed.
        metric: what picks the rate.
        rates: the grid.
        seeds: the first picks the rate.
        extend: go on past an edge that is best, by at most two rates.

    Raises:
        ExperimentError: `rates` or `seeds` are none, twice the same, or a rate is not positive.
    """
    for name, values in (("rates", rates), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise ExperimentError(f"`{name}` must be at least one, and none twice, got {list(values)}.")
    if not all(0 < rate < math.inf for rate in rates):
        raise ExperimentError(f"`rates` must be positive, got {list(rates)}.")
    if extend and len(rates) < 2:
        raise ExperimentError(f"`extend` needs at least two `rates` to know their factor, got {list(rates)}.")
    return _sweep(run, metric, rates, seeds, extend)


def _sweep(
    run: Callable[[float, int], Run], metric: str, rates: Sequence[float], seeds: Sequence[int], extend: bool
) -> Iterator[Run]:
    ends: dict[float, float] = {}
    waiting = sorted(rates)
    while waiting:
        for rate in waiting:
            finished = run(rate, seeds[0])
            ends[rate] = end_value(finished, metric)
            yield finished
        choice = choose_rate(ends)
        more = extend and choice.edge is not None and len(ends) < len(rates) + _EXTENSIONS
        waiting = [rate_beyond(list(ends), choice.edge)] if more and choice.edge else []
    chosen = choose_rate(ends).rate
    if chosen is not None:
        yield from (run(chosen, seed) for seed in seeds[1:])


def finish_run(path: Path, header: RunHeader, start: Callable[[], Training]) -> tuple[Run, bool]:
    """The run at `path`, which is trained unless it is there whole; and whether it was there.

    Records are written to another name until the run has ended, so that nothing half-written counts.

    Args:
        path: of the records.
        header: what is to be run.
        start: begins the run.

    Raises:
        ExperimentError: at `path` is no run, or one with other settings; or it cannot be written.
    """
    if path.exists():
        found = read_run(path)
        check_same_settings(found.header, header, f"Choose another `output`, or move {path} away.")
        if has_ended(found):
            return found, True
    unfinished = path.with_name(f"{path.name}.part")
    training = start()
    with RecordWriter(unfinished, header) as writer:
        for record in training:
            writer.write(record)
        writer.write_cost(training.cost())
    os.replace(unfinished, path)
    return read_run(path), False
