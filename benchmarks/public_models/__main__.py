"""Measure the models that have no record yet, and write the page about all of them.

Each model is measured in a process of its own, so that one that fails takes no other with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tyro

from public_models.measure import Record, measure
from public_models.page import page
from public_models.trial import Model, load_models, use_source

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "benchmarks" / "results" / "public-models.json"
PAGE = ROOT / "docs" / "public-models.md"


@dataclass(frozen=True)
class Settings:
    """The settings of a run."""

    models: tuple[str, ...] = ()
    """Names of models, `library/name`, or of libraries; all where none is given."""
    again: bool = False
    """Measure models that have a record too."""
    sources: Path = Path("sources")
    """Folder of checkouts, of models in no package: bonsai, flax, jaxpi, and its branch as jaxpi-pirate."""
    timeout: int = 1200
    """Seconds that a model may take."""
    here: bool = False
    """Measure one model in this process and print its record; for the script itself."""


def main(settings: Settings) -> None:
    """Measure, and write the page."""
    models = load_models()
    if settings.here:
        model = models[settings.models[0]]
        use_source(model, settings.sources)
        print("\n" + json.dumps(asdict(measure(model))))
        return
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    for key, model in models.items():
        wanted = not settings.models or key in settings.models or model.library in settings.models
        if not wanted or (key in records and not records[key]["failure"] and not settings.again):
            continue
        try:
            for package in model.packages:
                version(package)
            if model.source is not None and not (settings.sources / model.source).is_dir():
                raise PackageNotFoundError(f"{model.source} (a checkout)")
        except PackageNotFoundError as missing:
            print(f"{key}: skipped, {missing.name} is not here", flush=True)
            continue
        record = _measured(model, settings)
        print(f"{key}: {record['failure'] or record['losses']}", flush=True)
        records = dict(sorted({**records, key: record}.items()))
        RECORDS.write_text(json.dumps(records, indent=1) + "\n")
    if records:
        PAGE.write_text(page([Record(**record) for record in records.values()]))


def _measured(model: Model, settings: Settings) -> dict[str, object]:
    """A model's record, from a process of its own."""
    command = [sys.executable, "-m", "public_models", "--here", "--models", model.key]
    command += ["--sources", str(settings.sources)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=settings.timeout, check=False)
    except subprocess.TimeoutExpired:
        failure = f"took longer than {settings.timeout} s"
    else:
        if done.returncode == 0:
            return json.loads(done.stdout.strip().splitlines()[-1])
        print(done.stderr[-4000:], file=sys.stderr)
        lines = done.stderr.strip().splitlines()
        failure = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no message")
    return asdict(Record(model.library, model.name, model.note, {}, failure=failure))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
