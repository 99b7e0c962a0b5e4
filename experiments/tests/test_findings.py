"""Numbers and verdicts from made-up runs, computed by hand."""

import dataclasses
import math

import pytest
from made_runs import made_run

import lnb_experiments as ex
from lnb_experiments.report._tables import glance_table


def experiment(*runs, timings=()):
    (only,), _ = ex.experiments_of(runs, (*runs, *timings))
    return only


def tuned(optimizer, ends, **options):
    """Runs of one rate with a seed for each of the ends; the loss halves the way at the second record."""
    return [
        made_run(optimizer, seed=seed, losses=(2.0, (2.0 + end) / 2, end), **options) for seed, end in enumerate(ends)
    ]


def test_spread_is_of_the_seeds_at_the_picked_rate():
    runs = [
        made_run(rate=0.1, seed=0, losses=(2.0, 0.1, 0.9)),
        *tuned("adamw", (0.4, 0.5, 0.9), rate=0.2),
        made_run(rate=0.3, seed=0, losses=(2.0, 0.1, math.nan)),
    ]
    (entry,) = experiment(*runs).entries
    assert entry.choice == ex.Choice(0.2, None)
    assert [run.rate for run in entry.grid] == [0.1, 0.2, 0.3]
    assert entry.at_end("validation_loss") == (0.4, 0.5, 0.9)
    assert entry.mean_at_end("validation_loss") == pytest.approx(0.6)


def test_the_seed_with_most_rates_picks():
    runs = [made_run(rate=0.1, seed=5), made_run(rate=0.2, seed=5, losses=(2.0, 1.0, 0.4)), made_run(rate=0.2, seed=1)]
    (entry,) = experiment(*runs).entries
    assert entry.choice.rate == 0.2
    assert [run.header.seed for run in entry.runs] == [1, 5]


def test_diverged_seeds_are_counted_and_not_averaged():
    runs = [made_run(losses=(2.0, 1.0, 0.5)), made_run(seed=1, losses=(2.0, 1.0, math.nan))]
    (entry,) = experiment(*runs).entries
    assert entry.diverged == 1
    assert entry.at_end("training_loss") == (0.5,)
    time = entry.time_to(ex.Target("training_loss", 0.5, at_least=False))
    assert time is not None
    assert (time.reached, time.count, time.by_all) == (1, 2, False)


def test_steps_to_the_baselines_end():
    # AdamW ends at 0.5 and 0.7, 0.6 on average, which its second seed never has.
    comparison = experiment(*tuned("adamw", (0.5, 0.7)), made_run("lnb", losses=(2.0, 0.6, 0.3), milliseconds=20.0))
    adamw, lnb = comparison.entries
    assert comparison.baseline is adamw
    ours, theirs = (entry.time_to_end_of(adamw, "validation_loss") for entry in (lnb, adamw))
    assert ours is not None
    assert (ours.steps, ours.epochs, ours.seconds) == (10, 1, pytest.approx(0.2))
    assert theirs is not None
    assert (theirs.steps, theirs.reached) == (20, 1)
    better = lnb.time_to_end_of(adamw, "accuracy", at_least=True)
    assert better is not None
    assert better.steps == 20


def outcomes(*runs):
    return dict(glance_table([experiment(*runs)]).frame[["solver", "outcome"]].itertuples(index=False))


@pytest.mark.parametrize(
    ("losses", "milliseconds", "outcome"),
    [
        ((2.0, 0.4, 0.3), 12.0, "wins"),
        ((2.0, 0.4, 0.3), 25.0, "fewer steps"),
        ((2.0, 1.0, 0.4), 5.0, "loses"),
        ((2.0, 1.0, 0.9), 5.0, "loses"),
        ((2.0, math.nan, math.nan), 5.0, "loses"),
    ],
)
def test_the_table_says_who_wins(losses, milliseconds, outcome):
    assert outcomes(made_run(), made_run("lnb", losses=losses, milliseconds=milliseconds)) == {"LNB": outcome}


def test_a_win_with_one_seed_of_two_is_none():
    runs = [made_run("lnb", losses=(2.0, 0.4, 0.3)), made_run("lnb", seed=1, losses=(2.0, 1.0, 0.9))]
    assert outcomes(made_run(), *runs) == {"LNB": "loses"}


def test_a_baseline_that_passes_its_own_end_on_the_way_is_not_counted_as_slow():
    overfits = made_run(losses=(2.0, 1.0, 0.5), validation=(2.0, 0.4, 0.5))
    assert outcomes(overfits, made_run("lnb", losses=(2.0, 0.4, 0.3))) == {"LNB": "loses"}


@pytest.mark.parametrize("only", ["adamw", "lnb"])
def test_one_side_alone_is_not_compared(only):
    assert glance_table([experiment(made_run(only))]).frame.empty


def test_ratios_are_of_runs_that_took_turns_where_there_are_any():
    runs = [made_run(milliseconds=10.0), made_run("lnb", milliseconds=40.0)]
    comparison = experiment(*runs)
    adamw, lnb = comparison.entries
    ratio = comparison.step_ratio(lnb, adamw)
    assert ratio is not None
    assert (ratio.value, ratio.interleaved) == (4, False)
    turns = [
        made_run(milliseconds=8.0, comparison="a", rate=9),
        made_run("lnb", milliseconds=12.0, comparison="a", rate=9),
    ]
    together = experiment(*runs, timings=turns)
    ratio = together.step_ratio(together.entries[1], together.entries[0])
    assert ratio is not None
    assert (ratio.value, ratio.interleaved) == (1.5, True)
    # Its share of time is then that ratio times its share of steps, whatever the seconds.
    share = together.time_share(
        together.entries[1], ex.TimeToTarget(10, 1, 99.0, 1, 1), together.entries[0], adamw.full_length()
    )
    assert share == 0.75
    # Another configuration of the solver tells nothing about this one.
    other = dataclasses.replace(turns[1].header, optimizer_settings={"learning_rate": 9, "ridge": 2.0})
    apart = experiment(*runs, timings=(turns[0], dataclasses.replace(turns[1], header=other)))
    ratio = apart.step_ratio(apart.entries[1], apart.entries[0])
    assert ratio is not None
    assert not ratio.interleaved


def test_all_runs_are_on_the_clock_of_those_that_took_turns():
    runs = [made_run(milliseconds=10.0), made_run("lnb", milliseconds=40.0), made_run("muon", milliseconds=30.0)]
    turns = [
        made_run(milliseconds=8.0, comparison="a", rate=9),
        made_run("lnb", milliseconds=12.0, comparison="a", rate=9),
    ]

    def ends(timings):
        entries = experiment(*runs, timings=timings).entries
        return {e.optimizer: (e.runs[0].records[-1].seconds, e.milliseconds()) for e in entries}

    # Muon did not take part, and one run alone is no clock.
    own = {"adamw": (0.2, 10), "lnb": (0.8, 40), "muon": (0.6, 30)}
    assert ends(turns) == {"adamw": (0.16, 8), "lnb": (0.24, 12), "muon": own["muon"]}
    assert ends(turns[:1]) == own
    slower = [
        made_run("lnb", milliseconds=24.0, comparison="b", rate=9),
        made_run("muon", milliseconds=96.0, comparison="b", rate=9),
    ]
    brought = {"adamw": (0.16, 8), "lnb": (0.24, 12), "muon": (0.96, 48)}
    assert ends(turns + slower) == brought


def test_short_comparisons_are_for_timings():
    swept = [made_run(rate=rate, seed=0, losses=(2.0, 1.0, 1 - rate)) for rate in (0.1, 0.2)]
    short = made_run("lnb", epochs=1, losses=(2.0, 1.0), accuracies=(0.1, 0.2))
    shown, timed = ex.experiments_of([*swept, short], [*swept, short])
    assert [e.epochs for e in shown] == [2]
    assert [e.epochs for e in timed] == [1]
    assert ex.experiments_of([short], [short])[0][0].epochs == 1


def test_configurations_of_one_optimizer_are_told_apart():
    other = {"learning_rate": 0.1, "ridge": 5.0}
    comparison = experiment(made_run("lnb"), made_run("lnb", optimizer_settings=other), made_run())
    assert [entry.label for entry in comparison.entries] == ["AdamW", "LNB, ridge 1.0", "LNB, ridge 5.0"]


def verdict(number, *runs):
    shown, _ = ex.experiments_of(runs, runs)
    return ex.paper_figures(shown)[number - 1]


def test_figure_1():
    def run(optimizer, losses):
        return made_run(optimizer, "matrix-factorization", losses=losses, accuracies=(), epochs=len(losses) - 1)

    adam = run("adam", (1.0, 1e-2, 1e-3, 1e-7))
    figure = verdict(1, adam, run("lnb-paper", (1.0, 1e-7)), run("lnb", (1.0, 1e-5)))
    assert figure.outcome == "not run"  # the lengths differ
    figure = verdict(1, adam, run("lnb-paper", (1.0, 1e-7, 1e-8, 1e-9)), run("lnb", (1.0, 1e-5, 1e-5, 1e-5)))
    assert {one.optimizer: one.outcome for one in figure.judgements} == {
        "lnb-paper": "reproduced",
        "lnb": "not reproduced",
    }
    assert figure.outcome == "reproduced"
    assert figure.judgements[1].criteria[0].measured == "10 (1 of 1 seed), Adam 30 (1 of 1 seed)"
    slow = verdict(1, run("adam", (1.0, 1e-7, 1e-7, 1e-7)), run("lnb-paper", (1.0, 1e-2, 1e-7, 1e-9)))
    assert slow.outcome == "not reproduced"
    never = verdict(1, run("adam", (1.0, 1e-2, 1e-3)), run("lnb-paper", (1.0, 1e-7, 1e-8)))
    assert never.judgements[0].criteria[0].measured == "10 (1 of 1 seed), Adam never in 20"


@pytest.mark.parametrize(
    ("plain", "inverted", "outcome"),
    [
        ((0.980, 0.984), (0.978, 0.960), "reproduced"),
        ((0.980, 0.985), (0.977, 0.974), "reproduced"),  # both at their limits
        ((0.980, 0.986), (0.978, 0.960), "partly"),
        ((0.980, 0.984), (0.976, 0.960), "partly"),
        ((0.980, 0.984), (0.978, 0.974), "partly"),
        ((0.980, 0.990), (0.970, 0.960), "not reproduced"),
        ((0.980, 0.984), (), "partly"),
    ],
)
def test_figure_2(plain, inverted, outcome):
    runs = [
        made_run(optimizer, task, accuracies=(0.1, 0.5, accuracy))
        for task, accuracies in (("mnist", plain), ("mnist-inverted", inverted))
        for optimizer, accuracy in zip(("lnb-paper", "adam"), accuracies, strict=False)
    ]
    assert verdict(2, *runs).outcome == outcome


@pytest.fixture
def with_network_tasks(monkeypatch):
    """The tasks of Figures 2 to 4, which are judged by their names and metrics alone."""
    names = ("mnist-deep", "mnist-deep-inverted", "vit-cifar10", "unet-voc")
    named = {name: dataclasses.replace(ex.find_task("digits"), name=name) for name in names}
    tasks = {**ex.TASKS, **named}
    monkeypatch.setattr("lnb_experiments.tasks._tasks.TASKS", tasks)
    monkeypatch.setattr("lnb_experiments.analysis._findings.TASKS", tasks)


@pytest.mark.usefixtures("with_network_tasks")
def test_depths_of_figure_2_are_judged_together():
    def runs(task, hidden, inverted_adam):
        accuracies = {(task, "lnb-paper"): 0.98, (task, "adam"): 0.98}
        accuracies |= {(f"{task}-inverted", "lnb-paper"): 0.98, (f"{task}-inverted", "adam"): inverted_adam}
        return [
            made_run(optimizer, name, accuracies=(0.1, 0.5, end), task_settings={"hidden": hidden})
            for (name, optimizer), end in accuracies.items()
        ]

    assert verdict(2, *runs("mnist", [8], 0.9), *runs("mnist", [8, 8], 0.9)).outcome == "reproduced"
    assert verdict(2, *runs("mnist", [8], 0.9), *runs("mnist-deep", [8, 8], 0.9)).outcome == "reproduced"
    figure = verdict(2, *runs("mnist", [8], 0.9), *runs("mnist-deep", [8, 8], 0.98))
    assert figure.outcome == "partly"
    assert [criterion.holds for criterion in figure.judgements[0].criteria] == [True, True, True, False]
    assert figure.judgements[0].criteria[3].claimed.startswith("hidden layers 8-8: inverted pixels")


@pytest.mark.usefixtures("with_network_tasks")
@pytest.mark.parametrize(
    ("losses", "accuracy", "outcome"),
    [
        ((2.0, 0.4, 0.3), 0.9, "reproduced"),
        ((2.0, 0.4, 0.3), 0.8, "partly"),
        ((2.0, 1.0, 0.5), 0.9, "partly"),
        ((2.0, 1.0, 0.9), 0.8, "not reproduced"),
    ],
)
def test_figure_3(losses, accuracy, outcome):
    lnb = made_run("lnb-paper", "vit-cifar10", losses=losses, accuracies=(0.1, 0.5, accuracy), milliseconds=13.0)
    figure = verdict(3, made_run(task="vit-cifar10"), lnb)
    assert figure.outcome == outcome
    assert figure.judgements[0].criteria[-1] == ex.Criterion(
        "a step takes 1.48 times Adam's", "1.3 times, from runs that did not take turns", None
    )


@pytest.mark.usefixtures("with_network_tasks")
@pytest.mark.parametrize(
    ("losses", "validation", "accuracies", "holds"),
    [
        ((2.0, 0.4, 0.3), (2.0, 0.6, 0.5), (0.1, 0.9, 0.9), [True, True, True]),
        ((2.0, 0.6, 0.3), (2.0, 0.6, 0.6), (0.1, 0.8, 0.9), [False, False, False]),
        ((2.0, 0.4, 0.3), (2.0, 0.6, 0.6), (0.1, 0.8, 0.8), [True, False, False]),
    ],
)
def test_figure_4(losses, validation, accuracies, holds):
    lnb = made_run("lnb-paper", "unet-voc", losses=losses, validation=validation, accuracies=accuracies)
    figure = verdict(4, made_run(task="unet-voc"), lnb)
    assert [criterion.holds for criterion in figure.judgements[0].criteria[:3]] == holds
