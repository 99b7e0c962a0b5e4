"""Numbers, verdicts and sentences from made-up runs, computed by hand."""

import dataclasses
import math

import pytest
from made_runs import made_run

import lnb_experiments as ex


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
    assert [(point.rate, point.end) for point in entry.grid] == [(0.1, 0.9), (0.2, 0.4), (0.3, math.inf)]
    end = entry.metric_at_end("validation_loss")
    assert end is not None
    assert (end.mean, end.count) == (pytest.approx(0.6), 3)
    assert end.deviation == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))


def test_the_seed_with_most_rates_picks():
    runs = [made_run(rate=0.1, seed=5), made_run(rate=0.2, seed=5, losses=(2.0, 1.0, 0.4)), made_run(rate=0.2, seed=1)]
    (entry,) = experiment(*runs).entries
    assert entry.choice.rate == 0.2
    assert [run.header.seed for run in entry.runs] == [1, 5]


def test_diverged_seeds_are_counted_and_not_averaged():
    runs = [made_run(losses=(2.0, 1.0, 0.5)), made_run(seed=1, losses=(2.0, 1.0, math.nan))]
    (entry,) = experiment(*runs).entries
    assert entry.diverged == 1
    assert entry.metric_at_end("validation_loss") == ex.Spread(0.5, None, 1)
    reach = entry.first_with(lambda record: record.loss <= 0.5)
    assert reach is not None
    assert (reach.reached, reach.count, reach.by_all) == (1, 2, False)


def test_steps_to_the_baselines_end():
    # AdamW ends at 0.5 and 0.7, 0.6 on average, which its second seed never has.
    comparison = experiment(*tuned("adamw", (0.5, 0.7)), made_run("lnb", losses=(2.0, 0.6, 0.3), milliseconds=20.0))
    adamw, lnb = comparison.entries
    assert comparison.baseline is adamw
    ours, theirs = ex.reach_of_baseline(comparison, lnb), ex.reach_of_baseline(comparison, adamw)
    assert ours is not None
    assert (ours.steps, ours.epochs, ours.seconds) == (10, 1, pytest.approx(0.2))
    assert theirs is not None
    assert (theirs.steps, theirs.reached) == (20, 1)
    (sentence,) = ex.sentences_of([comparison])
    assert sentence.kind == "fewer steps"  # 0.2 s is all that AdamW takes
    assert "LNB (CG) reaches tuned AdamW's final validation loss (0.6) in 50 % of its steps and 100 %" in sentence.text


@pytest.mark.parametrize(
    ("losses", "milliseconds", "kind", "part"),
    [
        ((2.0, 0.4, 0.3), 12.0, "wins", "in 50 % of its steps and 60 % of its time; it ends at 0.3"),
        ((2.0, 0.4, 0.3), 25.0, "fewer steps", "50 % of its steps and 125 % of its time"),
        ((2.0, 1.0, 0.4), 5.0, "loses", "in 100 % of its steps and 50 % of its time"),
        ((2.0, 1.0, 0.9), 5.0, "loses", "does not reach tuned AdamW's final validation loss (0.5); it ends at 0.9"),
        ((2.0, math.nan, math.nan), 5.0, "loses", "(0.5): every run diverged."),
    ],
)
def test_sentences_say_who_wins(losses, milliseconds, kind, part):
    (sentence,) = ex.sentences_of(
        [experiment(made_run(), made_run("lnb-auto", losses=losses, milliseconds=milliseconds))]
    )
    assert sentence.kind == kind
    assert part in sentence.text


def test_a_baseline_that_passes_its_own_end_on_the_way_is_not_counted_as_slow():
    overfits = made_run(losses=(2.0, 1.0, 0.5), validation=(2.0, 0.4, 0.5))
    (sentence,) = ex.sentences_of([experiment(overfits, made_run("lnb", losses=(2.0, 0.4, 0.3)))])
    assert sentence.kind == "loses"
    assert "AdamW itself first passes that value after 50 % of its steps." in sentence.text


def test_only_one_of_two_sides():
    (alone,) = ex.sentences_of([experiment(made_run())])
    assert (alone.kind, alone.text) == ("not compared", "LNB was not run.")
    (alone,) = ex.sentences_of([experiment(made_run("lnb"))])
    assert alone.text == "There is no finite run of AdamW or Adam to compare with."


def test_ratios_are_of_runs_that_took_turns_where_there_are_any():
    runs = [made_run(milliseconds=10.0), made_run("lnb", milliseconds=40.0)]
    comparison = experiment(*runs)
    adamw, lnb = comparison.entries
    ratio = comparison.step_ratio(lnb, adamw)
    assert ratio is not None
    assert (ratio.value, ratio.together) == (4, False)
    turns = [
        made_run(milliseconds=8.0, comparison="a", rate=9),
        made_run("lnb", milliseconds=12.0, comparison="a", rate=9),
    ]
    together = experiment(*runs, timings=turns)
    ratio = together.step_ratio(together.entries[1], together.entries[0])
    assert ratio is not None
    assert (ratio.value, ratio.together) == (1.5, True)
    # Its share of time is then that ratio times its share of steps, whatever the seconds.
    share = together.time_share(together.entries[1], ex.Reach(10, 1, 99.0, 1, 1), together.entries[0], adamw.whole())
    assert share == 0.75
    # Another configuration of the solver tells nothing about this one.
    other = dataclasses.replace(turns[1].header, optimizer_settings={"learning_rate": 9, "ridge": 2.0})
    apart = experiment(*runs, timings=(turns[0], dataclasses.replace(turns[1], header=other)))
    ratio = apart.step_ratio(apart.entries[1], apart.entries[0])
    assert ratio is not None
    assert not ratio.together


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
    assert [entry.label for entry in comparison.entries] == ["AdamW", "LNB (CG), ridge 1.0", "LNB (CG), ridge 5.0"]


def verdict(number, *runs):
    shown, _ = ex.experiments_of(runs, runs)
    return ex.papers_figures(shown)[number - 1]


def test_figure_1():
    def run(optimizer, losses):
        return made_run(optimizer, "matrix-factorization", losses=losses, accuracies=(), epochs=len(losses) - 1)

    adam = run("adam", (1.0, 1e-2, 1e-3, 1e-7))
    figure = verdict(1, adam, run("lnb", (1.0, 1e-7)), run("lnb-auto", (1.0, 1e-5)))
    assert figure.outcome == "not run"  # the lengths differ
    figure = verdict(1, adam, run("lnb", (1.0, 1e-7, 1e-8, 1e-9)), run("lnb-auto", (1.0, 1e-5, 1e-5, 1e-5)))
    assert {case.optimizer: case.outcome for case in figure.cases} == {
        "lnb": "reproduced",
        "lnb-auto": "not reproduced",
    }
    assert figure.outcome == "reproduced"
    assert (
        "LNB (CG) comes to 1e-6 in 10 steps, Adam in 30 (1 of 1 seed): 3 times as many" in figure.cases[1].facts[0].text
    )
    slow = verdict(1, run("adam", (1.0, 1e-7, 1e-7, 1e-7)), run("lnb", (1.0, 1e-2, 1e-7, 1e-9)))
    assert slow.outcome == "not reproduced"
    never = verdict(1, run("adam", (1.0, 1e-2, 1e-3)), run("lnb", (1.0, 1e-7, 1e-8)))
    assert "Adam never in its 20: more than 2 times as many" in never.cases[0].facts[0].text


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
        for optimizer, accuracy in zip(("lnb", "adam"), accuracies, strict=False)
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
        accuracies = {(task, "lnb"): 0.98, (task, "adam"): 0.98}
        accuracies |= {(f"{task}-inverted", "lnb"): 0.98, (f"{task}-inverted", "adam"): inverted_adam}
        return [
            made_run(optimizer, name, accuracies=(0.1, 0.5, end), task_settings={"hidden": hidden})
            for (name, optimizer), end in accuracies.items()
        ]

    assert verdict(2, *runs("mnist", [8], 0.9), *runs("mnist", [8, 8], 0.9)).outcome == "reproduced"
    assert verdict(2, *runs("mnist", [8], 0.9), *runs("mnist-deep", [8, 8], 0.9)).outcome == "reproduced"
    figure = verdict(2, *runs("mnist", [8], 0.9), *runs("mnist-deep", [8, 8], 0.98))
    assert figure.outcome == "partly"
    assert [fact.holds for fact in figure.cases[0].facts] == [True, True, True, False]
    assert "mnist-deep, hidden layers 8-8: (b)" in figure.cases[0].facts[3].text


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
    lnb = made_run("lnb", "vit-cifar10", losses=losses, accuracies=(0.1, 0.5, accuracy), milliseconds=13.0)
    figure = verdict(3, made_run(task="vit-cifar10"), lnb)
    assert figure.outcome == outcome
    assert figure.cases[0].remarks == (
        "time of a step: 1.3 times the baseline's, from runs that did not take turns (the paper: 1.48 times)",
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
    lnb = made_run("lnb", "unet-voc", losses=losses, validation=validation, accuracies=accuracies)
    figure = verdict(4, made_run(task="unet-voc"), lnb)
    assert [fact.holds for fact in figure.cases[0].facts] == holds
