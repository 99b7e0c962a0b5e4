"""The experiments use the library's public names, and import one way; what takes long to load is loaded when needed."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import lnb

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "experiments/src"
FILES = sorted((SOURCE / "lnb_experiments").rglob("*.py"))
PUBLIC = set(lnb.__dir__()) | {"lnb", "solvers", "steps"}


def imports_of(path):
    """Every name that a file imports, in full."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private_uses(path):
    """Names of the library that begin with an underscore, in imports and as attributes of `lnb`."""
    imported = (name for name in imports_of(path) if name.partition(".")[0] == "lnb")
    yield from (name for name in imported if any(part.startswith("_") for part in name.split(".")))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_of_lnb = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lnb"
        if is_of_lnb and (node.attr.startswith("_") or node.attr not in PUBLIC):
            yield f"lnb.{node.attr}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_public_names_of_the_library_are_used(path):
    assert list(private_uses(path)) == []


@pytest.mark.parametrize("text", ["import lnb._neurons", "from lnb._solvers import CG", "import lnb\nlnb._transform"])
def test_a_private_name_is_found(text, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(text)
    assert len(list(private_uses(path))) == 1


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_benchmarks_use_public_names_of_the_experiments(path):
    names = [name for name in imports_of(path) if name.startswith("lnb_experiments")]
    assert not [name for name in names if "._" in name]


def module_of(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_run_one_way():
    modules = {module_of(path): path for path in FILES}
    graph = {}
    for name, path in modules.items():
        used = {other if other in modules else other.rpartition(".")[0] for other in imports_of(path)}
        graph[name] = (used & modules.keys()) - {name}
    assert graph["lnb_experiments.cli._cli"]
    graphlib.TopologicalSorter(graph).prepare()


def test_what_takes_long_to_load_is_loaded_when_it_is_needed():
    program = """
import sys, lnb_experiments.cli
assert not {"matplotlib", "orbax.checkpoint", "datasets", "sklearn"} & set(sys.modules)
import lnb_experiments.report._report
assert "matplotlib" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
