"""report.html needs no other file, and names and messages of trials are escaped in it."""

import html
import html.parser
import json
import re

import pandas as pd
import pytest

import analysis
from analysis.document.page import linked, page
from analysis.document.section import Section
from analysis.document.thinning import FEW, thinned
from analysis.document.trial_index import TrialIndex
from analysis.figures.chart import Axis, Chart, Layer, Panel
from analysis.figures.report_figure import ReportFigure
from analysis.report import build_report, write_report
from analysis.stats.estimate import Estimate, NotEstimable, as_json
from analysis.tables.files import ReportTable, latex_table


@pytest.fixture(scope="module")
def written(original, tmp_path_factory):
    """The report of `original`, and its folder."""
    folder = tmp_path_factory.mktemp("written")
    report = build_report(analysis.load(original.path))
    return report, folder, {path.name for path in write_report(report, folder)}


class Reader(html.parser.HTMLParser):
    """Collects open tags, all tags, and the addresses that a browser would fetch."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags, self.ids, self.texts = [], [], [], [], {}

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.texts[self.ids[-1]] = data


def read(text):
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


SCRIPTS = 5  # three tables of data, plotly.js and the page's own


def test_the_page_is_well_formed_and_fetches_nothing(written):
    report, folder, names = written
    reader = read((folder / "report.html").read_text())
    assert reader.tags.count("script") == SCRIPTS
    own = [source for source in reader.sources if not source.startswith(("#", "data:"))]
    assert set(own) <= names
    assert reader.tags.count("figure") == sum(len(section.figures) for section in report.sections) >= 6
    assert len(reader.ids) == len(set(reader.ids))
    assert {source[1:] for source in reader.sources if source.startswith("#")} <= set(reader.ids)


def test_the_page_is_read_from_the_verdicts_down(written):
    report, folder, _ = written
    text = (folder / "report.html").read_text()
    answer = report.sections[0]
    places = [
        text.index(html.escape(words))
        for words in (report.summary, answer.lead[0].split(" (")[0], answer.tables[0].title)
    ]
    places += [text.index("<figure"), text.index("<details"), text.index("<h2>Notes")]
    assert places == sorted(places)
    assert text[: text.index("<details")].count("<figure") <= 3


def test_what_cannot_be_estimated_is_one_sentence_grouped_by_reason():
    few, none = NotEstimable("fewer than 3 sizes"), NotEstimable("no interior minimum")
    fitted = {f"a.{k}": none for k in range(2)} | {f"b.{k}": few for k in range(3)} | {"c": Estimate(1.0, 0.5, 2.0, 7)}
    section = Section("Scaling", fitted=fitted)
    assert section.refusal == "5 numbers could not be estimated: fewer than 3 sizes (3); no interior minimum (2)."
    assert Section("Scaling", fitted={"b": few}).refusal == "1 number could not be estimated: fewer than 3 sizes."
    many = {f"{k}.{place}": NotEstimable(f"reason {k}") for k in range(6) for place in range(k + 1)}
    assert Section("Scaling", fitted=many).refusal == (
        "21 numbers could not be estimated: reason 5 (6); reason 4 (5); reason 3 (4); other reasons (6)."
    )
    assert Section("Scaling").refusal == ""
    text = page("x", "x", [], [section])
    shown = text[: text.index('<details class="paths">')]
    assert section.refusal in shown
    assert "<code>a.1</code>" not in shown
    assert "<code>a.1</code>" in text


def test_each_trial_has_its_settings_and_the_command_that_trains_it_again(written, original):
    report, _, _ = written
    known = report.trials.as_json()
    assert set(known["trials"]) == set(analysis.load(original.path).trials["trial"])
    row = dict(zip(known["fields"], known["trials"]["xs-0000"], strict=True))
    assert (row["status"], row["size"], row["loss"], row["step"]) == ("complete", "xs", "4.2000", "100")
    assert row["commands"] == [
        "lmsweep run --config runs/quick/trials/xs-0000/run.yaml",
        "lmsweep generate runs/quick 'def ' --trial xs-0000",
        "lmsweep export runs/quick --trial xs-0000 --out xs-0000",
    ]
    assert "--set optim.lr=0.001" in row["options"]
    assert "--set model.tie_embeddings=false" in row["options"]
    assert dict(zip(known["settings"], row["values"], strict=True))["peak lr"] == "0.001"


def test_commands_name_the_folder_of_each_run_that_was_combined(original):
    trials = analysis.load(original.path).trials
    index = TrialIndex(trials, {"small": "elsewhere/small", "my run": "runs/my run"})
    assert index.command("small/xs-0003") == "lmsweep run --config elsewhere/small/trials/xs-0003/run.yaml"
    assert index.command("my run/s-0001") == "lmsweep run --config 'runs/my run/trials/s-0001/run.yaml'"


def test_a_trial_that_has_the_result_of_another_leads_to_its_run(make_run):
    run = make_run()
    run.add("xs", "complete", 4.0)
    run.add("xs", "complete", 4.0, same_as="xs-0000")
    known = TrialIndex.of_run(analysis.load(run.path)).as_json()
    row = dict(zip(known["fields"], known["trials"]["xs-0001"], strict=True))
    assert "trials/xs-0000/run.yaml" in row["commands"][0]


def test_a_sweep_that_was_changed_says_so_in_one_sentence(make_run):
    space = {"low": 0.001, "high": 0.1}
    when = {"when": "2026-01-03T04:05:06+00:00", "trials": {"xs": 4, "s": 3}}
    changes = [
        {**when, "path": "search.method", "before": "optuna", "after": "random"},
        {**when, "path": "space.optim.lr", "before": None, "after": space},
    ]
    run = make_run(changes=changes)
    run.add("xs", "complete", 4.0)
    found = [note for note in build_report(analysis.load(run.path), brief=True).notes if "changed" in note]
    assert found == [
        "The sweep was changed when it was resumed: search.method from optuna to random, space.optim.lr from nothing "
        'to {"low": 0.001, "high": 0.1} (2026-01-03; trials of each study before: xs 4, s 3).'
    ]


def test_ids_of_trials_in_sentences_lead_to_them(written):
    index = written[0].trials
    link = '<a class="trial" href="#trial-xs-0003" data-trial="xs-0003">xs-0003</a>'
    assert linked("<b> (xs-0003), xs-9999.", index) == f"&lt;b&gt; ({link}), xs-9999."


def test_long_lines_of_unremarkable_trials_keep_their_ends_and_few_points():
    steps = range(100)
    frame = pd.concat(
        [pd.DataFrame({"x": steps, "y": 1.0, "line": name, "trial": name}) for name in [f"t{k}" for k in range(100)]],
        ignore_index=True,
    )
    chart = Chart("c", "C", "n = 100 trials.", [Panel(Axis(), Axis(), [Layer("line", frame)])])
    (layer,) = (shown := thinned(chart, {"t7"})).layers()
    lengths = layer.frame.groupby("line").size()
    assert lengths["t7"] == 100
    assert set(lengths.drop("t7")) == {FEW}
    ends = layer.frame[layer.frame["line"] == "t3"]["x"]
    assert (ends.iloc[0], ends.iloc[-1]) == (0, 99)
    assert (
        shown.caption
        == "n = 100 trials. On this page, all lines but those of the 1 lowest losses are drawn through 6 points."
    )
    small = Chart("c", "C", "n = 3.", [Panel(Axis(), Axis(), [Layer("line", frame[:300])])])
    assert thinned(small, set()) is small


def test_every_figure_says_how_many_trials_it_shows_and_names_its_axes(written):
    report, folder, _ = written
    for section in report.sections:
        for figure in section.figures:
            assert re.search(r"n = \d+", figure.caption), figure.name
            shown = [one for one in figure.figure.axes if one.get_visible() and one.get_label() != "<colorbar>"]
            assert all(axes.get_xlabel() or len(axes.get_xticklabels()) for axes in shown), figure.name
            assert any(axes.get_ylabel() for axes in shown) or figure.figure.get_supylabel(), figure.name
            assert (folder / f"{figure.name}.svg").read_bytes().startswith(b"<?xml")
            assert (folder / f"{figure.name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_name_cannot_break_out_of_the_page():
    evil = "</table><script>alert(1)</script>"
    cells = pd.DataFrame({"trial": [evil]})
    fitted = {"a.b": NotEstimable(evil)}
    point = pd.DataFrame({"x": [1.0], "y": [1.0], "trial": [evil], "hover": [evil]})
    panel = Panel(Axis(evil), Axis(evil), [Layer("points", point, label=evil)], evil)
    figure = ReportFigure(Chart("loss_steps", evil, evil, [panel]))
    table = ReportTable("t", evil, cells, cells, evil)
    reader = read(page(evil, evil, [evil], [Section(evil, [table], [figure], fitted, [evil], [evil])]))
    assert reader.tags.count("script") == SCRIPTS
    assert reader.tags.count("table") == 1


def test_a_trial_cannot_break_out_of_the_data_in_the_page(make_run):
    run = make_run()
    evil = "</script><!--<script>alert(1)//"
    run.add("xs", "failed", None, message=evil)
    run.add("xs", "complete", 4.0)
    report = build_report(analysis.load(run.path))
    reader = read(page(report.name, report.summary, report.notes, report.sections, report.trials))
    assert reader.tags.count("script") == SCRIPTS
    assert evil in json.loads(reader.texts["trial-data"])["trials"]["xs-0000"]


def test_the_json_has_every_fitted_number_under_its_path(written):
    report, folder, _ = written
    values = json.loads((folder / "report.json").read_text())
    for path, one in as_json(report.fitted).items():
        place = values
        for name in path.split("."):
            place = place[name]
        assert one.items() <= place.items()
    assert set(values["scaling"]["loss_nd"]) == {"E", "A", "B", "alpha", "beta"}
    assert "refused" in values["scaling"]["loss_nd"]["alpha"]


def test_the_same_run_gives_the_same_bytes(written, original, tmp_path):
    _, folder, names = written
    write_report(build_report(analysis.load(original.path)), tmp_path)
    different = [name for name in names if (folder / name).read_bytes() != (tmp_path / name).read_bytes()]
    assert different == []


def test_latex_has_the_rules_of_booktabs_and_escapes_what_is_special():
    cells = pd.DataFrame({"name_1": ["a & b", "about 50 %"], "loss": ["4.1 +- 0.1", "12"]})
    text = latex_table(cells, "n = 2\n50 % of a_b")
    for rule in ("\\toprule", "\\midrule", "\\bottomrule", "{lr}", "a \\& b", "50 \\%", "name\\_1", "4.1 $\\pm$ 0.1"):
        assert rule in text, rule
    assert text.splitlines()[1] == r"% \caption{n = 2 50 \% of a\_b}"


def test_estimates_become_value_interval_and_n():
    assert as_json({"x": Estimate(1.0, 0.5, 2.0, 7), "y": NotEstimable("too few")}) == {
        "x": {"value": 1.0, "low": 0.5, "high": 2.0, "n": 7},
        "y": {"refused": "too few"},
    }
