"""A published network with something to learn, and the list of all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from public_models import models

PyTree = Any


@dataclass(frozen=True)
class Trial:
    """A network, a loss and its data.

    Fields:
        loss_fn: `loss_fn(params, *batch)`, a scalar.
        params: a tree of arrays.
        batch: the loss's other arguments, by the number of the step; their shapes are the same for all.
        ignore: parameters that are not to be trained, as in `find_neurons`.
    """

    loss_fn: Callable[..., Any]
    params: PyTree
    batch: Callable[[int], Sequence[Any]]
    ignore: Sequence[str] = ()


@dataclass(frozen=True)
class Model:
    """A published network.

    Fields:
        library: that publishes it.
        name: of the network, as the library calls it.
        packages: whose versions the page names; each must be installed.
        source: the folder under `--sources` that a checkout of the library is in; None for an installed package.
        build: makes the trial.
        note: what the page says about it, such as why a parameter is not covered.
    """

    library: str
    name: str
    packages: tuple[str, ...]
    source: str | None
    build: Callable[[], Trial]
    note: str = ""

    @property
    def key(self) -> str:
        """Its name among all models."""
        return f"{self.library}/{self.name}"


MODELS: dict[str, Model] = {}


def model(
    library: str, name: str, *packages: str, source: str | None = None, note: str = ""
) -> Callable[[Callable[[], Trial]], Callable[[], Trial]]:
    """Enter a function that builds a trial in the list of models."""

    def enter(build: Callable[[], Trial]) -> Callable[[], Trial]:
        found = Model(library, name, packages, source, build, note)
        if found.key in MODELS:
            raise ValueError(f"two models are called {found.key}")
        MODELS[found.key] = found
        return build

    return enter


def load_models() -> dict[str, Model]:
    """All models. None of their libraries is imported before its model is built."""
    for path in sorted(Path(models.__file__).parent.glob("[a-z]*.py")):
        import_module(f"public_models.models.{path.stem}")
    return MODELS


def use_source(model: Model, sources: Path) -> None:
    """Make a model's checkout importable."""
    if model.source is not None:
        sys.path.insert(0, str(sources / model.source))
