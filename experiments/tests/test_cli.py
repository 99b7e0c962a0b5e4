"""Each command, on a setting small enough to watch."""

import json
import re
import shlex

import pytest
from test_experiments import untimed

import lnb_experiments as ex
from lnb_experiments import cli

pytestmark = pytest.mark.usefixtures("standard_promotion")

SMALL_DIGITS = ["--task.hidden", "8", "--epochs", "1"]
SMALL_MATRIX = ["--task.samples", "50", "--task.inputs", "6", "--task.hidden", "6", "--task.outputs", "8"]


def lnb(*arguments):
    return cli.main([str(argument) for argument in arguments])


def exit_of(*arguments):
    """The exit status, whether tyro ends the process or `main` returns."""
    try:
        return lnb(*arguments)
    except SystemExit as caught:
        return caught.code


def header(path):
    return json.loads(path.read_text().splitlines()[0])


def test_compare_leaves_table_records_and_plot(tmp_path, capsys):
    assert lnb("compare", "digits", *SMALL_DIGITS, "--output", tmp_path) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "digits"
    assert sorted(path.name for path in folder.glob("[!.]*")) == [
        "adam.jsonl",
        "comparison.png",
        "lnb-paper.jsonl",
        "lnb.jsonl",
    ]
    for column in ("final loss", "test accuracy", "steps to target", "seconds to target", "ms/step", "ratio to adam"):
        assert column in out
    assert all(column in out for column in ("compile s", "step MB", "Peak resident memory of the process"))
    assert str(folder / "comparison.png") in out.splitlines()[-1]
    assert "\x1b" not in out  # no bars or colours where nobody watches
    runs = {path.stem: ex.read_run(path) for path in sorted(folder.glob("*.jsonl"))}
    assert len({run.records[0].loss for run in runs.values()}) == 1
    assert len({run.header.comparison for run in runs.values()}) == 1
    assert all(run.records[-1].step == 15 for run in runs.values())
    solvers = {name: run.header.optimizer_settings.get("solver", {}).get("kind") for name, run in runs.items()}
    assert solvers == {"adam": None, "lnb": "Auto", "lnb-paper": "CG"}


def test_every_hyper_parameter_can_be_set(tmp_path):
    options = ["--optimizers", "adam", "lnb-paper", "lnb-cholesky", "--lnb-paper.solver.ridge", "0.7"]
    options += ["--adam.learning-rate", "0.02", "--lnb-paper.clip-norm", "None", "--seed", "3"]
    options += [
        "--lnb-cholesky.solver.update-period",
        "2",
        "--lnb-cholesky.learning-rate",
        "1e-1",
        "--evaluate-every",
        "7",
    ]
    assert lnb("compare", "digits", *SMALL_DIGITS, "--task.hidden", "8", "9", *options, "--output", tmp_path) == 0
    adam, paper, cholesky = (header(tmp_path / f"digits/{n}.jsonl") for n in ("adam", "lnb-paper", "lnb-cholesky"))
    assert adam["optimizer_settings"]["learning_rate"] == 0.02
    assert paper["optimizer_settings"]["clip_norm"] is None
    assert paper["optimizer_settings"]["solver"]["ridge"] == 0.7
    assert cholesky["optimizer_settings"]["solver"]["update_period"] == 2
    assert cholesky["optimizer_settings"]["learning_rate"] == 0.1
    assert {run["seed"] for run in (adam, paper, cholesky)} == {3}
    assert adam["task_settings"]["hidden"] == [8, 9]
    assert [record.step for record in ex.read_run(tmp_path / "digits/adam.jsonl").records] == [0, 7, 14, 15]


def test_the_command_in_a_header_repeats_the_run(tmp_path):
    options = ["--optimizers", "sgd", "lnb-paper", "--sgd.nesterov", "--sgd.clip-norm", "2.0", "--schedule", "linear"]
    options += ["--sgd.learning-rate", "0.02", "--lnb-paper.solver.shrinkage", "0.2"]
    assert lnb("compare", "digits", *SMALL_DIGITS, *options, "--output", tmp_path) == 0
    for name in ("sgd", "lnb-paper"):
        run = ex.read_run(tmp_path / f"digits/{name}.jsonl")
        command, *arguments = shlex.split(run.header.command)
        assert command == "lnb"
        assert lnb(*arguments, "--output", tmp_path / "again") == 0
        again = ex.read_run(tmp_path / f"again/digits/{name}.jsonl")
        assert again.header.command == run.header.command
        assert list(map(untimed, again.records)) == list(map(untimed, run.records))


def test_a_run_stops_at_the_target(tmp_path, capsys):
    options = ["--optimizers", "lnb", "--evaluate-every", "1", "--output", tmp_path]
    assert lnb("compare", "matrix-factorization", *SMALL_MATRIX, *options) == 0
    run = ex.read_run(tmp_path / "matrix-factorization/lnb.jsonl")
    reached = [run.header.target.reached(record.metrics) for record in run.records]
    assert reached == [False] * (len(reached) - 1) + [True]
    assert "target reached" in capsys.readouterr().out


def test_a_diverging_run_does_not_spoil_the_others(tmp_path, capsys):
    options = ["--optimizers", "sgd", "adam", "--sgd.learning-rate", "1e3", "--epochs", "30", "--evaluate-every", "1"]
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


def test_the_scale_of_the_paper_is_a_task_of_its_own_with_its_defaults(tmp_path, capsys):
    with pytest.raises(SystemExit):
        lnb("compare", "mnist-paper", "--help")
    assert "Passes over the training data. (default: 100)" in " ".join(capsys.readouterr().out.split())
    name, *options = "matrix-factorization-paper", *SMALL_MATRIX, "--optimizers", "sgd", "--epochs", "2"
    assert lnb("compare", name, *options, "--output", tmp_path) == 0
    run = ex.read_run(tmp_path / "matrix-factorization/sgd.jsonl")
    assert (run.header.task, run.header.scale) == ("matrix-factorization", "paper")
    assert run.header.command.startswith("lnb compare matrix-factorization-paper --optimizers sgd --epochs 2")


def test_tasks_lists_every_task_on_a_line(capsys):
    assert lnb("tasks") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(ex.TASKS)


def test_help_lists_the_commands_and_the_tasks(capsys):
    with pytest.raises(SystemExit) as caught:
        lnb("--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("compare", "sweep", "inspect", "tasks", "plot", "pack", "report"))
    with pytest.raises(SystemExit):
        lnb("sweep", "--help")
    out = capsys.readouterr().out
    assert all(task in out for task in ex.TASKS)


def test_help_of_a_task_lists_its_options(capsys):
    with pytest.raises(SystemExit) as caught:
        lnb("compare", "digits", "--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for option in ("--optimizers", "--task.batch-size", "--lnb.solver.ridge", "--lnb-paper.solver.steps", "--seed"):
        assert option in out
    assert "Optimizers to compare." in out


@pytest.mark.parametrize(
    "arguments",
    [[], ["nope"], ["compare"], ["compare", "nope"], ["compare", "digits-paper"], ["compare", "digits", "--nope", "1"]],
)
def test_words_that_are_no_command_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        lnb(*arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "digits", "--optimizers", "gauss-newton"], "GaussNewton is for least-squares problems"),
        (["compare", "digits", "--optimizers", "nope"], "unknown optimizer 'nope'"),
        (["compare", "digits", "--optimizers"], "`optimizers` must name at least one"),
        (
            ["compare", "digits", "--muon.momentum", "0.5"],
            "--muon has options, but the optimizers of this command are: adam",
        ),
        (["compare", "digits", "--seed", "-5"], "`seed` must be from 0 to 4294967295, got -5"),
        (["sweep", "digits", "--optimizer", "adam", "--seeds", "-5"], "`seed` must be from 0 to 4294967295, got -5"),
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
    assert not list(tmp_path.rglob("*.jsonl"))  # nothing was begun


@pytest.mark.parametrize("option", [("--lnb-paper.solver.ridge", "-1"), ("--lnb-paper.solver.steps", "0")])
def test_a_setting_that_a_solver_refuses_exits_2(option, capsys):
    assert exit_of("compare", "digits", *option) == 2
    err = capsys.readouterr().err
    assert option[0].rpartition(".")[2] in err
    assert "Traceback" not in err


def test_a_second_command_in_one_folder_is_refused_in_a_sentence(tmp_path, capsys):
    options = [*SMALL_DIGITS, "--output", tmp_path]
    for command, folder in (
        (["compare", "digits", "--optimizers", "adam"], "digits"),
        (["sweep", "digits", "--optimizer", "adam", "--seeds", "0"], "digits/constant/adam"),
    ):
        with ex.locked(tmp_path / folder):
            assert lnb(*command, *options) == 2
            out, err = capsys.readouterr()
            assert err == f"lnb: `output` is in use: another process writes its runs to {tmp_path / folder}.\n"
            assert out == ""
            assert not list(tmp_path.rglob("*.jsonl"))
    assert lnb(*command, *options) == 0  # the lock is gone
    assert lnb(*command, *options) == 0  # and does not stay


def test_check_default_prints_a_line_for_each_task(tmp_path, capsys):
    assert lnb("check-default", "--tasks", "digits", "--output", tmp_path) == 0
    *_, line = capsys.readouterr().out.splitlines()
    runs = {name: ex.read_run(tmp_path / f"digits/{name}.jsonl") for name in ("adamw", "lnb")}
    ends = {name: run.records[-1].metrics["validation_loss"] for name, run in runs.items()}
    pattern = r"digits +validation loss +adamw (\S+) +lnb (\S+) +lnb / adamw (\S+)"
    found = re.fullmatch(pattern, line.strip())
    assert found is not None
    assert list(map(float, found.groups())) == pytest.approx([*ends.values(), ends["lnb"] / ends["adamw"]], rel=1e-2)
    assert runs["lnb"].header.optimizer_settings == ex.settings_of(ex.LNB())
    assert exit_of("check-default", "--tasks", "nope", "--output", tmp_path) == 2
