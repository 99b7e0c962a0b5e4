"""The table that `print(neurons)` shows: what is covered, and what is not and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lnb._neurons import Neurons

_METRICS = {
    "embedding": "counts",
    "identity": "identity",
    "general": "from its equations",
    "tied": "two Gram",
}


def table(neurons: Neurons) -> str:
    """The neurons, a row each, and the parameters that belong to none."""
    header = ("parameters", "kind", "in -> out", "groups", "samples", "metric")
    rows: list[tuple[str, ...]] = [header]
    for neuron in neurons:
        sizes = f"{neuron.inputs}{'+1' if neuron.has_bias else ''} -> {neuron.outputs}"
        sizes = "" if neuron.kind == "identity" else sizes
        metric = _METRICS.get(neuron.kind, "Gram")
        rows.append((neuron.name, neuron.kind, sizes, str(neuron.groups), str(neuron.samples), metric))
    widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.append(f"{len(neurons)} neurons cover {neurons.coverage:.1%} of the parameters.")
    if neurons.uncovered:
        lines.append("Not covered, trained with the identity metric:")
        lines += [f"  {path}: {reason}" for path, reason in neurons.uncovered]
    if neurons.ignored:
        lines.append("Ignored as asked, trained with the identity metric:")
        lines += [f"  {path}" for path in neurons.ignored]
    return "\n".join(lines)
