"""The report: one page about all runs of a folder, and the same as Markdown. Everything on it comes from records."""

from __future__ import annotations

import base64
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from lnb_experiments._errors import ExperimentError
from lnb_experiments.analysis._findings import Experiment, experiments_of
from lnb_experiments.analysis._verdicts import paper_figures
from lnb_experiments.report._figures import draw_experiment, png
from lnb_experiments.report._tables import (
    Table,
    claims_table,
    cost_table,
    glance_table,
    grid_table,
    results_table,
    times_table,
)
from lnb_experiments.runs._archive import Results, read_results
from lnb_experiments.runs._commands import repeat_command
from lnb_experiments.tasks._tasks import find_task


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
    content = _content(read_results(folder))
    images = {image["name"]: image["bytes"] for section in content["sections"] for image in section["images"]}
    files = {page: _render("page.html", content), page.parent / "summary.md": _render("page.md", content)}
    files |= {page.parent / name: image for name, image in images.items()}
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for path, written in files.items():
            path.write_bytes(written)
    except OSError as error:
        raise ExperimentError(f"`output` cannot be written: {error.filename}: {error.strerror}.") from error
    return list(files)


def _render(template: str, content: Mapping[str, Any]) -> bytes:
    text = importlib.resources.files("lnb_experiments.report").joinpath(template).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=template.endswith("html"), trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(text).render(content).encode()


def _content(results: Results) -> dict[str, Any]:
    """Everything that the templates show."""
    experiments, timed = experiments_of(results.runs, results.timings)
    anchors: dict[str, int] = {}
    longer = [one for one in timed if _is_longer(one, experiments)]
    others = [one for one in timed if not _is_longer(one, experiments)]
    left_out = [f"{one.title}: a rate and a seed each, so only its times count" for one in others]
    return {
        "count": len(results.runs),
        "glance": glance_table(experiments),
        "claims": claims_table(paper_figures(experiments)),
        "sections": [_section(experiment, experiments, anchors) for experiment in experiments],
        "longer": [Table(one.title, results_table(one).frame, results_table(one).notes) for one in longer],
        "left_out": [*results.left_out, *left_out],
    }


def _section(experiment: Experiment, experiments: Sequence[Experiment], anchors: dict[str, int]) -> dict[str, Any]:
    name = f"{experiment.task}-{experiment.schedule}-{experiment.scale}"
    anchors[name] = anchors.get(name, 0) + 1
    anchor = name if anchors[name] == 1 else f"{name}-{anchors[name]}"
    environments = (_environment(run.header.environment) for entry in experiment.entries for run in entry.runs)
    return {
        "anchor": anchor,
        "title": _title(experiment, experiments),
        "summary": find_task(experiment.task).summary,
        "images": [_image(experiment, anchor, "epochs"), _image(experiment, anchor, "seconds")],
        "tables": [results_table(experiment), times_table(experiment), cost_table(experiment)],
        "grid": grid_table(experiment),
        "configuration": [
            ("Task", _settings(experiment.settings)),
            *((entry.label, _settings(entry.settings)) for entry in experiment.entries),
            *(("Machine", environment) for environment in dict.fromkeys(environments)),
        ],
        # From the headers' settings: a command kept since the run leaves out what was the default then.
        "commands": [(entry.label, [repeat_command(run.header) for run in entry.runs]) for entry in experiment.entries],
    }


def _image(experiment: Experiment, anchor: str, time: Any) -> dict[str, Any]:
    drawn = png(draw_experiment(experiment, time))
    return {
        "name": f"{anchor}-{time}.png",
        "text": f"{experiment.title}: losses and accuracy against {time}, {len(experiment.entries)} optimizers",
        "bytes": drawn,
        "url": f"data:image/png;base64,{base64.b64encode(drawn).decode()}",  # the page needs no file beside it
    }


def _is_longer(experiment: Experiment, others: Sequence[Experiment]) -> bool:
    """Whether it is one of these but for its greater length."""
    alike = ("task", "scale", "schedule", "settings")
    lengths = [o.epochs for o in others if all(getattr(o, name) == getattr(experiment, name) for name in alike)]
    return bool(lengths) and experiment.epochs > max(lengths)


def _title(experiment: Experiment, experiments: Sequence[Experiment]) -> str:
    """The experiment's, with the task's settings that tell it from others of the task."""
    others = [other.settings for other in experiments if other.task == experiment.task]
    differing = [key for key, value in experiment.settings.items() if any(o.get(key) != value for o in others)]
    differences = _settings({key: experiment.settings[key] for key in differing})
    return f"{experiment.title}, {differences}" if differences else experiment.title


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in settings.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = {key: entry for key, entry in value.items() if key != "kind"}
        return f"{value.get('kind', '')}({_settings(inner)})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "-".join(map(str, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _environment(environment: Mapping[str, Any]) -> str:
    """The machine, the versions and the commit; not when."""
    known = {key: value for key, value in environment.items() if key not in ("started", "versions")}
    return _settings({**{key: value for key, value in known.items() if value}, **environment.get("versions", {})})
