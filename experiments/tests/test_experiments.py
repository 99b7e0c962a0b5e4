"""Tasks, the training loop, records and data."""

import dataclasses
import json
import math
import os
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnb
import lnb_experiments as ex
from lnb_experiments.data import _data
from lnb_experiments.data._batches import shuffled_batches

pytestmark = pytest.mark.usefixtures("standard_promotion")

LOCAL_TASKS = ["matrix-factorization", "matrix-factorization-svd", "digits", "digits-inverted"]


def small(name):
    """The task with a network of a size for tests, and its problem."""
    task = ex.find_task(name)
    sizes = {"samples": 50, "inputs": 6, "hidden": 6, "outputs": 8} if "matrix" in name else {"hidden": (8,)}
    return task, task.build(dataclasses.replace(task.at("cpu").settings, **sizes), 0)


def untimed(record):
    return dataclasses.replace(record, seconds=0.0, milliseconds=None)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        # The inverted digits are the digits in another unit.
        pytest.param(name, optimizer, marks=[pytest.mark.slow] * (name == "digits-inverted" and optimizer != "lnb"))
        for name in LOCAL_TASKS
        for optimizer, settings in ex.OPTIMIZERS.items()
        if optimizer != "kfac" and ("matrix" in name or settings.reads != "residuals")
    ],
)
def test_every_optimizer_trains_every_task(name, optimizer):
    task, problem = small(name)
    # Other tests than this judge how fast; a rate that suits all sizes keeps this one to whether it runs.
    settings = dataclasses.replace(task.optimizers[optimizer], learning_rate=1e-3)
    first, last = ex.train(problem, settings, epochs=2, evaluate_every=1000)
    assert (first.step, first.seconds, first.milliseconds) == (0, 0.0, None)
    assert last.step == 2 * problem.steps_per_epoch
    assert last.epoch == 2
    assert last.finite
    assert set(first.metrics) == set(last.metrics)
    assert task.target.metric in last.metrics


@pytest.mark.parametrize("name", LOCAL_TASKS)
def test_neurons_cover_every_task(name):
    _, problem = small(name)
    neurons, _ = ex.prepare(problem, ex.LNB())
    assert isinstance(neurons, lnb.Neurons)
    assert neurons.coverage == 1


def test_runs_start_alike_and_see_the_same_batches():
    _, problem = small("digits")
    firsts = [next(ex.train(problem, s, epochs=1, evaluate_every=5)) for s in (ex.Adam(), ex.LNB(), ex.paper_lnb())]
    assert firsts[0] == firsts[1] == firsts[2]
    for epoch in range(2):
        for one, other in zip(problem.batches(epoch, 0), problem.batches(epoch, 0), strict=True):
            jax.tree.map(np.testing.assert_array_equal, one, other)
    # A run leaves the initial weights alone, so that the next one gives the same records.
    runs = [list(map(untimed, ex.train(problem, ex.LNB(), epochs=1, evaluate_every=5))) for _ in range(2)]
    assert runs[0] == runs[1]


def test_seeds_change_weights_and_order():
    task = ex.find_task("digits")
    problems = [task.build(task.at("cpu").settings, seed) for seed in (0, 1)]
    weights = [np.asarray(jax.tree.leaves(problem.params)[0]) for problem in problems]
    assert not np.array_equal(*weights)
    labels = [np.asarray(next(problem.batches(0, 0)).labels) for problem in problems]
    assert not np.array_equal(*labels)


def test_inverted_pixels_are_the_same_images():
    batches = [next(small(name)[1].batches(0, 0)) for name in ("digits", "digits-inverted")]
    np.testing.assert_allclose(batches[0].images, 1 - batches[1].images)
    np.testing.assert_array_equal(batches[0].labels, batches[1].labels)


def test_turns_do_not_change_a_run():
    _, problem = small("digits")
    alone = [untimed(record) for record in ex.train(problem, ex.Adam(), epochs=1, evaluate_every=5)]
    pairs = zip(
        ex.train(problem, ex.Adam(), epochs=1, evaluate_every=5),
        ex.train(problem, ex.LNB(), epochs=1, evaluate_every=5),
        strict=True,
    )
    assert [untimed(record) for record, _ in pairs] == alone


def test_divergence_ends_a_run():
    _, problem = small("matrix-factorization")
    records = list(ex.train(problem, ex.SGD(learning_rate=1e3), epochs=1000, evaluate_every=1))
    assert len(records) < 1000
    assert [record.finite for record in records] == [True] * (len(records) - 1) + [False]


@pytest.mark.parametrize("name", ["matrix-factorization", "digits-inverted"])
def test_lnb_reaches_a_lower_loss_than_adam(name):
    task, problem = small(name)
    ends = {}
    for optimizer in ("adam", "lnb-paper"):
        *_, last = ex.train(problem, task.optimizers[optimizer], epochs=5, evaluate_every=1000)
        ends[optimizer] = last.loss
    assert ends["lnb-paper"] < ends["adam"]


def test_batches_visit_every_example_once_an_epoch():
    batches = shuffled_batches(jnp.arange(10), 3, seed=0)
    seen = np.concatenate(list(batches.epoch(0)))
    assert batches.steps_per_epoch == 3
    assert len(seen) == len(set(seen.tolist())) == 9
    assert not np.array_equal(seen, np.concatenate(list(batches.epoch(1))))


@pytest.mark.parametrize("name", LOCAL_TASKS)
def test_batches_go_on_from_any_of_them(name):
    _, problem = small(name)
    every = list(problem.batches(1, 0))
    assert len(every) == problem.steps_per_epoch
    for start in (0, 1, len(every) - 1, len(every)):
        rest = list(problem.batches(1, start))
        jax.tree.map(np.testing.assert_array_equal, rest, every[start:])


def test_the_schedule_falls_from_one_to_one_over_the_steps():
    _, problem = small("digits")
    steps = problem.steps_per_epoch
    runs = {
        schedule: ex.train(problem, ex.SGD(momentum=0.0), epochs=1, evaluate_every=1, schedule=schedule)
        for schedule in ("constant", "linear")
    }
    for run in runs.values():
        next(run)
    updates = []
    for step in range(steps):
        # Both take this step from the same parameters: the constant run is set to where the linear one stands.
        before = runs["linear"].progress
        weights = np.asarray(before.params[0].weight)
        runs["constant"].resume(
            runs["constant"].progress._replace(params=jax.tree.map(jnp.copy, before.params), step=step)
        )
        for run in runs.values():
            run.advance()
        updates.append([np.asarray(run.progress.params[0].weight) - weights for run in runs.values()])
    for step, (constant, linear) in enumerate(updates):
        np.testing.assert_allclose(linear, constant * (1 - step / steps), atol=1e-7)
    with pytest.raises(ex.ExperimentError, match="`schedule` must be linear or constant, got 'cosine'"):
        ex.train(problem, ex.SGD(), epochs=1, evaluate_every=1, schedule="cosine")


def test_a_command_repeats_a_run():
    header = header_of(ex.find_task("digits"), "lnb-paper")
    assert ex.repeat_command(header) == "lnb compare digits --optimizers lnb-paper --epochs 1"
    changed = dataclasses.replace(
        header,
        task_settings={**header.task_settings, "hidden": (8, 9)},
        optimizer_settings={
            **header.optimizer_settings,
            "clip_norm": None,
            "solver": {**header.optimizer_settings["solver"], "ridge": 1e-6},
            "step": "polyak",
        },
        seed=3,
        evaluate_every=7,
        schedule="linear",
    )
    assert ex.repeat_command(changed) == (
        "lnb compare digits --optimizers lnb-paper --schedule linear --epochs 1 --evaluate-every 7 --seed 3 "
        "--task.hidden 8 9 --lnb-paper.solver.ridge 1e-06 --lnb-paper.step polyak --lnb-paper.clip-norm None"
    )
    nesterov = header_of(ex.find_task("digits"), "sgd")
    nesterov = dataclasses.replace(nesterov, optimizer_settings={**nesterov.optimizer_settings, "nesterov": True})
    assert ex.repeat_command(nesterov).endswith(" --sgd.nesterov")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: ex.find_task("nope"), "`task` is unknown: 'nope'; known are matrix-factorization"),
        (lambda: ex.check_optimizer("nope"), "`optimizers` has an unknown optimizer 'nope'"),
        (lambda: shuffled_batches(jnp.arange(3), 4, 0), "`batch_size` must be from 1 to"),
        (lambda: ex.train(small("digits")[1], ex.Adam(), epochs=0, evaluate_every=1), "`epochs` and `evaluate_every`"),
        (lambda: ex.prepare(small("digits")[1], ex.LNB(learning_rate=0)), "`learning_rate` of LNB"),
        (
            lambda: ex.find_task("digits").build(ex.find_task("digits").at("cpu").settings, -5),
            "`seed` must be from 0 to",
        ),
        (
            lambda: ex.find_task("digits").build(ex.find_task("digits").at("cpu").settings, 2**32),
            "`seed` .* got 4294967296",
        ),
        (lambda: ex.prepare(small("digits")[1], ex.Adam(learning_rate=0)), "`learning_rate` of Adam"),
        (lambda: ex.prepare(small("digits")[1], ex.Adam(clip_norm=0)), "`clip_norm` of Adam"),
        (
            lambda: ex.find_task("digits").build(ex.find_task("digits").at("cpu").settings.__class__(hidden=(0,)), 0),
            "`hidden`",
        ),
    ],
)
def test_bad_requests_say_what_is_wrong(change, message):
    with pytest.raises(ex.ExperimentError, match=message):
        change()


def test_missing_data_names_what_works_anyway(monkeypatch, tmp_path):
    def unreachable(name, revision):
        raise ConnectionError(name)

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    monkeypatch.setenv("LNB_DATA_DIR", str(tmp_path))
    with pytest.raises(ex.ExperimentError) as caught:
        _data.load_mnist()
    for part in ("no network", "ylecun/mnist", str(tmp_path / "mnist"), "`digits`", "`matrix-factorization`"):
        assert part in str(caught.value)
    monkeypatch.delenv("LNB_DATA_DIR")
    with pytest.raises(ex.ExperimentError, match="`LNB_DATA_DIR` is not set"):
        _data.load_mnist()


@pytest.mark.skipif(
    not (Path(os.environ.get("LNB_DATA_DIR", "")) / "mnist").is_dir() or "LNB_DATA_DIR" not in os.environ,
    reason="`LNB_DATA_DIR` is not set to a folder that holds mnist/",
)
@pytest.mark.filterwarnings("default")  # of `datasets` and what it imports
def test_mnist_from_a_folder():
    data = _data.load_mnist()
    assert data.train.images.shape == (60_000, 784)
    assert data.test.images.shape == (10_000, 784)
    assert data.train.images.dtype == np.float32
    assert (data.train.images.min(), data.train.images.max()) == (0, 1)
    assert set(data.test.labels.tolist()) == set(range(10))


def header_of(task, optimizer):
    return ex.RunHeader(
        task=task.name,
        optimizer=optimizer,
        task_settings=dataclasses.asdict(task.at("cpu").settings),
        optimizer_settings=ex.settings_of(task.optimizers[optimizer]),
        seed=0,
        scale="cpu",
        epochs=1,
        evaluate_every=5,
        schedule="constant",
        target=task.target,
        comparison="one",
        environment=ex.describe_environment(),
        command="",
    )


def test_records_come_back_as_they_were_written(tmp_path):
    task, problem = small("digits")
    path = tmp_path / "new" / "adam.jsonl"
    header = header_of(task, "adam")
    records = list(islice(ex.train(problem, ex.Adam(), epochs=1, evaluate_every=5), 2))
    records.append(dataclasses.replace(records[-1], loss=math.inf))
    with ex.RecordWriter(path, header) as writer:
        for count, record in enumerate(records, start=2):
            writer.write(record)
            assert len(path.read_text().splitlines()) == count  # a run that is cut short leaves what it had
        assert ex.read_run(path).cost is None
        writer.write_cost(ex.Cost(1.5, None, 3))
    run = ex.read_run(path)
    assert list(run.records) == records
    assert run.cost == ex.Cost(1.5, None, 3)
    assert run.header.target == task.target
    assert set(run.header.environment["versions"]) == {"python", "jax", "jaxlib", "optax", "numpy", "lnb"}
    assert [json.loads(line).get("finite") for line in path.read_text().splitlines()] == [None, True, True, False, None]


def test_records_that_cannot_be_written_or_read(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ex.ExperimentError, match="`output` cannot be written"):
        ex.RecordWriter(tmp_path / "file" / "adam.jsonl", header_of(ex.find_task("digits"), "adam"))
    with pytest.raises(ex.ExperimentError, match="`records` must be files"):
        ex.read_run(tmp_path / "file")
    with pytest.raises(ex.ExperimentError, match="`records` cannot be read"):
        ex.read_run(tmp_path / "missing")


def test_summary_of_a_run():
    task = ex.find_task("digits")
    records = tuple(
        ex.Record(step, step / 10, step / 100, milliseconds, loss, {"accuracy": accuracy})
        for step, milliseconds, loss, accuracy in [(0, None, 2.0, 0.1), (5, 3.0, 1.0, 0.98), (10, 5.0, math.nan, 0.1)]
    )
    summary = ex.summarize(ex.Run(header_of(task, "lnb"), records))
    assert (summary.steps_to_target, summary.seconds_to_target) == (5, 0.05)
    assert (summary.diverged_at, summary.steps, summary.milliseconds) == (10, 10, 4.0)
    with pytest.raises(ex.ExperimentError, match="no records"):
        ex.summarize(ex.Run(header_of(task, "lnb"), ()))
