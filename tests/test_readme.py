"""The README's block of Python runs as it stands, and its links lead somewhere."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import lnb

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
LOSS = re.compile(r"^step +\d+  loss (\S+)$", re.MULTILINE)


def test_the_first_block_trains_when_it_is_copied_into_a_file(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(BLOCKS[0], encoding="utf-8")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(lnb.__file__).parents[1]) + os.pathsep + os.environ.get("PYTHONPATH", ""),
    }
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in LOSS.findall(done.stdout)]
    assert len(losses) >= 4, done.stdout
    assert losses[-1] < losses[0] / 100, losses
    assert losses[1] < losses[0] / 2, losses


def test_the_first_block_needs_the_core_dependencies_alone():
    imports = [node for node in ast.walk(ast.parse(BLOCKS[0])) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    assert {name.partition(".")[0] for name in names if name} == {"jax", "lnb", "numpy", "optax"}


def test_every_link_to_the_repository_leads_to_a_file():
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
