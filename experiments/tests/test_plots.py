"""Figures, drawn from made-up records."""

import math

import pytest

import lnb_experiments as ex
from lnb_experiments.report import _figures


def run(optimizer="lnb", task="digits", losses=(2.0, 0.5, 0.01), accuracies=(0.1, 0.9, 0.98), rate=0.5):
    named = "accuracy" if accuracies else "relative_loss"
    values = accuracies or losses
    records = tuple(
        ex.Record(10 * i, float(i), 0.1 * i, 10.0 if i else None, loss, {named: value})
        for i, (loss, value) in enumerate(zip(losses, values, strict=True))
    )
    header = ex.RunHeader(
        task=task,
        optimizer=optimizer,
        task_settings={},
        optimizer_settings={"learning_rate": rate},
        seed=0,
        scale="cpu",
        epochs=2,
        evaluate_every=5,
        schedule="constant",
        target=ex.Target(named, 0.97 if accuracies else 0.05, at_least=bool(accuracies)),
        comparison="one",
        environment={},
        command="",
    )
    return ex.Run(header, records)


@pytest.mark.parametrize(("accuracies", "rows"), [((0.1, 0.9, 0.98), 2), ((), 1)])
def test_a_row_for_each_kind_of_value(accuracies, rows):
    figure = _figures.draw_runs([run("adam", accuracies=accuracies), run(accuracies=accuracies)])
    assert len(figure.axes) == 2 * rows
    assert [axes.get_xlabel() for axes in figure.axes[-2:]] == ["steps", "seconds of training"]
    assert all(axes.get_yscale() == "log" for axes in figure.axes[:2])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["adam", "lnb"]


def test_lines_are_the_records():
    figure = _figures.draw_runs([run()])
    loss, accuracy = (figure.axes[i].get_lines()[0] for i in (0, 3))
    assert loss.get_xdata().tolist() == [0, 10, 20]
    assert loss.get_ydata().tolist() == [2.0, 0.5, 0.01]
    assert accuracy.get_xdata().tolist() == [0.0, 0.1, 0.2]
    assert accuracy.get_ydata().tolist() == [0.1, 0.9, 0.98]


def test_headline_of_many_runs_stays_within_the_figure():
    figure = _figures.draw_runs([run(name) for name in ("adamw", "sgd", "muon", "lnb", *6 * ("lnb-low-rank",))])
    figure.draw_without_rendering()
    (headline,) = (text for text in figure.texts if text.get_text() == figure.get_suptitle())
    box = headline.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_headline_starts_with_the_quickest():
    slow = run("adam", accuracies=(0.1, 0.2, 0.3))
    assert "lnb 20 · adam not reached" in _figures.draw_runs([slow, run()]).get_suptitle()


def test_colors_are_the_optimizers_own_whatever_is_beside_them():
    def color(runs, index):
        return _figures.draw_runs(runs).axes[0].get_lines()[index].get_color()

    assert color([run("adam"), run("lnb")], 1) == color([run("lnb")], 0)
    assert color([run("lnb"), run("lnb")], 0) != color([run("lnb"), run("lnb")], 1)


def test_every_optimizer_has_its_own_colour_and_dashes():
    names = list(ex.OPTIMIZERS)
    styles = _figures.styles_of(names)
    for kind in ("color", "linestyle"):
        assert len({str(style[kind]) for style in styles}) == len(names)
    widest = max(styles, key=lambda style: style["linewidth"])
    assert names[styles.index(widest)] == "lnb"
    twice = _figures.styles_of(["lnb", "lnb"])
    assert twice[0]["color"] != twice[1]["color"]


def test_labels_tell_runs_of_one_optimizer_apart():
    assert _figures.run_labels([run(rate=0.5), run(rate=0.1), run("adam")]) == ["lnb 0.5", "lnb 0.1", "adam"]
    assert _figures.run_labels([run(), run()]) == ["lnb 0.5 (1)", "lnb 0.5 (2)"]


@pytest.mark.parametrize("last", [math.nan, math.inf])
def test_a_diverged_run_is_drawn_to_where_it_was_finite(last, tmp_path):
    runs = [run(), run("adam", losses=(2.0, 1.0, last))]
    figure = _figures.draw_runs(runs)
    assert "adam (diverged)" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert figure.axes[0].get_lines()[1].get_xdata().tolist() == [0, 10]
    _figures.plot_runs(runs, tmp_path / "plot.png")
    _figures.plot_runs([run(losses=(last, last, last))], tmp_path / "plot.png")


def test_a_run_that_learns_nothing_is_drawn(tmp_path):
    _figures.plot_runs([run(losses=(1.0, 1.0, 1.0), accuracies=(0.1, 0.1, 0.1))], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_bad_requests_say_what_is_wrong(tmp_path):
    with pytest.raises(ex.ExperimentError, match="`records` must be of one task, got none"):
        _figures.plot_runs([], tmp_path / "plot.png")
    with pytest.raises(ex.ExperimentError, match="`records` must be of one task, got digits, mnist"):
        _figures.plot_runs([run(), run(task="mnist")], tmp_path / "plot.png")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ex.ExperimentError, match="`output` cannot be written"):
        _figures.plot_runs([run()], tmp_path / "file" / "plot.png")
