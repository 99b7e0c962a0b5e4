"""Which module may import which: one way, and of other packages JAX, Optax and NumPy alone."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
FILES = sorted((SOURCE / "lnb").rglob("*.py"))
CORE_PACKAGES = {"jax", "optax", "numpy", "lnb", *sys.stdlib_module_names}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def statements(tree: ast.AST, *, of_types: bool) -> Iterator[ast.AST]:
    """All of the tree, with what only a type checker reads if `of_types`."""
    for child in ast.iter_child_nodes(tree):
        is_of_types = (
            isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
        )
        if of_types or not is_of_types:
            yield child
            yield from statements(child, of_types=of_types)


def imported(name: str, *, anywhere: bool = True, of_types: bool = False) -> set[str]:
    """The full names that a module imports: anywhere in it or only when it is loaded; for the type checker too."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in statements(tree, of_types=of_types) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_module(name: str) -> str | None:
    """The module of this package that an imported name is, or is in."""
    while name:
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


@pytest.mark.parametrize(("anywhere", "of_types"), [(False, False), (True, False), (True, True)])
def test_imports_run_one_way(anywhere, of_types):
    graph = {}
    for name in MODULES:
        # Loading a module loads the packages that it is in, whose public names nobody inside then needs.
        used = {own_module(other) for other in imported(name, anywhere=anywhere, of_types=of_types)} - {None, name}
        graph[name] = used
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_it_needs_only_jax_optax_and_numpy(name):
    assert {other.partition(".")[0] for other in imported(name)} <= CORE_PACKAGES


@pytest.mark.parametrize("name", MODULES)
def test_private_jax_is_left_alone(name):
    assert "jax._src" not in MODULES[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MODULES)
def test_the_library_prints_nothing(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert not [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]


def test_importing_traces_nothing_and_leaves_optax_and_the_search_for_later():
    program = """
import sys, jax, jax.monitoring
traced = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: traced.append(name))
import lnb
assert traced == [], traced
assert "optax" not in sys.modules
assert "jax.scipy.linalg" not in sys.modules
assert "lnb._finding" not in sys.modules and "jax.extend.core" not in sys.modules
jax.make_jaxpr(lambda x: x + 1)(1.0)
assert any("trace" in name for name in traced), traced
"""
    subprocess.run([sys.executable, "-c", program], check=True)
