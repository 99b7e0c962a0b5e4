"""The report's page, from made-up records."""

import html.parser
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from made_runs import made_run, write
from matplotlib.colors import to_rgb
from PIL import Image

import lnb_experiments as ex
from lnb_experiments import cli
from lnb_experiments.report._figures import draw_experiment, png, styles_of

ROOT = Path(__file__).parent.parent.parent


def lnb(*arguments):
    return cli.main([str(argument) for argument in arguments])


def results():
    """AdamW at two rates, and LNB, whose second seed diverges."""
    return [
        made_run("adamw", rate=0.1, losses=(2.0, 1.5, 1.0), accuracies=(0.1, 0.5, 0.8)),
        made_run("adamw", rate=0.3, seed=0, losses=(2.0, 1.0, 0.5), accuracies=(0.1, 0.8, 0.9)),
        made_run("adamw", rate=0.3, seed=1, losses=(2.0, 1.0, 0.7), accuracies=(0.1, 0.8, 0.92)),
        made_run("lnb", seed=0, losses=(2.0, 0.55, 0.25), milliseconds=15.0, cost=ex.Cost(3.0, 3_000_000, None)),
        made_run("lnb", seed=1, losses=(2.0, 0.65, math.nan), milliseconds=15.0),
    ]


@pytest.fixture
def folder(tmp_path):
    for number, run in enumerate(results()):
        path = tmp_path / "results" / run.header.task / f"{number}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(run, path)
    return tmp_path / "results"


class Page(html.parser.HTMLParser):
    """The rows of a page's tables, its text, and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.text, self.references, self.anchors, self.open = [], "", [], set(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.references += [attributes[name] for name in ("src", "href", "srcset", "data") if name in attributes]
        self.anchors |= {attributes["id"]} if "id" in attributes else set()
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def row(self, *cells):
        """The rows that begin so."""
        return [row for row in self.rows if row[: len(cells)] == list(cells)]


def test_numbers_on_the_page(folder, capsys):
    assert lnb("report", folder) == 0
    printed = capsys.readouterr().out.split()
    names = ["report.html", "summary.md", "digits-constant-cpu-epochs.png", "digits-constant-cpu-seconds.png"]
    assert printed == [str(folder / name) for name in names]
    page = Page((folder / "report.html").read_text())
    assert not page.open
    # AdamW ends at 0.5 and 0.7: 0.6 ± 0.14. LNB's first seed has 0.55 at step 10, its second has 0.65 and diverges.
    assert page.row("AdamW", "0.3 (edge)") == [["AdamW", "0.3 (edge)", "0.6 ± 0.14", "91.00 ± 1.41 %", "0.6 ± 0.14"]]
    assert page.row("LNB", "0.1", "0.25 (1 of 2 diverged)") == [
        ["LNB", "0.1", "0.25 (1 of 2 diverged)", "90.00 %", "0.25"]
    ]
    assert ["AdamW", "20 (100 %), 1/2 seeds", "0.2 s (100 %)", "not in 20", "-"] in page.rows
    assert ["LNB", "10 (50 %), 1/2 seeds", "0.15 s (75 %)", "not in 20", "-"] in page.rows
    assert ["LNB", "15", "1.50 *", "2.5 MB", "1.25", "2.25 s"] in page.rows
    assert ["digits", "LNB", "loses", "50 %, 1/2 seeds", "75 %", "0.42", "-1.00", "1.50", "1.25"] in page.rows
    assert page.row("AdamW", "0.1", "1") == [["AdamW", "0.1", "1", "80.00 %", ""]]
    assert page.row("AdamW", "0.3", "0.5") == [["AdamW", "0.3", "0.5", "90.00 %", "picked"]]
    for text in (
        "AdamW: the picked rate is the highest of its grid",
        "LNB: 1 of 2 seeds diverged; means are over the others.",
        "* from runs that did not take turns",
        # What repeats a run with today's defaults, whatever its header says.
        "lnb compare digits --optimizers adamw --epochs 2 --evaluate-every 10 --seed 1 --task.hidden 8 "
        "--adamw.learning-rate 0.3 --adamw.ridge 1.0",
        "hidden 8",
        "commit abc, jax 1",
    ):
        assert text in " ".join(page.text.split())
    markdown = (folder / "summary.md").read_text()
    for row in page.rows:
        assert f"| {' | '.join(row)} |" in markdown
    assert "](digits-constant-cpu-epochs.png)" in markdown


def test_a_page_needs_nothing_beside_it(folder, tmp_path):
    lnb("report", folder, "--output", tmp_path / "new/page.html")
    text = (tmp_path / "new/page.html").read_text()
    page = Page(text)
    assert len(page.references) > 5
    for reference in page.references:
        assert reference.startswith(("#", "data:image/png;base64,"))
        assert not reference.startswith("#") or reference[1:] in page.anchors
    assert "<script" not in text
    assert not re.search(r"https?://|@import|url\(", text)
    assert not (folder / "report.html").exists()
    assert (tmp_path / "new/digits-constant-cpu-seconds.png").read_bytes().startswith(b"\x89PNG")


def test_what_records_say_is_text_and_not_markup(folder):
    odd = {"learning_rate": 0.3, "ridge": "<b> & more"}
    write(made_run("adamw", seed=7, optimizer_settings=odd), folder / "odd.jsonl")
    lnb("report", folder)
    text = (folder / "report.html").read_text()
    assert "&lt;b&gt; &amp; more" in text
    assert "<b> & more" not in text


def test_claims_of_the_paper_are_beside_what_was_measured(folder):
    for number, (optimizer, loss) in enumerate((("adam", 1e-3), ("lnb-paper", 1e-7))):
        run = made_run(optimizer, "matrix-factorization", losses=(1.0, loss, loss), accuracies=())
        write(run, folder / f"matrix{number}.jsonl")
    lnb("report", folder)
    page = Page((folder / "report.html").read_text())
    first, second = page.row("1: Matrix factorization")
    assert first[1:3] == second[1:3] == ["reproduced", "LNB (paper)"]
    assert first[4:] == ["relative loss 1e-6 in fewer steps than Adam", "10 (1 of 1 seed), Adam never in 20", "yes"]
    assert page.row("3: Vision transformer on CIFAR-10", "not run")


def test_packed_runs_come_back_as_they_were(folder, tmp_path):
    write(made_run("sgd", losses=(2.0, math.inf, math.nan), cost=ex.Cost(1.5, None, None)), folder / "diverged.jsonl")
    write(made_run("muon", losses=(2.0, 1.0), cost=None), folder / "cut.jsonl")
    task = made_run("adam", "matrix-factorization", losses=(1.0, 0.5, 1e-7), accuracies=())
    write(task, folder / "matrix.jsonl")
    before = ex.read_results(folder)
    assert lnb("pack", folder, "--output", tmp_path / "packed") == 0
    names = ["digits.parquet", "matrix-factorization.parquet"]
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == names
    after = ex.read_results(tmp_path / "packed")
    # As text, since no NaN equals itself.
    assert (repr(after.runs), repr(after.timings)) == (repr(before.runs), repr(before.timings))
    assert len(after.runs) == 7
    (tmp_path / "packed/digits.parquet").write_bytes(b"no table")
    with pytest.raises(ex.ExperimentError, match=r"not one of runs: .*digits\.parquet"):
        ex.read_results(tmp_path / "packed")


def test_the_report_of_the_repository_is_made_of_its_records(tmp_path):
    """`make report` writes what is committed: a change of the code or of the records shows here."""
    assert lnb("report", ROOT / "results", "--output", tmp_path / "report.html") == 0
    committed = ROOT / "docs/results"
    assert (tmp_path / "summary.md").read_text() == (committed / "summary.md").read_text()
    figures = {path.name for path in tmp_path.glob("*.png")}
    assert figures == {path.name for path in committed.glob("*.png")}
    assert len(figures) == 26


def test_longer_runs_with_a_rate_each_have_a_table_of_their_own(folder):
    losses = (2.0, 1.0, 0.5, 0.125)
    write(made_run("adamw", epochs=3, losses=losses, accuracies=(0.1, 0.8, 0.9, 0.95)), folder / "longer.jsonl")
    lnb("report", folder)
    page = Page((folder / "report.html").read_text())
    text = " ".join(page.text.split())
    assert "Longer checks Runs longer than those above" in text
    assert "digits, cpu scale, constant schedule, 3 epochs" in text
    assert ["AdamW", "0.1", "0.125", "95.00 %", "0.125"] in page.rows
    assert "longer" in page.anchors
    assert "Left out" not in text


def test_nothing_is_left_out_in_silence(folder):
    whole = made_run("sgd", losses=(2.0, 1.0, 0.9))
    cut = made_run("muon", losses=(2.0, 1.0), cost=None)
    write(cut, folder / "cut.jsonl")
    (folder / "going.jsonl.part").write_text("{")
    write(made_run("lnb", seed=0, losses=(2.0, 0.55, 0.25)), folder / "z-again.jsonl")
    write(made_run("sgd", epochs=1, losses=(2.0, 1.0)), folder / "short.jsonl")
    write(whole, folder / "whole.jsonl")
    lnb("report", folder)
    text = (folder / "report.html").read_text()
    for line in (
        "cut.jsonl was cut short: it has not come to its last step",
        "going.jsonl.part was cut short, or is being written",
        "z-again.jsonl repeats digits/3.jsonl: only its times count",
        "digits, cpu scale, constant schedule, 1 epoch: a rate and a seed each, so only its times count",
    ):
        assert f"<li>{line}</li>" in text
    assert "Computed from the records of 7 runs." in text


def test_experiments_of_one_task_are_told_apart(folder):
    for number, hidden in enumerate(([8], [9, 9])):
        for rate in (0.1, 0.2):
            run = made_run("sgd", rate=rate, schedule="linear", task_settings={"hidden": hidden})
            write(run, folder / f"{number}-{rate}.jsonl")
    lnb("report", folder)
    text = (folder / "report.html").read_text()
    assert "digits, cpu scale, linear schedule, 2 epochs, hidden 8<" in text
    assert "digits, cpu scale, linear schedule, 2 epochs, hidden 9-9<" in text
    assert (folder / "digits-linear-cpu-2-epochs.png").exists()


def test_figures_are_means_and_ranges():
    runs = [*results()[1:4], made_run("sgd", losses=(2.0, math.nan, math.nan))]
    ((experiment,), _) = ex.experiments_of(runs, runs)
    figure = draw_experiment(experiment, "seconds")
    training, _, accuracy = figure.axes
    adamw = training.get_lines()[0]
    assert adamw.get_xdata() == pytest.approx([0, 0.1, 0.2])
    assert adamw.get_ydata() == pytest.approx([2.0, 1.0, 0.6])
    assert accuracy.get_lines()[0].get_ydata() == pytest.approx([0.1, 0.8, 0.91])
    assert training.collections[0].get_paths()[0].vertices[:, 1].min() == 0.5
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["AdamW", "SGD (diverged)", "LNB"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["training loss", "validation loss", "accuracy"]
    assert accuracy.get_xlabel() == "seconds of training"


def test_a_picture_s_palette_keeps_the_colour_of_every_line():
    names = [name for name in ex.OPTIMIZERS if name != "gauss-newton"]
    runs = [
        made_run(name, seed=seed, losses=(2.0, 1.5 - 0.1 * k + 0.2 * seed, 1.2 - 0.1 * k + 0.1 * seed))
        for k, name in enumerate(names)
        for seed in (0, 1)
    ]
    ((experiment,), _) = ex.experiments_of(runs, runs)
    picture = np.asarray(Image.open(io.BytesIO(png(draw_experiment(experiment, "epochs")))).convert("RGB"), int)
    for style in styles_of([entry.optimizer for entry in experiment.entries]):
        colour = 255 * np.array(to_rgb(style["color"]))
        assert np.abs(picture - colour).max(-1).min() < 10, style


def test_runs_that_all_diverged_are_reported(folder):
    for rate in (0.1, 0.2):
        run = made_run("sgd", rate=rate, losses=(2.0, math.nan, math.nan))
        write(run, folder / f"sgd{rate}.jsonl")
    lnb("report", folder)
    page = Page((folder / "report.html").read_text())
    assert page.row("SGD", "-") == [["SGD", "-", "diverged by step 20", "-", "-"]]
    assert "SGD: diverged with every rate; the lowest is shown." in page.text


def test_errors_are_one_line_and_exit_2(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    for arguments, message in (
        (["report", tmp_path / "missing"], "`results` must be a folder"),
        (["report", tmp_path / "empty"], "`results` has no run that has ended"),
        (["report", folder, "--output", tmp_path / "file/page.html"], "`output` cannot be written"),
    ):
        assert lnb(*arguments) == 2
        out, err = capsys.readouterr()
        assert message in err
        assert (err.count("\n"), out) == (1, "")
    (folder / "other.jsonl").write_text('{"text": "of another program"}\n')
    assert lnb("report", folder) == 2
    err = capsys.readouterr().err
    assert "`records` must be files" in err
    assert "other.jsonl" in err
