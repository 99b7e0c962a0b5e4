"""The kernels of a compiled program."""

from __future__ import annotations

import re

_FUSION = re.compile(r"^%?fused_computation[^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"%[\w.\-]+")
_METADATA = re.compile(r", metadata=\{[^\n]*\}")


def distinct_kernels(program: str) -> int:
    r"""How many of its fusions differ in more than their names: what LLVM compiles on the CPU, equal ones once.

    >>> body = "{\n  %p = f32[2]{0} parameter(0)\n  ROOT %n = f32[2]{0} negate(%p)\n}\n"
    >>> distinct_kernels("".join(f"%fused_computation.{k} (p: f32[2]) -> f32[2] {body}" for k in range(3)))
    1
    """
    return len({_anonymous(body) for body in _FUSION.findall(program)})


def _anonymous(body: str) -> str:
    """A fusion with its values numbered in the order in which they appear."""
    numbers: dict[str, str] = {}
    return _NAME.sub(lambda name: numbers.setdefault(name[0], f"%{len(numbers)}"), _METADATA.sub("", body))
