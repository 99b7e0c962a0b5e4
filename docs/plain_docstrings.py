"""For the reference: docstrings are plain text, whose brackets are mathematics and whose doctests are code."""

import re
from typing import Any

import griffe


def as_markdown(text: str) -> str:
    """The same text for a reader of Markdown: doctests fenced, brackets outside code no links."""
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        inside = line.startswith(">>>") or (fenced and line.strip() != "")
        if inside != fenced:
            lines.append("```pycon" if inside else "```")
            fenced = inside
        lines.append(line if inside else _escaped(line))
    return "\n".join([*lines, "```"] if fenced else lines)


def _escaped(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else part.replace("[", r"\[") for part in parts)


class PlainDocstrings(griffe.Extension):
    """Every docstring through `as_markdown`."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object once it is read."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
