"""What objects show at the end of a notebook's cell: the right numbers, escaped text, and no thousand rows."""

import html
import re

import numpy as np
import pytest
from test_hostile_text import NAMES, hostile, terminal_safe  # noqa: F401

import analysis
from analysis.runs.load import RunError
from analysis.scaling.isoflop import IsoFlop
from analysis.scaling.loss_law import LossLaw
from analysis.scaling.power_law import PowerLaw, PowerLawFit
from analysis.stats.estimate import Estimate, NotEstimable, html_fitted
from lmcore import columns as col
from lmcore.corpus.tokens import Tokens
from lmcore.printable import printable

LONGEST = 20_000  # characters of any summary but a figure's
TAGS = {"div", "strong", "p", "table", "thead", "tbody", "tr", "th", "td"}


def text_of(shown):
    """The text that a browser would show."""
    return html.unescape(re.sub(r"<[^>]+>", " ", shown))


def tags_of(shown):
    return set(re.findall(r"</?([a-z]+)", shown))


@pytest.fixture
def run(folder):
    return analysis.load(folder.path)


def test_a_run_shows_its_statuses_sizes_data_and_leading_settings(run):
    text = text_of(run._repr_html_())
    assert "10 trials: 5 complete, 2 pruned, 1 diverged, 1 failed, 1 running" in text
    assert "sizes xs, s" in text
    assert "data stdlib, 1.20M training tokens, vocabulary 256, fingerprint f00d" in text
    cells = re.findall(r"<tr>(.*?)</tr>", run._repr_html_())
    leading = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in cells[1:]]
    assert [(row[0], row[-1]) for row in leading] == [
        *(("xs", "xs-0000"), ("xs", "xs-0002"), ("s", "s-0001"), ("s", "s-0003"))
    ]
    assert "4.200 (1 seed)" in leading[0]
    assert tags_of(run._repr_html_()) <= TAGS


def test_a_confirmed_setting_shows_its_mean_and_interval(make_run):
    from tests.analysis.conftest import armed

    folder = make_run(**armed("untied", "tied", sizes=("xs",)))
    for arm, loss in (("untied", 4.0), ("tied", 5.0)):
        first = folder.add(f"xs-{arm}", "complete", loss, model__tie_embeddings=arm == "tied")
        folder.confirm(first, {1: loss, 2: loss + 0.1, 3: loss + 0.2})
        folder.result(first)
    shown = text_of(analysis.load(folder.path)._repr_html_())
    half = 4.302653 * 0.1 / np.sqrt(3)  # Student's t with 2 degrees of freedom
    assert f"4.100 +- {half:.3f}" in shown
    assert f"5.100 +- {half:.3f}" in shown
    assert "arms untied, tied" in shown
    assert "xs: tied is worse by 1.000" in shown or "xs: untied is better by 1.000" in shown


def test_a_run_is_three_parts_and_prints_as_four_lines(run):
    trials, rows, manifest = run
    assert (trials is run.trials, rows is run.rows, manifest is run.manifest) == (True, True, True)
    assert len(repr(run).splitlines()) == 4
    assert repr(run).startswith("<Run quick: 10 trials: 5 complete")
    assert f"trials ({len(trials)} rows), rows ({len(rows)} rows)" in repr(run)


def test_a_run_in_which_nothing_completed_shows_itself(make_run):
    folder = make_run()
    folder.add("xs", "diverged", None)
    shown = text_of(analysis.load(folder.path)._repr_html_())
    assert "1 trial: 1 diverged" in shown


def test_columns_that_a_reader_looks_for_come_first_and_then_what_was_searched(run):
    first = [*("trial", "size", "arm", "experiment", "status", "loss", "loss_se", "step", "tokens")]
    searched = [f"params.{path}" for path in ("model.tie_embeddings", "optim.lr", "optim.beta1")]
    names = run.trials.columns.tolist()
    assert names[:12] == [*first, *searched]
    assert len(set(names)) == len(names)
    combined = analysis.load_all([run.folder])
    assert combined.trials.columns.tolist() == names


def test_several_runs_are_one_whose_columns_are_in_the_same_order(folder, tmp_path):
    from tests.analysis.conftest import RunFolder

    other = RunFolder(tmp_path / "other", name="other")
    other.add("xs", "complete", 4.0, optim__warmup_fraction=0.1)
    other.add("xs", "complete", 4.1, optim__warmup_fraction=0.2)
    both = analysis.load_all([folder.path, tmp_path / "other"])
    assert both.folder == folder.path
    assert both.trials.columns[9:13].tolist() == [
        f"params.{path}" for path in ("model.tie_embeddings", "optim.lr", "optim.beta1", "optim.warmup_fraction")
    ]
    assert "quick + other" in text_of(both._repr_html_())


def test_a_run_writes_its_report_and_shows_the_answer_with_a_link(run, monkeypatch):
    monkeypatch.chdir(run.folder.parent)
    report = run.report()
    page = (run.folder / "report" / "report.html").read_text()
    assert f"lmsweep run --config {run.folder}/trials/xs-0000/run.yaml" in page  # wherever the notebook is
    shown = report._repr_html_()
    assert 'href="quick/report/report.html"' in shown
    assert analysis.verdicts(run.trials).sentences[0] in text_of(shown)
    assert repr(report).startswith("<Report quick: ")
    assert len(repr(report)) < 500


def test_a_brief_report_has_no_link_and_goes_where_it_is_told(run, tmp_path):
    report = run.report(tmp_path / "out", brief=True)
    assert (tmp_path / "out" / "trials.csv").is_file()
    assert "href" not in report._repr_html_()


def test_a_report_is_not_written_through_a_strangers_link_or_without_a_folder(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (run.folder / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="symbolic link"):
        run.report()
    with pytest.raises(RunError, match="out: must be given"):
        analysis.Run(*run).report()


def test_a_comparison_shows_differences_with_intervals_and_why_others_have_none(make_run):
    folder = make_run()
    for seed in range(3):
        folder.add("xs", "complete", 4.0 + seed / 100, train__seed=seed, params_exact=1000)
        folder.add("xs", "complete", 4.5 + seed / 50, train__seed=seed, params_exact=900, model__tie_embeddings=True)
    found = analysis.compare(analysis.load(folder.path).trials, "model.tie_embeddings", False, True)
    difference = found.matchings["same shape"].difference
    text = text_of(found._repr_html_())
    assert f"{difference.value:+.3f}" in text
    assert f"{difference.low:+.3f} to {difference.high:+.3f}" in text
    assert found.matchings["same shape"].verdict in text
    assert len(repr(found)) < 1000
    assert "worse" in repr(found)


def test_an_estimate_and_what_has_none_read_as_a_sentence():
    assert text_of(Estimate(0.34, 0.31, 0.37, 49)._repr_html_()).strip() == "0.34 (95 % interval 0.31 to 0.37, n = 49)"
    assert text_of(NotEstimable("2 runs are <too> few")._repr_html_()).strip() == "not estimable: 2 runs are <too> few"
    shown = html_fitted({"a": Estimate(1.5, 1, 2, 3), "b": NotEstimable("few"), "c": NotEstimable("few")})
    assert "not estimable: b, c (few)" in text_of(shown)
    assert re.findall(r"<td[^>]*>(.*?)</td>", shown) == ["a", "1.5", "1 to 2", "3"]


KNOWN = {"alpha": Estimate(0.34, 0.31, 0.37, 25), "E": Estimate(1.7, 1.65, 1.75, 25), "beta": NotEstimable("few")}


@pytest.mark.parametrize("fit", [LossLaw(KNOWN, None), IsoFlop(KNOWN, []), PowerLawFit(KNOWN, None)])
def test_a_fit_shows_its_numbers_and_why_others_have_none(fit):
    name = type(fit).__name__
    assert repr(fit) == f"<{name}: alpha 0.34 [0.31, 0.37]; E 1.7 [1.65, 1.75]; 1 not estimable>"
    cells = re.findall(r"<td[^>]*>(.*?)</td>", fit._repr_html_())
    assert cells == ["alpha", "0.34", "0.31 to 0.37", "25", "E", "1.7", "1.65 to 1.75", "25"]
    assert "not estimable: beta (few)" in text_of(fit._repr_html_())


def test_a_law_prints_without_its_draws():
    law = PowerLaw(np.zeros(2), np.zeros((1000, 2)), np.zeros(1))
    assert len(repr(law)) < 100


def test_all_fits_of_a_run_show_as_one_table(run):
    scaling = analysis.fit_scaling(analysis.points_of(run.trials))
    for shown in (text_of(scaling._repr_html_()), repr(scaling)):
        assert "not estimable" in shown
        assert len(shown) < LONGEST
    assert "loss_nd.alpha" in scaling._repr_html_()
    assert all(f"optimum.{path}" in scaling._repr_html_() for path in scaling.optimum)


def test_verdicts_show_their_sentences(run):
    answer = analysis.verdicts(run.trials)
    for sentence in answer.sentences:
        assert sentence in text_of(answer._repr_html_())
        assert sentence in repr(answer)


def test_a_figure_shows_as_a_picture_with_its_caption(run):
    from analysis.document.sections import sections_of_run

    figures = [figure for section in sections_of_run(run) for figure in section.figures]
    assert figures
    for figure in figures[:2]:
        shown = figure._repr_html_()
        assert 'src="data:image/svg+xml;base64,' in shown
        assert figure.caption in text_of(shown)
        assert len(repr(figure)) < 300


def test_tokens_show_what_they_are_and_no_ids():
    tokens = Tokens.of(np.arange(1000) % 97, np.arange(50) % 97, 97, bytes_per_token=3.25, val_in_train=0.5)
    for shown in (repr(tokens), text_of(tokens._repr_html_())):
        text = " ".join(shown.split())
        assert "training 1,000 tokens" in text
        assert "validation 50 tokens" in text
        assert "vocabulary 97" in text
        assert "bytes per token 3.25" in text
        assert "50.0%" in text
        assert tokens.fingerprint[:12] in text
    assert len(repr(tokens)) < 300


def test_names_of_a_stranger_are_shown_and_do_nothing(hostile):  # noqa: F811
    run = analysis.load(hostile)
    comparison = analysis.compare(run.trials, "train.seed", 0, 1)
    report = run.report(hostile / "shown", brief=True)
    for one in (run, analysis.verdicts(run.trials), comparison, report):
        shown = one._repr_html_()
        assert terminal_safe(shown + repr(one))
        assert tags_of(shown) <= TAGS, tags_of(shown) - TAGS
    text = text_of(run._repr_html_())
    for name in NAMES[:4]:
        assert " ".join(printable(name).split()) in " ".join(text.split())


def test_a_long_table_is_cut_and_says_so(make_run):
    folder = make_run()
    for number in range(30):
        folder.add("xs", "complete", 4.0 + number / 10, experiment=f"e{number:02d}")
    shown = analysis.load(folder.path)._repr_html_()
    assert shown.count("<tr>") == 21
    assert "10 more rows" in shown
    assert len(shown) < LONGEST


def test_the_repr_of_a_large_run_is_short(make_run):
    folder = make_run()
    for number in range(40):
        trial = folder.add("xs", "complete", 4.0 + number / 100)
        for step in range(10, 110, 10):
            folder.row(trial, step, 5.0)
    run = analysis.load(folder.path)
    assert len(run.rows) == 400
    assert len(repr(run)) < 600
    assert col.TRIAL in run.rows
