"""The page on extending runs as it stands, and its classes are short."""

import re
from pathlib import Path

from test_guides import run, runs_of

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def blocks():
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_runs_and_its_solver_and_step_train(tmp_path):
    (losses,) = runs_of(run("\n".join(blocks()), tmp_path))
    assert losses[-1] < losses[0] / 2


def test_a_solver_and_a_step_rule_take_40_lines_each():
    solver, step = (block for block in blocks() if "(lnb.Solver)" in block or "(lnb.StepRule)" in block)
    assert "(lnb.Solver)" in solver
    assert max(len(block.splitlines()) for block in (solver, step)) <= 40
