"""Which learning rate a sweep picks, what it runs and what it does not run again."""

import dataclasses
import json
import math

import pytest
from made_runs import made_run, write

import lnb_experiments as ex
from lnb_experiments import cli
from lnb_experiments.cli import _options
from lnb_experiments.runs._sweep import GRIDS, TASK_GRIDS, rate_beyond

SMALL = ["--task.hidden", "8", "--epochs", "1"]


def lnb(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_the_rate_is_picked_at_the_end_and_not_at_the_best_moment():
    dips = made_run(losses=(2.0, 0.01, 0.9))
    steady = made_run(losses=(2.0, 1.0, 0.5))
    ends = {0.1: ex.end_value(dips, "validation_loss"), 0.2: ex.end_value(steady, "validation_loss")}
    assert ends == {0.1: 0.9, 0.2: 0.5}
    assert ex.choose_rate(ends).rate == 0.2


@pytest.mark.parametrize(
    "run",
    [
        made_run(losses=(2.0, 0.1, math.nan), validation=(2.0, 0.1, 0.1)),
        made_run(losses=(2.0, 0.1, 0.1), validation=(2.0, 0.1, math.nan)),
        made_run(losses=(2.0, 0.1, math.inf), validation=(2.0, 0.1, math.inf)),
    ],
)
def test_what_diverged_loses(run):
    assert ex.choose_rate({0.1: ex.end_value(run, "validation_loss"), 0.2: 1e9, 0.3: 1e8}) == ex.Choice(0.3, "highest")


@pytest.mark.parametrize(
    ("ends", "rate", "edge"),
    [
        ({0.1: 2.0, 0.2: 1.0, 0.5: 3.0}, 0.2, None),
        ({0.1: 1.0, 0.2: 2.0, 0.5: 3.0}, 0.1, "lowest"),
        ({0.5: 1.0, 0.2: 2.0, 0.1: 3.0}, 0.5, "highest"),
        ({0.1: 1.0, 0.2: 1.0}, 0.1, "lowest"),
        ({0.1: 1.0}, 0.1, None),
        ({0.1: math.inf, 0.2: math.inf}, None, "lowest"),
    ],
)
def test_the_best_may_be_at_an_edge(ends, rate, edge):
    assert ex.choose_rate(ends) == ex.Choice(rate, edge)


def test_every_optimizer_has_a_grid_of_four():
    assert {len(grid) for grids in (GRIDS, *TASK_GRIDS.values()) for grid in grids.values()} == {4}
    assert set(ex.OPTIMIZERS) <= set(GRIDS)
    assert ex.grid_of("matrix-factorization", "adam") != ex.grid_of("digits", "adam")
    with pytest.raises(ex.ExperimentError, match="`rates` must be given for 'nope'"):
        ex.grid_of("digits", "nope")


@pytest.mark.parametrize("grid", [*GRIDS.values(), (0.1, 0.2)])
def test_a_grid_goes_on_past_its_edges(grid):
    assert rate_beyond(grid, "highest") > max(grid)
    assert rate_beyond(grid, "lowest") < min(grid)
    assert rate_beyond((0.05, 0.1, 0.2, 0.5), "highest") == 1.0


def swept(ends, **options):
    """The rates and seeds that a sweep runs where `ends` tells each rate's end."""
    return [
        (run.header.optimizer_settings["learning_rate"], run.header.seed)
        for run in ex.sweep(
            lambda rate, seed: made_run(rate=rate, seed=seed, losses=(2.0, 1.0, ends(rate))),
            "validation_loss",
            **options,
        )
    ]


def test_one_seed_picks_the_rate_and_the_others_repeat_it():
    assert swept(lambda rate: abs(rate - 0.2), rates=(0.5, 0.1, 0.2), seeds=(3, 1)) == [
        (0.1, 3),
        (0.2, 3),
        (0.5, 3),
        (0.2, 1),
    ]


def test_a_grid_is_extended_by_at_most_two_rates():
    options = {"rates": (0.05, 0.1, 0.2, 0.5), "seeds": (0, 1), "extend": True}
    assert swept(lambda rate: abs(rate - 1.0), **options)[4:] == [(1.0, 0), (2.5, 0), (1.0, 1)]
    assert swept(lambda rate: 1 / rate, **options)[4:] == [(1.0, 0), (2.5, 0), (2.5, 1)]
    assert swept(lambda rate: abs(rate - 0.1), **options)[4:] == [(0.1, 1)]
    assert swept(lambda rate: math.inf, **options)[4:] == [(0.025, 0), (0.013, 0)]  # nothing is picked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": (), "seeds": (0,)}, "`rates` must be at least one"),
        ({"rates": (0.1, 0.1), "seeds": (0,)}, "`rates` must be at least one, and none twice"),
        ({"rates": (0.1,), "seeds": ()}, "`seeds` must be at least one"),
        ({"rates": (0.1, -1.0), "seeds": (0,)}, "`rates` must be positive"),
        ({"rates": (0.1,), "seeds": (0,), "extend": True}, "`extend` needs at least two `rates`"),
    ],
)
def test_bad_requests_say_what_is_wrong(options, message):
    with pytest.raises(ex.ExperimentError, match=message):
        ex.sweep(lambda rate, seed: made_run(), "validation_loss", **options)


def test_a_metric_that_is_not_there_is_told():
    with pytest.raises(ex.ExperimentError, match="no metric 'loss', but validation_loss, accuracy"):
        ex.end_value(made_run(), "loss")


@pytest.mark.usefixtures("standard_promotion")
def test_a_sweep_leaves_whole_runs_and_does_not_repeat_them(tmp_path, capsys, monkeypatch):
    options = ["sweep", "digits", "--optimizer", "lnb", *SMALL, "--rates", "0.1", "0.2", "--seeds", "0", "1"]
    options += ["--lnb.solver.rank", "7", "--schedule", "linear", "--output", tmp_path]
    assert lnb(*options) == 0
    out = capsys.readouterr().out
    paths = sorted((tmp_path / "digits/linear/lnb").glob("rate*"))
    runs = [ex.read_run(path) for path in paths]
    assert [path.name for path in paths if "rate=0.1" in path.name or "seed=0" in path.name]
    assert len(paths) == 3
    assert all(path.suffix == ".jsonl" for path in paths)
    assert all(ex.has_ended(run) and run.cost is not None for run in runs)
    assert {run.header.optimizer_settings["solver"]["rank"] for run in runs} == {7}
    assert {run.header.schedule for run in runs} == {"linear"}
    assert all(run.header.command.startswith("lnb compare digits --optimizers lnb") for run in runs)
    assert out.count("picked") == 2
    assert "The best is at the edge of the grid" in out

    before = {path: path.read_bytes() for path in paths}
    monkeypatch.setattr(_options, "train", lambda *_, **__: pytest.fail("a run was run again"))
    assert lnb(*options) == 0
    assert {path: path.read_bytes() for path in paths} == before
    assert capsys.readouterr().out.count("there before") == 3


@pytest.mark.usefixtures("standard_promotion")
def test_only_what_is_not_whole_is_run_again(tmp_path, capsys):
    options = ["sweep", "digits", "--optimizer", "adam", *SMALL, "--rates", "0.1", "--output", tmp_path]
    assert lnb(*options) == 0
    folder = tmp_path / "digits/constant/adam"
    cut = folder / "rate=0.1,seed=1.jsonl"
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:2]))
    (folder / "rate=0.1,seed=2.jsonl").rename(folder / "rate=0.1,seed=2.jsonl.part")  # as a killed sweep leaves it
    capsys.readouterr()
    assert lnb(*options) == 0
    assert capsys.readouterr().out.count("there before") == 1
    assert sorted(path.name for path in folder.glob("rate*")) == [f"rate=0.1,seed={seed}.jsonl" for seed in range(3)]
    assert all(ex.has_ended(ex.read_run(path)) for path in folder.glob("rate*"))


@pytest.mark.usefixtures("standard_promotion")
def test_runs_with_other_settings_are_not_taken_for_the_same(tmp_path, capsys):
    options = ["sweep", "digits", "--optimizer", "adam", *SMALL, "--rates", "0.1", "--seeds", "0", "--output", tmp_path]
    assert lnb(*options) == 0
    assert lnb(*options, "--epochs", "2") == 2
    assert "`epochs` was 1, now it is 2" in capsys.readouterr().err
    assert lnb(*options, "--adam.mean-decay", "0.5") == 2
    assert "`adam.mean_decay` was 0.9, now it is 0.5" in capsys.readouterr().err


@pytest.mark.usefixtures("standard_promotion")
def test_a_sweep_in_which_all_diverge_picks_nothing(tmp_path, capsys):
    sizes = ["--task.samples", "50", "--task.inputs", "6", "--task.hidden", "6", "--task.outputs", "8"]
    options = ["--optimizer", "sgd", "--rates", "1e3", "1e4", "--epochs", "30", "--evaluate-every", "5"]
    assert lnb("sweep", "matrix-factorization", *sizes, *options, "--output", tmp_path) == 0
    out = capsys.readouterr().out
    assert "No rate is picked: every run diverged." in out
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2


def test_has_ended(tmp_path):
    whole = made_run()
    assert ex.has_ended(ex.read_run(write(whole, tmp_path / "whole.jsonl")))
    assert ex.has_ended(made_run(losses=(2.0, math.nan), accuracies=(0.1, 0.1)))
    assert not ex.has_ended(dataclasses.replace(whole, records=whole.records[:2]))
    assert not ex.has_ended(dataclasses.replace(whole, records=()))
    # A task whose runs stop at their target ends there too.
    assert ex.has_ended(made_run(task="matrix-factorization", losses=(1.0, 1e-7), accuracies=()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "digits", "--optimizer", "nope"], "unknown optimizer 'nope'"),
        (
            ["sweep", "digits", "--optimizer", "adam", "--lnb.solver.ridge", "2"],
            "--lnb has options, but the optimizers of this command are: adam.",
        ),
        (["sweep", "digits", "--optimizer", "adam", "--adam.learning-rate", "2"], "is what a sweep varies"),
        (["sweep", "digits", "--optimizer", "adam", "--rates", "0"], "`rates` must be positive"),
        (["sweep", "digits", "--optimizer", "adam", "--seeds"], "`seeds` must be at least one"),
    ],
)
def test_errors_are_one_line_and_exit_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert lnb(*arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_run_is_told(tmp_path):
    path = tmp_path / "rate=0.1,seed=0.jsonl"
    path.write_text(json.dumps({"no": "run"}))
    with pytest.raises(ex.ExperimentError, match="`records` must be files"):
        ex.finish_run(path, made_run().header, lambda: pytest.fail("a run was begun"))
