"""The command `lnb report`: a page about all records of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from lnb._terminal import console


@dataclass(frozen=True)
class _ReportArguments:
    """What `lnb report` was asked for."""

    results: tyro.conf.Positional[Path]
    """Folder that `lnb sweep` and `lnb compare` wrote to."""
    output: Path | None = None
    """The page, by default report.html in that folder; its figures and summary.md are written beside it."""


def report(arguments: Sequence[str]) -> None:
    """Carry the command out.

    Raises:
        ExperimentError: it cannot be.
    """
    asked = tyro.cli(
        _ReportArguments,
        prog="lnb report",
        description="Write a page about all records of a folder.",
        args=list(arguments),
    )
    # Drawing needs matplotlib, whose import takes longer than the other commands do.
    from lnb._report import write_report

    for path in write_report(asked.results, asked.output or asked.results / "report.html"):
        console().print(str(path), highlight=False, soft_wrap=True)
