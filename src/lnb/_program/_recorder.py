"""The values that an evaluation of a program hands out beside its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lnb._program._equation import Equation, Value


@dataclass(frozen=True)
class RegionRecord:
    """The value that the region at an equation records at an index."""

    position: int
    index: int


@dataclass(frozen=True)
class DerivedRecord:
    """An array computed from recorded ones."""

    function: Callable[[Sequence[Any]], Any]
    sources: tuple[int, ...]


RegionRule = Callable[[Equation, Sequence[Any]], tuple[list[Any], list[Any]]]
"""Evaluates an equation that holds programs: its outputs, and what its programs record."""


@dataclass
class Recorder:
    """The values that an evaluation of a program hands out, and the rules for regions that record too."""

    entries: list[Value | RegionRecord | DerivedRecord] = field(default_factory=list)
    regions: dict[int, RegionRule] = field(default_factory=dict)

    def index(self, entry: Value | RegionRecord | DerivedRecord) -> int:
        """The place of this entry among those recorded; it is added when it is new."""
        if entry not in self.entries:
            self.entries.append(entry)
        return self.entries.index(entry)

    def derive(self, function: Callable[[Sequence[Any]], Any], sources: tuple[int, ...]) -> int:
        """The place of the array that this function computes from those recorded at `sources`."""
        return self.index(DerivedRecord(function, sources))
