"""Runs that stop between two steps and go on, in this process; what lies in their files at any moment."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from test_experiments import header_of, small, untimed

import lnb_experiments as ex

pytestmark = pytest.mark.usefixtures("standard_promotion", "quick_compilation")

EPOCHS, EVERY = 2, 7  # an epoch has 15 steps
RECORDED = [0, 7, 14, 21, 28, 30]


def stored(folder, optimizer="adam", checkpoint_every=None):
    """A run of its own problem, as another process would have it."""
    task, problem = small("digits")
    training = ex.train(problem, task.optimizers[optimizer], epochs=EPOCHS, evaluate_every=EVERY, schedule="linear")
    return ex.StoredRun(training, folder / f"{optimizer}.jsonl", checkpoint_every)


def started(folder, optimizer="adam", checkpoint_every=None):
    run = stored(folder, optimizer, checkpoint_every)
    run.start(header_of(ex.find_task("digits"), optimizer))
    return run


def advance(run, steps):
    """Train until `steps` have been taken in all, and stop as Ctrl-C would."""
    while not run.training.has_begun or run.training.progress.step < steps:
        left = iter(range(steps - run.training.progress.step + 1))  # `stop` is asked before the first too
        run.advance(lambda left=left: next(left, None) is None)
    assert run.training.progress.step == steps


def finish(run):
    while not run.training.is_over:
        run.advance()
    run.end()


def resumed(folder, optimizer="adam"):
    run = stored(folder, optimizer)
    assert run.resume(ex.read_run(run.path))
    return run


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("lnb-paper", marks=pytest.mark.slow), "lnb"])
def test_a_run_that_stops_within_an_epoch_goes_on_as_if_it_had_not(optimizer, tmp_path):
    *_, last = whole = list(stored(tmp_path, optimizer).training)
    run = started(tmp_path / "stopped", optimizer)
    advance(run, 18)
    run.save()
    run.close()
    again = resumed(tmp_path / "stopped", optimizer)
    assert again.training.progress.step == 18
    finish(again)
    read = ex.read_run(again.path)
    assert list(map(untimed, read.records)) == list(map(untimed, whole))
    assert [record.step for record in read.records] == RECORDED
    assert last.step == 30
    assert read.cost is not None
    assert not again.folder.exists()


def test_what_was_written_after_the_checkpoint_is_cut_off(tmp_path):
    whole = started(tmp_path)
    finish(whole)
    run = started(tmp_path / "killed", checkpoint_every=5)
    advance(run, 23)
    with run.path.open("a") as file:
        file.write('{"step": 28, "epoch": 1.8')  # the process ended within a line
    assert [record.step for record in ex.read_run(run.path).records] == [0, 7, 14, 21]
    assert [path.name for path in run.folder.iterdir()] == ["20"]
    run.close()
    again = resumed(tmp_path / "killed")
    assert len(run.path.read_bytes().splitlines()) == 1 + len([0, 7, 14])
    finish(again)
    records = [ex.read_run(other.path).records for other in (whole, again)]
    assert list(map(untimed, records[0])) == list(map(untimed, records[1]))


@pytest.mark.parametrize("at", [0, 7, 14])
def test_a_checkpoint_at_a_record_counts_on_it(at, tmp_path):
    run = started(tmp_path, checkpoint_every=7)
    advance(run, at)
    run.close()
    again = resumed(tmp_path)
    assert again.training.progress.step == at
    assert [record.step for record in ex.read_run(run.path).records] == [step for step in RECORDED if step <= at]
    again.close()


def test_seconds_go_on_where_they_stood(tmp_path):
    run = started(tmp_path)
    advance(run, 10)
    before = run.training.progress
    run.save()
    run.close()
    again = resumed(tmp_path)
    again.close()
    after = again.training.progress
    assert (after.seconds, after.recorded_seconds) == (before.seconds, before.recorded_seconds)
    assert [loss.dtype for loss in after.losses] == [np.float32] * 3
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_half_a_checkpoint_is_none(tmp_path):
    run = started(tmp_path, checkpoint_every=5)
    advance(run, 10)
    run.close()
    whole = run.folder / "10"
    shutil.copytree(whole, run.folder / "15.orbax-checkpoint-tmp")
    again = resumed(tmp_path)
    again.close()
    assert again.training.progress.step == 10
    assert [path.name for path in run.folder.iterdir()] == ["10"]
    (run.folder / "11").mkdir()  # no checkpoint: it cannot be read, and that is said
    shutil.rmtree(whole)
    with pytest.raises(ex.ExperimentError, match="`output` cannot be read"):
        resumed(tmp_path)


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_none_in_part(tmp_path, monkeypatch, caplog):
    run = started(tmp_path, checkpoint_every=5)
    advance(run, 10)

    def killed(folder):
        for path in Path(folder).rglob("_CHECKPOINT_METADATA"):
            path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            advance(run, 15)
    run.close()
    again = resumed(tmp_path)
    assert not caplog.records
    assert again.training.progress.step == 15
    advance(again, 20)
    again.save()
    assert [path.name for path in again.folder.iterdir()] == ["20"]
    again.close()


def test_nothing_to_go_on_from(tmp_path):
    path = tmp_path / "adam.jsonl"
    assert ex.read_previous(path) is None
    path.write_text('{"task": "dig')
    assert ex.read_previous(path) is None
    run = started(tmp_path)
    run.close()
    previous = ex.read_previous(path)
    assert previous is not None
    assert not stored(tmp_path).resume(previous)
    path.write_text("no records\n")
    with pytest.raises(ex.ExperimentError, match="`records` must be files"):
        ex.read_previous(path)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    for name in ("one", "other"):
        run = started(tmp_path / name, checkpoint_every=5)
        advance(run, 10)
        run.close()
    shutil.rmtree(tmp_path / "one/adam.checkpoint")
    shutil.copytree(tmp_path / "other/adam.checkpoint", tmp_path / "one/adam.checkpoint")
    before = (tmp_path / "one/adam.jsonl").read_bytes()
    with pytest.raises(ex.ExperimentError, match="do not belong together"):
        resumed(tmp_path / "one")
    assert (tmp_path / "one/adam.jsonl").read_bytes() == before


def test_settings_that_differ_are_named():
    begun = header_of(ex.find_task("digits"), "lnb-paper")
    line = json.loads(json.dumps(dataclasses.asdict(begun)))
    read = dataclasses.replace(begun, task_settings=line["task_settings"], comparison="other", environment={})
    ex.check_same_settings(read, begun, "")
    requested = dataclasses.replace(
        begun,
        seed=1,
        optimizer_settings={**begun.optimizer_settings, "solver": {"kind": "CG", "ridge": 7.0}},
        evaluate_every=2,
    )
    with pytest.raises(ex.ExperimentError) as caught:
        ex.check_same_settings(read, requested, "Give the same.")
    for part in (
        "`evaluate_every` was 5, now it is 2",
        "`seed` was 0, now it is 1",
        "`lnb-paper.solver.ridge` was 0.1, now it is 7.0",
    ):
        assert part in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_files_that_cannot_be_written_show_before_the_first_step(tmp_path):
    (tmp_path / "adam.checkpoint").write_text("a file in the way")
    with pytest.raises(ex.ExperimentError, match=r"`output` cannot be written: .*adam.checkpoint: File exists"):
        started(tmp_path)
    assert not (tmp_path / "adam.jsonl").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/adam.jsonl").symlink_to("/dev/full")
    with pytest.raises(ex.ExperimentError, match=r"`output` cannot be written: .*: No space left on device"):
        started(tmp_path / "full")
    with pytest.raises(ex.ExperimentError, match="`checkpoint_every` must be at least 1, got 0"):
        stored(tmp_path, checkpoint_every=0)


def test_a_disk_that_fills_up_keeps_what_was_written(tmp_path, monkeypatch):
    run = started(tmp_path)
    advance(run, 14)
    before = run.path.read_bytes()
    with open("/dev/full", "wb", buffering=0) as full, monkeypatch.context() as patch:
        patch.setattr(run._records, "_file", full)
        with pytest.raises(ex.ExperimentError, match=r"No space left on device. Kept are 3 records, to step 14."):
            advance(run, 21)
    run.close()
    assert run.path.read_bytes() == before
    run = started(tmp_path, checkpoint_every=4)
    advance(run, 4)
    monkeypatch.setattr(run._manager, "save", fill_up)
    with pytest.raises(ex.ExperimentError, match=r"checkpoint: No space left on device. Kept is .* of step 4."):
        advance(run, 8)
    run.close()


def fill_up(*arguments, **options):
    raise OSError(28, "No space left on device")
