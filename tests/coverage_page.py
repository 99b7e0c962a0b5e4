"""Write docs/coverage.md: the table of every case, from what the library prints about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jax
from cases import TABLES, UNCOVERED, Case

import lnb

PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"

START = """\
<!-- Written by tests/coverage_page.py: change the cases in tests/cases and run `make pages`. -->

# What is covered

Each row is a neuron that `find_neurons` finds in a network of the tests. The tests compare its metric with a dense
Jacobian in 64-bit precision, compare the loss and its gradient with those of the original function, and run a training
step. `print(neurons)` shows the same columns for your own network, and the solver of each neuron.
[Networks of other libraries](public-models.md) has what is found in code that others wrote.

- **in → out** has the sizes of the linear function, with `+1` for a bias. `3 x 2` outputs are three parts that the
  program cuts apart, such as q, k and v. By default each part takes a step of its own.
- **groups** counts the groups that have parameters of their own.
- **samples** is the number of samples in one batch of the test.
- **metric** says how the metric is known. "Gram" is the Gram matrix E[x xᵀ] of the features. "two Gram" belongs to a
  tied weight, used as W and as Wᵀ, which has one Gram matrix for each use. "from its equations" means that there is no
  such matrix, and that products with the metric are computed. "sampled iterations" belongs to a weight
  inside a loop of unknown length: [How it works](how-it-works.md#loops-of-unknown-length) says which are taken.
"""

END = """\
## What is not covered

These parameters belong to no neuron. `find_neurons` lists them with the reason, and raises an error with `strict=True`.
They have the identity metric, so that their step follows the plain gradient.
[Troubleshooting](troubleshooting.md#a-layer-is-not-covered) says what to do.
"""

COLUMNS = ("written as", "parameters", "kind", "in → out", "groups", "samples", "metric")


def neurons_of(case: Case) -> lnb.Neurons:
    """What is found in a case."""
    with jax.numpy_dtype_promotion(case.promotion):
        params, args = case.inputs()
        return lnb.find_neurons(case.loss_fn, params, *args, has_aux=case.has_aux)


def printed(neurons: lnb.Neurons) -> Iterator[list[str]]:
    """The cells of the printed table, a row a neuron, but for how it is solved: the sizes are too small to matter."""
    _, rule, *lines = str(neurons).splitlines()
    spans = [match.span() for match in re.finditer("-+", rule)][: len(COLUMNS) - 1]
    for line in lines[: len(neurons)]:
        yield [line[start:end].strip() for start, end in spans]


def row(*cells: str) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def code(text: str) -> str:
    """Parameters' paths, each as code."""
    return " + ".join(f"`{path}`" for path in text.split(" + "))


def table_of(cases: list[Case]) -> Iterator[str]:
    """The neurons of some cases."""
    yield row(*COLUMNS)
    yield row(*["---"] * len(COLUMNS))
    for case in cases:
        name = case.name
        for parameters, kind, sizes, *rest in printed(neurons_of(case)):
            yield row(name, code(parameters), kind, sizes.replace("->", "→"), *rest)
            name = ""


def reasons_of(cases: list[Case]) -> Iterator[str]:
    """What is not covered in some cases, and why."""
    yield row("written as", "parameter", "reason")
    yield row(*["---"] * 3)
    for case in cases:
        name = case.name
        for path, reason in neurons_of(case).uncovered:
            yield row(name, code(path), reason)
            name = ""


def page() -> str:
    """The whole page."""
    lines = [START]
    for title, cases in TABLES.items():
        lines += [f"## {title}", "", *table_of(cases), ""]
    return "\n".join([*lines, END, *reasons_of(UNCOVERED), ""])


def main() -> None:
    """Write the page."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
