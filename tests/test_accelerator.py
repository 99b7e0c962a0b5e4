"""The measurement on an accelerator, at tiny size on the CPU, and its page."""

import json
from pathlib import Path

import accelerator
import jax
import pytest

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


@pytest.fixture
def usual_promotion():
    """JAX's usual dtype promotion, in the threads that compile too."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.mark.usefixtures("usual_promotion")
def test_it_measures_a_step(tmp_path, monkeypatch):
    arguments = f"--tiny --turns 1 --networks mnist-mlp --optimizers adam lnb --dtypes bfloat16 --output {tmp_path}"
    monkeypatch.setattr("sys.argv", ["accelerator.py", *arguments.split()])
    accelerator.main()
    records = json.loads((tmp_path / "accelerator.json").read_text(encoding="utf-8"))["records"]
    assert [record["optimizer"] for record in records] == ["adam", "lnb"]
    for record in records:
        assert record["milliseconds"] > 0
        assert record["memory"] > 0
        assert not record["failure"]
        assert sum(record["parts"].values()) > 0
        assert (record["parts"]["statistics"] > 0) == (record["optimizer"] == "lnb")


def test_what_does_not_fit_in_the_time_is_left_out(tmp_path, monkeypatch, capsys):
    arguments = ["--tiny", "--seconds", "-1", "--networks", "mnist-mlp", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["accelerator.py", *arguments])
    accelerator.main()
    assert capsys.readouterr().out.count("left out, for want of time: mnist-mlp") == 2


def test_the_page_is_made_of_the_records():
    kept = json.loads((RESULTS / "accelerator.json").read_text(encoding="utf-8"))
    records = [accelerator.Record(**record) for record in kept["records"]]
    assert (RESULTS / "accelerator.md").read_text(encoding="utf-8") == accelerator.page(records, kept["environment"])
