"""The wheel and the sdist of the library: what is in them, and that the wheel installs and imports on its own."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = 10_420


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the wheel, which is built from the sdist, and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def read_wheel(dist):
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name).decode() for name in wheel.namelist()}


def test_the_wheel_has_the_library_and_nothing_else(dist):
    files = read_wheel(dist)
    code = {name for name in files if ".dist-info/" not in name}
    assert code == {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/lnb").rglob("*.py")} | {"lnb/py.typed"}
    assert not [name for name in files if name.endswith("entry_points.txt")]
    assert sum(len(files[name].splitlines()) for name in code) < LINES


def test_the_wheel_asks_for_jax_numpy_and_optax(dist):
    (metadata,) = (text for name, text in read_wheel(dist).items() if name.endswith("METADATA"))
    required = Parser().parsestr(metadata).get_all("Requires-Dist") or []
    always = [line for line in required if "extra ==" not in line]
    assert {re.split(r"[^\w-]", line)[0] for line in always} == {"jax", "numpy", "optax"}


def test_the_sdist_has_the_library_its_tests_and_its_licence(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/lnb/__init__.py", "tests/oracle.py"} <= names
    assert not [name for name in names if name.startswith(("experiments", "results", "docs"))]


def test_the_wheel_installs_and_imports(dist, tmp_path):
    (path,) = dist.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path)]
    subprocess.run([*install, str(path)], check=True, capture_output=True)
    # `-P` and the target first: it is this copy that is imported, not the working tree's.
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import lnb; lnb.Auto(); print(lnb.__file__)"
    result = subprocess.run([sys.executable, "-P", "-c", program], check=True, capture_output=True, text=True)
    assert Path(result.stdout.strip()) == tmp_path / "lnb/__init__.py"
