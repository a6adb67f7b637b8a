"""report.html needs no other file, and names and messages of trials are escaped in it."""

import html.parser
import json
import re

import pandas as pd
import pytest

import analysis
from analysis.document.page import Section, page
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

    VOID = ("meta", "link", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(text):
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def test_the_page_is_well_formed_and_fetches_nothing(written):
    report, folder, _ = written
    text = (folder / "report.html").read_text()
    reader = read(text)
    assert "script" not in reader.tags
    assert all(source.startswith(("#", "data:")) for source in reader.sources)
    assert reader.tags.count("figure") == sum(len(section.figures) for section in report.sections) >= 6


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
    text = page(evil, evil, [evil], [Section(evil, [ReportTable("t", evil, cells, cells, evil)], (), fitted, [evil])])
    assert "script" not in read(text).tags


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
