"""A browser shows report.html without a complaint, without asking for anything else, and inside its window."""

import pytest
from browser import CHROMIUM, show

import analysis
from analysis.report import build_report, write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")


@pytest.fixture(scope="module")
def written(original, tmp_path_factory):
    """The page of `original`."""
    folder = tmp_path_factory.mktemp("shown")
    write_report(build_report(analysis.load(original.path)), folder)
    return folder / "report.html"


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_inside_its_window_and_does_not_complain(written, tmp_path, width):
    shown = show(written, width, tmp_path / "profile")
    assert shown.complaints == []
    assert [one for one in shown.requests if not one.startswith("data:")] == [written.as_uri()]
    assert shown.overflow == 0
    assert shown.wider == []


def test_a_page_that_is_too_wide_asks_elsewhere_and_complains_would_be_seen(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<img src=missing.png style='width: 5000px'><script>throw new Error('seen')</script>")
    shown = show(page, 390, tmp_path / "profile")
    assert any("seen" in one for one in shown.complaints)
    assert len(shown.requests) == 2
    assert shown.overflow > 4000
    assert shown.wider == ["IMG."]
