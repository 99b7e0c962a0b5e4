"""The table that `print(neurons)` shows: what is covered, how it will be solved, and what is not covered and why."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from lnb._metric import metric_of
from lnb._neuron import Neuron
from lnb.solvers import Auto, Solver

_METRICS = {
    "embedding": "counts",
    "identity": "identity",
    "tied": "two Gram",
    **dict.fromkeys(("general", "reparametrised"), "from its equations"),
}


def table(
    neurons: Sequence[Neuron],
    sharing: Sequence[int],
    coverage: float,
    uncovered: Sequence[tuple[str, str]],
    ignored: Sequence[str],
) -> str:
    """Write a row for each neuron, and list the parameters that belong to none. The arguments are as in `Neurons`.

    `solver` is the choice of `lnb.Auto()`, and `cost` its floating-point operations for each one of the neuron's own
    forward and backward pass.
    """
    header = ("parameters", "kind", "in -> out", "groups", "samples", "metric", "solver", "cost")
    rows: list[tuple[str, ...]] = [header]
    choice, seen = Auto(), set()
    total = passes = 0.0
    for neuron in neurons:
        sizes = f"{neuron.inputs}{'+1' if neuron.has_bias else ''} -> {_outputs(neuron)}"
        sizes = "" if neuron.kind == "identity" else sizes
        metric = _METRICS.get(neuron.kind, "Gram")
        if neuron.features is not None and any(read.is_sampled for read in neuron.features.reads):
            metric += ", sampled iterations"
        solver, cost = "", ""
        if neuron.features is not None:
            chosen = choice.choose(neuron)
            operations = _operations(chosen, neuron, shared=sharing[neuron.index] in seen)
            solver, cost = _name(chosen), f"{operations / neuron.flops:.1%}"
            total, passes = total + operations, passes + neuron.flops
            seen.add(sharing[neuron.index])
        rows.append((neuron.name, neuron.kind, sizes, str(neuron.groups), str(neuron.samples), metric, solver, cost))
    widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.append(f"{len(neurons)} neurons cover {coverage:.1%} of the parameters.")
    if passes:
        lines.append(
            f"Solving them takes {total:.2g} operations a step, {total / passes:.1%} of the {passes:.2g} of their own."
        )
    if uncovered:
        lines.append("Not covered, trained with the identity metric:")
        lines += [f"  {path}: {reason}" for path, reason in uncovered]
    if ignored:
        lines.append("Ignored as asked, left to other optimizers:")
        lines += [f"  {path}" for path in ignored]
    return "\n".join(lines)


def _outputs(neuron: Neuron) -> str:
    """The number of outputs, or the sizes of their parts, such as `12 + 2 x 4`."""
    runs = [(size, len(list(run))) for size, run in groupby(neuron.parts or (neuron.outputs,))]
    return " + ".join(f"{count} x {size}" if count > 1 else str(size) for size, count in runs)


def _operations(solver: Solver, neuron: Neuron, shared: bool) -> float:
    """Of a step, without the statistics where an earlier neuron pays for them."""
    assert neuron.features is not None
    update, solve = solver.flops(metric_of(neuron.features), neuron.outputs)
    return solve + (0.0 if shared else update / solver.update_period)


def _name(solver: Any) -> str:
    rank = f"({solver.rank})" if hasattr(solver, "rank") else ""
    return f"{type(solver).__name__}{rank}"
