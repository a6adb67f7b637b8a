"""A browser shows report.html without errors, without fetching anything else, and without overflow."""

import pytest
from browser import CHROMIUM, show

import analysis
from analysis.report import build_report, write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")


@pytest.fixture(scope="module")
def written(original, tmp_path_factory):
    """Path of the page of `original`."""
    folder = tmp_path_factory.mktemp("shown")
    write_report(build_report(analysis.load(original.path)), folder)
    return folder / "report.html"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_window_and_causes_no_errors(written, tmp_path, width):
    shown = show(written, width, tmp_path / "profile")
    assert shown.errors == []
    assert [one for one in shown.requests if not one.startswith("data:")] == [written.as_uri()]
    assert shown.overflow == 0
    assert shown.overflowing == []


def test_a_page_that_overflows_fetches_and_fails_is_detected(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<img src=missing.png style='width: 5000px'><script>throw new Error('seen')</script>")
    shown = show(page, 390, tmp_path / "profile")
    assert any("seen" in one for one in shown.errors)
    assert len(shown.requests) == 2
    assert shown.overflow > 4000
    assert shown.overflowing == ["IMG."]
