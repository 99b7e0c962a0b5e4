"""The page about published models."""

from __future__ import annotations

from collections.abc import Sequence

from public_models.measure import Record


def page(records: Sequence[Record]) -> str:
    """Markdown."""
    return "\n".join(record.name for record in records) + "\n"
