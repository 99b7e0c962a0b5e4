"""Every page of the documentation whose blocks form a program runs as it stands, and shows what it says it shows."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lnb

DOCS = Path(__file__).parents[1] / "docs"
GUIDES = DOCS / "guides"
PACKAGES = {
    "plain-jax": "jax",
    "equinox": "equinox",
    "flax-nnx": "flax",
    "flax-linen": "flax",
    "haiku": "haiku",
    "keras": "keras",
}
LOSS = re.compile(r"^step +(\d+)  loss (\S+)$", re.MULTILINE)

# Ahead of a page: every call of `find_neurons` writes down what it covers.
BEFORE = """
import json as _json, lnb as _lnb
_find_neurons = _lnb.find_neurons
def _recording(*args, **kwargs):
    neurons = _find_neurons(*args, **kwargs)
    print("found", _json.dumps([neurons.coverage, neurons.uncovered]))
    return neurons
_lnb.find_neurons = _recording
"""


def code_of(page):
    """Its blocks of Python as one program."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return "\n".join([BEFORE, *blocks])


def run(code, folder):
    """What a program prints, in an interpreter of its own: pages choose backends, and need the usual promotion."""
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PLATFORMS": "cpu",
        "KERAS_HOME": str(folder),
        "PYTHONPATH": str(Path(lnb.__file__).parents[1]) + os.pathsep + os.environ.get("PYTHONPATH", ""),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def runs_of(output):
    """The losses that each training loop prints; a loop begins at step 0."""
    losses = []
    for count, loss in LOSS.findall(output):
        if int(count) == 0:
            losses.append([])
        losses[-1].append(float(loss))
    return losses


def test_every_page_is_run():
    """Here, or for torchax in a test of its own."""
    assert {page.stem for page in GUIDES.glob("*.md")} == {*PACKAGES, "torchax"}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_page_runs_finds_all_layers_and_trains(name, tmp_path):
    if importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    output = run(code_of(GUIDES / f"{name}.md"), tmp_path)

    found = [json.loads(line) for line in re.findall(r"^found (.*)$", output, re.MULTILINE)]
    assert found
    assert all(entry == [1.0, []] for entry in found), found

    losses = runs_of(output)
    assert losses, output
    assert all(len(run) > 1 and run[-1] < run[0] / 2 for run in losses), losses


def test_every_solver_and_step_of_the_page_on_choosing_trains(tmp_path):
    losses = runs_of(run(code_of(DOCS / "choosing.md"), tmp_path))
    assert len(losses) == 7
    assert all(len(run) > 1 and run[-1] < run[0] / 2 for run in losses), losses


def test_the_page_on_tuning_shows_that_decay_helps(tmp_path):
    output = run(code_of(DOCS / "tuning.md"), tmp_path)
    rates = [float(loss) for loss in re.findall(r"^rate \S+  loss (\S+)$", output, re.MULTILINE)]
    (compared,) = re.findall(r"^constant (\S+)  decayed (\S+)$", output, re.MULTILINE)
    assert len(rates) == 4
    assert all(loss < 0.5 for loss in rates), output
    assert float(compared[1]) < float(compared[0])


def test_the_page_on_troubleshooting_shows_what_it_explains(tmp_path):
    output = run(code_of(DOCS / "troubleshooting.md"), tmp_path)
    assert re.findall(r"^(\S+) reaches the loss without meeting any data", output, re.MULTILINE) == ["['log_scale']"]
    assert "3 neurons cover 100.0% of the parameters." in output
    assert re.search(r"^1 0\.0$", output, re.MULTILINE), output
