"""Each command, on a setting small enough to watch."""

import json
import re
import shlex

import pytest
from test_experiments import untimed

import lnb_experiments as ex
from lnb import _cli

pytestmark = pytest.mark.usefixtures("standard_promotion")

SMALL_DIGITS = ["--task.hidden", "8", "--epochs", "1"]
SMALL_MATRIX = ["--task.samples", "50", "--task.inputs", "6", "--task.hidden", "6", "--task.outputs", "8"]


def lnb(*arguments):
    return _cli.main([str(argument) for argument in arguments])


def header(path):
    return json.loads(path.read_text().splitlines()[0])


def test_compare_leaves_table_records_and_plot(tmp_path, capsys):
    assert lnb("compare", "digits", *SMALL_DIGITS, "--output", tmp_path) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "digits"
    assert sorted(path.name for path in folder.iterdir()) == [
        "adam.jsonl",
        "comparison.png",
        "lnb-cholesky.jsonl",
        "lnb.jsonl",
    ]
    for column in ("final loss", "test accuracy", "steps to target", "seconds to target", "ms/step", "ratio to adam"):
        assert column in out
    assert all(column in out for column in ("compile s", "step MB", "Peak resident memory of the process"))
    assert str(folder / "comparison.png") in out.splitlines()[-1]
    assert "\x1b" not in out  # no bars or colours where nobody watches
    runs = [ex.read_run(path) for path in sorted(folder.glob("*.jsonl"))]
    assert len({run.records[0].loss for run in runs}) == 1
    assert ex.timed_together(runs)
    assert all(run.records[-1].step == 15 for run in runs)


def test_every_hyper_parameter_can_be_set(tmp_path):
    options = ["--lnb.ridge", "0.7", "--adam.learning-rate", "0.02", "--lnb.clip-norm", "None", "--seed", "3"]
    options += [
        "--lnb-cholesky.every",
        "2",
        "--learning-rate",
        "lnb=0.125",
        "lnb-cholesky=1e-1",
        "--evaluate-every",
        "7",
    ]
    assert lnb("compare", "digits", *SMALL_DIGITS, "--task.hidden", "8", "9", *options, "--output", tmp_path) == 0
    adam, boosting, cholesky = (header(tmp_path / f"digits/{n}.jsonl") for n in ("adam", "lnb", "lnb-cholesky"))
    assert adam["optimizer_settings"]["learning_rate"] == 0.02
    chosen = {"learning_rate": 0.125, "ridge": 0.7, "clip_norm": None}
    assert {name: boosting["optimizer_settings"][name] for name in chosen} == chosen
    assert (cholesky["optimizer_settings"]["every"], cholesky["optimizer_settings"]["learning_rate"]) == (2, 0.1)
    assert {run["seed"] for run in (adam, boosting, cholesky)} == {3}
    assert adam["task_settings"]["hidden"] == [8, 9]
    assert [record.step for record in ex.read_run(tmp_path / "digits/adam.jsonl").records] == [0, 7, 14, 15]


def test_the_command_in_a_header_repeats_the_run(tmp_path):
    options = ["--optimizers", "adam", "sgd", "--sgd.nesterov", "--sgd.clip-norm", "2.0", "--schedule", "linear"]
    assert lnb("compare", "digits", *SMALL_DIGITS, *options, "--learning-rate", "sgd=0.02", "--output", tmp_path) == 0
    run = ex.read_run(tmp_path / "digits/sgd.jsonl")
    command, *arguments = shlex.split(run.header.command)
    assert command == "lnb"
    assert lnb(*arguments, "--output", tmp_path / "again") == 0
    again = ex.read_run(tmp_path / "again/digits/sgd.jsonl")
    assert again.header.command == run.header.command
    assert list(map(untimed, again.records)) == list(map(untimed, run.records))
    assert run.cost is not None


def test_a_run_stops_at_the_target(tmp_path, capsys):
    options = ["--optimizers", "lnb", "--evaluate-every", "1", "--output", tmp_path]
    assert lnb("compare", "matrix-factorization", *SMALL_MATRIX, *options) == 0
    run = ex.read_run(tmp_path / "matrix-factorization/lnb.jsonl")
    reached = [run.header.target.reached(record.metrics) for record in run.records]
    assert reached == [False] * (len(reached) - 1) + [True]
    assert "target reached" in capsys.readouterr().out


def test_a_diverging_run_does_not_spoil_the_others(tmp_path, capsys):
    options = ["--optimizers", "sgd", "adam", "--learning-rate", "sgd=1e3", "--epochs", "30", "--evaluate-every", "1"]
    assert lnb("compare", "matrix-factorization", *SMALL_MATRIX, *options, "--output", tmp_path) == 0
    assert re.search(r"sgd .*diverged by step \d+", capsys.readouterr().out)
    sgd, adam = (ex.read_run(tmp_path / f"matrix-factorization/{name}.jsonl") for name in ("sgd", "adam"))
    assert not sgd.records[-1].finite
    assert len(sgd.records) < 30
    assert adam.records[-1].step == 30


def test_plot_draws_saved_records_and_says_which_times_compare(tmp_path, capsys):
    for number, optimizer in enumerate(("adam", "lnb")):
        lnb("compare", "digits", *SMALL_DIGITS, "--optimizers", optimizer, "--output", tmp_path / str(number))
        assert "separate comparisons" not in capsys.readouterr().out
    records = [tmp_path / "0/digits/adam.jsonl", tmp_path / "1/digits/lnb.jsonl"]
    assert lnb("plot", *records, "--output", tmp_path / "new/both.png") == 0
    out = capsys.readouterr().out
    assert "separate comparisons" in out
    assert (tmp_path / "new/both.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_prints_the_neurons(capsys):
    assert lnb("inspect", "digits", "--task.hidden", "7") == 0
    out = capsys.readouterr().out
    assert "64+1 -> 7" in out
    assert "2 neurons cover 100.0% of the parameters." in out


def test_scales_have_their_own_defaults(capsys):
    with pytest.raises(SystemExit):
        lnb("compare", "mnist", "--scale", "paper", "--help")
    out = " ".join(capsys.readouterr().out.split())
    assert "(default: paper)" in out
    assert "Passes over the training data. (default: 100)" in out


def test_inspect_takes_a_scale(capsys):
    assert lnb("inspect", "matrix-factorization", *SMALL_MATRIX, "--scale=paper") == 0
    assert "2 neurons cover 100.0% of the parameters." in capsys.readouterr().out


def test_tasks_lists_every_task_on_a_line(capsys):
    assert lnb("tasks") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(ex.TASKS)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["compare", "--help"], ["sweep", "--help"]])
def test_usage_names_every_command(arguments, capsys):
    assert lnb(*arguments) == 0
    out = capsys.readouterr().out
    assert all(f"lnb {command}" in out for command in ("compare", "sweep", "report", "inspect", "tasks", "plot"))


def test_help_of_a_task_lists_its_options(capsys):
    with pytest.raises(SystemExit) as caught:
        lnb("compare", "digits", "--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(option in out for option in ("--optimizers", "--task.batch-size", "--lnb.ridge", "--lnb-cholesky.every"))
    assert "Optimizers to compare." in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "`command` is unknown: 'nope'; known are compare, sweep, report, inspect, tasks, plot."),
        (["compare"], "needs a task first, one of matrix-factorization"),
        (["compare", "nope"], "`task` is unknown: 'nope'"),
        (["compare", "digits", "--scale", "paper"], "`scale` must be one that digits has: cpu; got 'paper'"),
        (["inspect", "digits", "--scale=nope"], "`scale` must be one that digits has: cpu; got 'nope'"),
        (["compare", "digits", "--optimizers", "gauss-newton"], "GaussNewton is for least-squares problems"),
        (["compare", "digits", "--optimizers", "nope"], "unknown optimizer 'nope'"),
        (["compare", "digits", "--optimizers"], "`optimizers` must name at least one"),
        (["compare", "digits", "--muon.momentum", "0.5"], "--muon has options, but `optimizers` does not name it"),
        (["compare", "digits", "--learning-rate", "sgd=1"], "`learning_rate` takes pairs NAME=RATE"),
        (["compare", "digits", "--learning-rate", "adam=x"], "`learning_rate` takes pairs such as adam=3e-3"),
        (["compare", "digits", "--lnb.ridge", "-1"], "`ridge`"),
        (["compare", "digits", "--lnb.steps", "0"], "`steps`"),
        (["compare", "digits", "--epochs", "0"], "`epochs`"),
        (["compare", "digits", "--checkpoint-every", "0"], "`checkpoint_every` must be at least 1, got 0"),
        (["compare", "digits", "--task.batch-size", "0"], "`batch_size`"),
        (["compare", "digits", "--output", "/dev/null/here"], "`output` cannot be written"),
        (["compare", "digits", "--checkpoint-every", "5", "--output", "/dev/null/here"], "`output` cannot be written"),
        (["plot", "/dev/null"], "`records` must be files that `lnb compare` wrote"),
        (["plot", "/nowhere.jsonl"], "`records` cannot be read"),
    ],
)
def test_errors_are_one_line_and_exit_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert lnb(*arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not list(tmp_path.iterdir())  # nothing was begun
