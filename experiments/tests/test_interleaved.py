"""Interleaved runs: killed, interrupted, failing and diverging ones."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time

import pytest
from test_cli import SMALL_MATRIX, lnb
from test_experiments import untimed

import lnb_experiments as ex

pytestmark = pytest.mark.usefixtures("standard_promotion")

PROGRAM = "from lnb_experiments.cli import main; raise SystemExit(main())"
OPTIMIZERS = ["adam", "lnb"]
RUNS = ["compare", "digits", "--optimizers", *OPTIMIZERS, "--task.hidden", "8", "--schedule", "linear"]


def start(*arguments, cache):
    """The command in a process of its own; what one compiles, the next ones find in `cache`."""
    environment = {
        **os.environ,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_records(path, count, process):
    """Wait until a run has so many records."""
    while not path.exists() or len(path.read_bytes().splitlines()) <= count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def lines(folder):
    """Every line of the records but for times and memory."""
    found = {}
    for name in OPTIMIZERS:
        header, *entries = map(json.loads, (folder / f"digits/{name}.jsonl").read_text().splitlines())
        for entry in entries:
            for field in ("seconds", "milliseconds"):
                entry.pop(field, None)
        entries[-1] = sorted(entries[-1]["cost"])
        header["environment"].pop("started")
        header.pop("comparison")
        found[name] = [header, *entries]
    return found


def test_killed_runs_go_on_as_if_they_never_were(tmp_path):
    options = ["--epochs", "6", "--evaluate-every", "4", "--checkpoint-every", "7"]
    whole = start(*RUNS, *options, "--output", tmp_path / "whole", cache=tmp_path / "cache")
    assert whole.communicate()[1] == ""
    killed = start(*RUNS, *options, "--output", tmp_path / "killed", cache=tmp_path / "cache")
    moment = random.Random(0)
    wait_for_records(tmp_path / "killed/digits/lnb.jsonl", moment.randint(3, 15), killed)
    time.sleep(moment.uniform(0, 0.1))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert ex.read_run(tmp_path / "killed/digits/lnb.jsonl").cost is None
    resumed = start(*RUNS, *options, "--output", tmp_path / "killed", "--resume", cache=tmp_path / "cache")
    out, err = resumed.communicate()
    assert err == ""
    assert all(f"{name} goes on from step" in out or f"{name} is complete" in out for name in OPTIMIZERS)
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    runs = [ex.read_run(tmp_path / f"killed/digits/{name}.jsonl") for name in OPTIMIZERS]
    assert len({run.header.comparison for run in runs}) == 1
    assert sorted(path.name for path in (tmp_path / "killed/digits").iterdir()) == [
        ".lock",
        "adam.jsonl",
        "comparison.png",
        "lnb.jsonl",
    ]


def test_ctrl_c_saves_every_run_and_says_how_to_go_on(tmp_path, capsys):
    command = [*RUNS, "--epochs", "100000", "--output", tmp_path / "with space"]
    process = start(*command, cache=tmp_path / "cache")
    wait_for_records(tmp_path / "with space/digits/lnb.jsonl", 4, process)
    process.send_signal(signal.SIGINT)
    err = process.communicate()[1]
    assert process.returncode == 130
    told, again = err.splitlines()
    assert told == "lnb: interrupted; the runs that had begun are saved. To go on:"
    assert shlex.split(again) == ["lnb", *map(str, command), "--resume"]
    for name in OPTIMIZERS:
        (checkpoint,) = (tmp_path / f"with space/digits/{name}.checkpoint").iterdir()
        last = ex.read_run(tmp_path / f"with space/digits/{name}.jsonl").records[-1].step
        assert last <= int(checkpoint.name) <= last + 5
    # A resume with another setting is refused, and nothing is lost by it.
    assert lnb(*shlex.split(again)[1:], "--epochs", "7") == 2
    assert "`epochs` was 100000, now it is 7" in capsys.readouterr().err
    assert checkpoint.exists()


def test_a_resume_with_nothing_to_go_on_from_starts_from_the_beginning(tmp_path, capsys):
    options = [*RUNS, "--epochs", "1", "--output", tmp_path, "--resume"]
    assert lnb(*options) == 0
    out = capsys.readouterr().out
    assert all(f"{name} has no checkpoint: it starts from the beginning." in out for name in OPTIMIZERS)
    files = {name: (tmp_path / f"digits/{name}.jsonl").read_bytes() for name in OPTIMIZERS}
    assert lnb(*options) == 0
    out = capsys.readouterr().out
    assert all(f"{name} is complete: it is not run again." in out for name in OPTIMIZERS)
    assert files == {name: (tmp_path / f"digits/{name}.jsonl").read_bytes() for name in OPTIMIZERS}


def test_profiles_are_of_steps_that_no_record_counts(tmp_path, capsys):
    for more in ([], ["--profile"]):
        options = ["--optimizers", "adam", "--epochs", "1", "--output", tmp_path / str(len(more)), *more]
        assert lnb("compare", "digits", "--task.hidden", "8", *options) == 0
    folder = tmp_path / "1/digits/adam.profile"
    assert f"profile  {folder} (10 further steps, in no record)" in capsys.readouterr().out
    assert list(folder.rglob("*.xplane.pb"))
    plain, profiled = (ex.read_run(tmp_path / f"{number}/digits/adam.jsonl").records for number in (0, 1))
    assert list(map(untimed, plain)) == list(map(untimed, profiled))
    (tmp_path / "2/digits").mkdir(parents=True)
    (tmp_path / "2/digits/adam.profile").write_text("a file in the way")
    assert lnb("compare", "digits", *options, "--output", tmp_path / "2") == 2
    assert "adam.profile: File exists" in capsys.readouterr().err


def test_a_run_that_fails_leaves_the_others_their_records(tmp_path, capsys, monkeypatch):
    advance = ex.Training.advance

    def exhausted(self, *arguments):
        if self._neurons is not None and self.progress.step >= 10:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more about it")
        return advance(self, *arguments)

    monkeypatch.setattr(ex.Training, "advance", exhausted)
    assert lnb(*RUNS, "--epochs", "1", "--checkpoint-every", "5", "--output", tmp_path) == 2
    out, err = capsys.readouterr()
    assert "lnb: lnb failed: RuntimeError: RESOURCE_EXHAUSTED: out of memory. Its records" in err
    assert "Traceback" in err
    assert "lnb (cut short)" in out
    adam, boosting = (ex.read_run(tmp_path / f"digits/{name}.jsonl") for name in OPTIMIZERS)
    assert adam.records[-1].step == 15
    assert adam.cost is not None
    assert [record.step for record in boosting.records] == [0, 5, 10]
    assert boosting.cost is None
    monkeypatch.undo()
    assert lnb(*RUNS, "--epochs", "1", "--resume", "--output", tmp_path) == 0
    assert "lnb goes on from step 10" in capsys.readouterr().out


def test_a_run_that_cannot_be_compiled_leaves_the_others_alone(tmp_path, capsys, monkeypatch):
    compile_step = ex.Training.compile

    def exhausted(self):
        if self._neurons is not None:
            raise MemoryError("no room")
        compile_step(self)

    monkeypatch.setattr(ex.Training, "compile", exhausted)
    assert lnb(*RUNS, "--epochs", "1", "--output", tmp_path) == 2
    assert "lnb failed: MemoryError: no room" in capsys.readouterr().err
    assert ex.read_run(tmp_path / "digits/adam.jsonl").records[-1].step == 15


def test_a_diverging_run_with_checkpoints_and_a_schedule_leaves_the_others_alone(tmp_path, capsys):
    options = ["--optimizers", "sgd", "adam", "--epochs", "30", "--evaluate-every", "4", "--checkpoint-every", "3"]
    options += ["--schedule", "linear", "--output", tmp_path]
    assert lnb("compare", "matrix-factorization", *SMALL_MATRIX, *options, "--sgd.learning-rate", "1e3") == 0
    assert "diverged by step" in capsys.readouterr().out
    sgd, adam = (ex.read_run(tmp_path / f"matrix-factorization/{name}.jsonl") for name in ("sgd", "adam"))
    assert [record.finite for record in sgd.records] == [True] * (len(sgd.records) - 1) + [False]
    assert sgd.records[-1].step < 30
    assert sgd.cost is not None
    assert adam.records[-1].step == 30
    assert lnb("compare", "matrix-factorization", *SMALL_MATRIX, *options, "--optimizers", "adam") == 0
    alone = ex.read_run(tmp_path / "matrix-factorization/adam.jsonl")
    assert list(map(untimed, alone.records)) == list(map(untimed, adam.records))
