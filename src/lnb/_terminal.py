"""What the commands share of the terminal."""

from __future__ import annotations

from rich.console import Console

_FILE_WIDTH = 160


def console() -> Console:
    """Standard output; where it is no terminal, wide enough that no table is broken."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)
