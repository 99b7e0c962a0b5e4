"""The report: one page about all runs of a folder, and the same as Markdown. Nothing on it but what records say."""

from __future__ import annotations

import base64
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from lnb import experiments as ex
from lnb._report_figures import draw_experiment, png
from lnb._report_tables import Table, cost_table, glance_table, grid_table, results_table, times_table

_TEMPLATES = {"html": "_report_page.html", "markdown": "_report_page.md"}
_TIMES = ("epochs", "seconds")


@dataclass(frozen=True)
class Image:
    """A figure as a PNG."""

    name: str
    """Of its file."""
    text: str
    """What it shows, for whoever cannot see it."""
    content: bytes

    @property
    def url(self) -> str:
        """The image itself, for a page that has nothing beside it."""
        return f"data:image/png;base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Section:
    """An experiment on the page."""

    anchor: str
    title: str
    summary: str
    """One line about the task."""
    settings: str
    """Of the task."""
    images: tuple[Image, ...]
    tables: tuple[Table, ...]
    grid: Table
    configurations: tuple[tuple[str, str], ...]
    """Each optimizer's settings."""
    environments: tuple[str, ...]
    """Versions and devices, as many as there were."""
    commands: tuple[tuple[str, tuple[str, ...]], ...]
    """What repeats each run at the picked rate."""


@dataclass(frozen=True)
class Report:
    """What the page shows."""

    runs: int
    sentences: tuple[tuple[str, tuple[ex.Sentence, ...]], ...]
    """Under a heading each."""
    glance: Table
    figures: tuple[ex.PaperFigure, ...]
    sections: tuple[Section, ...]
    longer: tuple[Table, ...]
    """Of runs that are longer than those of a section, one for each optimizer."""
    left_out: tuple[str, ...]


def write_report(folder: Path, page: Path) -> list[Path]:
    """Write the page about the runs below a folder, and beside it its figures and `summary.md`.

    Args:
        folder: of records.
        page: the HTML file; what is there is replaced.

    Returns:
        The files.

    Raises:
        ExperimentError: the folder has no runs, or something that is no run; or the files cannot be written.
    """
    report = build_report(ex.read_results(folder))
    images = [image for section in report.sections for image in section.images]
    files = {page: render(report, "html").encode(), page.parent / "summary.md": render(report, "markdown").encode()}
    files |= {page.parent / image.name: image.content for image in images}
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            path.write_bytes(content)
    except OSError as error:
        raise ex.ExperimentError(f"`output` cannot be written: {error.filename}: {error.strerror}.") from error
    return list(files)


def build_report(results: ex.Results) -> Report:
    """Everything that the page shows, drawn and computed."""
    experiments, timed = ex.experiments_of(results.runs, results.timings)
    sentences = ex.sentences_of(experiments)
    headings: Mapping[str, str] = {
        "wins": "LNB wins",
        "fewer steps": "LNB needs fewer steps, but not less time",
        "loses": "LNB does not win",
        "not compared": "Not compared",
    }
    grouped = {heading: tuple(s for s in sentences if s.kind == kind) for kind, heading in headings.items()}
    anchors: dict[str, int] = {}
    longer = [one for one in timed if _is_longer(one, experiments)]
    return Report(
        runs=len(results.runs),
        sentences=tuple((heading, found) for heading, found in grouped.items() if found),
        glance=glance_table(experiments),
        figures=ex.papers_figures(experiments),
        sections=tuple(_section(experiment, experiments, anchors) for experiment in experiments),
        longer=tuple(replace(results_table(experiment), title=experiment.title) for experiment in longer),
        left_out=(
            *results.left_out,
            *(f"{e.title}: a rate and a seed each, so only its times count" for e in timed if e not in longer),
        ),
    )


def render(report: Report, form: str) -> str:
    """The page.

    Args:
        report: what it shows.
        form: "html", a page that needs nothing beside it; or "markdown".
    """
    template = importlib.resources.files("lnb").joinpath(_TEMPLATES[form]).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=form == "html", trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(template).render(report=report)


def _section(experiment: ex.Experiment, experiments: Sequence[ex.Experiment], anchors: dict[str, int]) -> Section:
    name = f"{experiment.task}-{experiment.schedule}-{experiment.scale}"
    anchors[name] = anchors.get(name, 0) + 1
    anchor = name if anchors[name] == 1 else f"{name}-{anchors[name]}"
    runs = [run for entry in experiment.entries for run in entry.runs]
    return Section(
        anchor=anchor,
        title=_title(experiment, experiments),
        summary=ex.find_task(experiment.task).summary,
        settings=_settings(experiment.settings),
        images=tuple(
            Image(
                f"{anchor}-{time}.png",
                f"{experiment.title}: losses and accuracy against {time}, {len(experiment.entries)} optimizers",
                png(draw_experiment(experiment, time)),
            )
            for time in _TIMES
        ),
        tables=(results_table(experiment), times_table(experiment), cost_table(experiment)),
        grid=grid_table(experiment),
        configurations=tuple((entry.label, _settings(entry.settings)) for entry in experiment.entries),
        environments=tuple(dict.fromkeys(_environment(run.header.environment) for run in runs)),
        # From the headers' settings: a command kept since the run leaves out what was the default then.
        commands=tuple(
            (entry.label, tuple(ex.repeat_command(run.header) for run in entry.runs)) for entry in experiment.entries
        ),
    )


def _is_longer(experiment: ex.Experiment, others: Sequence[ex.Experiment]) -> bool:
    """Whether it is one of these but for its greater length."""
    alike = ("task", "scale", "schedule", "settings")
    lengths = [o.epochs for o in others if all(getattr(o, name) == getattr(experiment, name) for name in alike)]
    return bool(lengths) and experiment.epochs > max(lengths)


def _title(experiment: ex.Experiment, experiments: Sequence[ex.Experiment]) -> str:
    """The experiment's, with the task's settings that tell it from others of the task."""
    others = [other.settings for other in experiments if other.task == experiment.task]
    differing = [key for key, value in experiment.settings.items() if any(o.get(key) != value for o in others)]
    told = _settings({key: experiment.settings[key] for key in differing})
    return f"{experiment.title}, {told}" if told else experiment.title


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in settings.items())


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "-".join(map(str, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _environment(environment: Mapping[str, Any]) -> str:
    """The machine, the versions and the commit; not when."""
    known = {key: value for key, value in environment.items() if key not in ("started", "versions")}
    return _settings({**{key: value for key, value in known.items() if value}, **environment.get("versions", {})})
