"""The kernels of a compiled program."""

from __future__ import annotations

import re

_FUSION = re.compile(r"^%?((?:fused|wrapped)_[\w.\-]*) [^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_LIBRARY = re.compile(r"kind=kCustom, calls=%?([\w.\-]+)")
# Outside of a fusion: a concatenation, or a product with a vector.
_ALONE = re.compile(r"= \w+\[[\d,]+\]\S* concatenate\(|= \w+\[(?:1,\d+|\d+,1|\d+)\]\S* dot\(")
_NAME = re.compile(r"%[\w.\-]+")
_METADATA = re.compile(r", metadata=\{[^\n]*\}")


def distinct_kernels(program: str) -> int:
    r"""How many kernels LLVM compiles for it on the CPU.

    Those are the fusions that differ in more than their names, but for those that a library runs, and every
    concatenation and product with a vector that is in none, alike or not.

    >>> body = "{\n  %p = f32[2]{0} parameter(0)\n  ROOT %n = f32[2]{0} negate(%p)\n}\n"
    >>> program = "".join(f"%fused_computation.{k} (p: f32[2]) -> f32[2] {body}" for k in range(3))
    >>> distinct_kernels(program), distinct_kernels(program + "  %d = f32[1,2]{1,0} dot(%a, %b)\n" * 2)
    (1, 3)
    """
    library = set(_LIBRARY.findall(program))
    fusions = {_anonymous(body) for name, body in _FUSION.findall(program) if name not in library}
    return len(fusions) + len(_ALONE.findall(_FUSION.sub("", program)))


def _anonymous(body: str) -> str:
    """A fusion with its values numbered in the order in which they appear."""
    numbers: dict[str, str] = {}
    return _NAME.sub(lambda name: numbers.setdefault(name[0], f"%{len(numbers)}"), _METADATA.sub("", body))
