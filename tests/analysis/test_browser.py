"""A browser shows report.html: it answers to the mouse and the keyboard, fits, can be read, and fetches nothing."""

import json
import shutil
import subprocess
import time

import pandas as pd
import pytest
from browser import CHROMIUM, open_page, show

import analysis
from analysis.document.page import page
from analysis.document.section import Section
from analysis.report import build_report, write_report
from analysis.tables.files import ReportTable

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")

OPEN_ALL = "for (const one of document.querySelectorAll('details')) one.open = true"
DRAWN = "[...document.querySelectorAll('figure')].every(one => one.classList.contains('live'))"
SCROLLED = """(async () => {
    for (const one of document.querySelectorAll('figure')) {
        one.scrollIntoView();
        await new Promise(done => setTimeout(done, 30));
    }
})()"""
CONTRAST = """
function rgba(text) { return (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number); }
function over([r, g, b, a = 1], below) { return [r, g, b].map((one, k) => one * a + below[k] * (1 - a)); }
function luminance(colour) {
    const [r, g, b] = colour.map(one => one / 255 <= .04045 ? one / 255 / 12.92 : ((one / 255 + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
}
function contrast(a, b) {
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (high + .05) / (low + .05);
}
function background(one) {
    if (!one) return [255, 255, 255];
    return over(rgba(getComputedStyle(one).backgroundColor), background(one.parentElement));
}
function opacity(one) { return one ? Number(getComputedStyle(one).opacity) * opacity(one.parentElement) : 1; }
function judged(one, property) {
    const [r, g, b, a = 1] = rgba(getComputedStyle(one)[property]), below = background(one);
    return contrast(over([r, g, b, a * opacity(one)], below), below);
}
"""
PALE_TEXTS = f"""(() => {{
    {CONTRAST}
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), pale = [];
    let seen = 0;
    while (walker.nextNode()) {{
        const one = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !one.checkVisibility()) continue;
        if (one.closest('script, style, .annotation')) continue;  // text in cells has their colour behind it
        seen++;
        const found = judged(one, one instanceof SVGElement ? 'fill' : 'color');
        if (found < 4.5) pale.push([walker.currentNode.data.trim().slice(0, 40), found.toFixed(2)]);
    }}
    return [seen, pale];
}})()"""
CONTEXT_PX = 1.1
"""Thinner lines are the faint background of others: all trials behind the best ones."""
PALE_MARKS = f"""(() => {{
    {CONTRAST}
    const marks = [...document.querySelectorAll('.plot .scatterlayer .js-line, .plot .scatterlayer .point')];
    return [marks.length, marks.flatMap(one => {{
        const found = Math.max(...['stroke', 'fill'].map(name =>
            getComputedStyle(one)[name] === 'none' ? 0 : judged(one, name)));
        const isContext = one.matches('.js-line') && parseFloat(getComputedStyle(one).strokeWidth) < {CONTEXT_PX};
        return found < 3 && !isContext ? [[one.closest('figure').id, one.getAttribute('style'), found.toFixed(2)]] : [];
    }})];
}})()"""
WHERE = """(() => {
    const box = document.querySelector('#figure-loss_steps .plot'), frame = box.querySelector('.nsewdrag');
    box.scrollIntoView({block: 'center'});
    const trace = box.data.find(one => one.customdata?.some(Boolean) && one.mode === 'lines');
    const k = trace.customdata.findIndex(Boolean), layout = box._fullLayout, place = frame.getBoundingClientRect();
    return [trace.customdata[k], place.x + layout.xaxis.d2p(trace.x[k]), place.y + layout.yaxis.d2p(trace.y[k])];
})()"""
"""A trial, and where the first point of its curve is in the window."""
COLUMN = """[...document.querySelectorAll('#trials tbody tr:not([hidden])')]
    .map(row => row.cells[HEADINGS.indexOf(NAME)].textContent.trim())"""
HEADINGS = "[...document.querySelectorAll('#trials thead th')].map(one => one.textContent.trim())"


@pytest.fixture(scope="module")
def written(original, tmp_path_factory):
    """Path of the page of `original`."""
    folder = tmp_path_factory.mktemp("shown")
    write_report(build_report(analysis.load(original.path)), folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser_tab(written, tmp_path_factory):
    with open_page(written, 1280, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser_tab, written):
    """The page as it is when it was opened just now, at 1280 pixels, with the figures that are not folded."""
    browser_tab.resize(1280)
    browser_tab.emulate("light")
    browser_tab.goto("about:blank")
    browser_tab.goto(written.as_uri())
    browser_tab.wait("document.querySelector('figure.live')")
    return browser_tab


def opened(tab):
    """Unfold everything and wait until all figures are drawn."""
    tab.value(OPEN_ALL)
    tab.value(SCROLLED)
    tab.wait(DRAWN)


def column(tab, name):
    return tab.value(COLUMN.replace("HEADINGS", HEADINGS).replace("NAME", json.dumps(name)))


def test_the_page_fits_every_window_fetches_nothing_and_causes_no_errors(tab, written):
    opened(tab)
    for width in (1600, 1280, 768, 390, 320):
        tab.resize(width)
        tab.value("new Promise(done => setTimeout(done, 300))")
        assert (tab.overflow, tab.overflowing) == (0, []), width
        shown = tab.value("[...document.querySelectorAll('.plot')].map(one => one.getBoundingClientRect().height)")
        assert min(shown) > 250, width
    assert tab.errors == []
    assert {one for one in tab.requests if not one.startswith("data:")} <= {written.as_uri(), "about:blank"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_and_all_marks_stand_out_from_the_page(tab, scheme):
    tab.emulate(scheme)
    opened(tab)
    tab.value("document.querySelector('a.trial').click()")  # which shows the panel
    texts, pale_texts = tab.value(PALE_TEXTS)
    marks, pale_marks = tab.value(PALE_MARKS)
    assert texts > 100
    assert marks > 5
    assert pale_texts == []
    assert pale_marks == []


def test_the_contrast_of_pale_text_is_seen_as_too_low(tab):
    tab.value("document.querySelector('h1').style.color = '#aaaaaa'")
    assert tab.value(PALE_TEXTS)[1] == [["quick", "2.32"]]


def test_hovering_shows_the_trial_and_its_settings_and_a_click_selects_it(tab):
    opened(tab)
    trial, x, y = tab.value(WHERE)
    tab.move(x, y)
    tab.wait("document.querySelector('#figure-loss_steps .hoverlayer text')")
    shown = tab.value("document.querySelector('#figure-loss_steps .hoverlayer').textContent")
    assert trial in shown
    assert "peak lr" in shown

    tab.click_at(x, y)
    tab.wait("!document.getElementById('trial').hidden")
    panel = tab.value("document.getElementById('trial').innerText")
    assert panel.startswith(trial)
    assert f"lmsweep run --config runs/quick/trials/{trial}/run.yaml" in panel
    assert f"lmsweep export runs/quick --trial {trial}" in panel
    assert "--set optim.lr=" in panel
    assert tab.value("document.querySelector('#trial svg polyline').points.length") > 1
    assert tab.value("document.querySelector('tr.chosen').id") == f"trial-{trial}"
    assert tab.value("location.hash") == f"#trial-{trial}"
    marked = "[...document.querySelectorAll('.plot')].filter(one => one.data.some(own => own.name === 'selected'"
    assert tab.value(f"{marked} && own.x.some(value => value !== null))).length") > 1

    tab.press("Escape", 27)
    assert tab.value("document.getElementById('trial').hidden")
    assert tab.value("location.hash") == ""
    assert tab.value(f"{marked} && own.x.some(value => value !== null))).length") == 0


def test_a_link_to_a_trial_unfolds_its_row_and_shows_its_panel(browser_tab, written):
    browser_tab.goto("about:blank")
    browser_tab.goto(f"{written.as_uri()}#trial-xs-0003")
    browser_tab.wait("!document.getElementById('trial').hidden")
    assert browser_tab.value("document.querySelector('#trial h2').textContent") == "xs-0003"
    top = browser_tab.value("document.getElementById('trial-xs-0003').getBoundingClientRect().top")
    assert 0 < top < 900


def test_a_click_on_the_legend_leaves_one_entry(tab):
    tab.value("document.getElementById('figure-loss_lr')?.closest('details')?.setAttribute('open', '')")
    opened(tab)
    named = tab.value(
        "[...document.querySelectorAll('figure.live')].find(one => one.querySelector('.legendtoggle')).id"
    )
    entries = f"[...new Set(document.querySelector('#{named} .plot')._fullData.filter(one => one.visible === true"
    shown = f"{entries} && one.name && one.legendgroup).map(one => one.legendgroup))]"
    before = tab.value(shown)
    assert len(before) > 1
    tab.click(f"#{named} .legendtoggle")
    tab.wait(f"{shown}.length === 1")
    assert tab.value(shown)[0] in before


def test_a_click_on_a_heading_sorts_numbers_as_numbers_and_missing_ones_last(tab):
    tab.value(OPEN_ALL)
    heading = "#trials thead th:nth-child(3) button"
    name = tab.value(f"document.querySelector({json.dumps(heading)}).textContent")
    for order, descending in (("ascending", False), ("descending", True)):
        tab.click(heading)
        assert tab.value("document.querySelector('#trials th[aria-sort]').ariaSort") == order
        cells = column(tab, name)
        known = [float(cell) for cell in cells if cell != "-"]
        assert len(known) > 4
        assert known == sorted(known, reverse=descending)
        assert cells[len(known) :] == ["-"] * (len(cells) - len(known)) != []
    # The keyboard does the same.
    tab.value(f"document.querySelector({json.dumps(heading)}).focus()")
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)
    assert tab.value("document.querySelector('#trials th[aria-sort]').ariaSort") == "ascending"


def test_numbers_with_suffixes_and_intervals_are_sorted_by_value(tmp_path):
    cells = pd.DataFrame(
        {"tokens": ["1.31M", "-", "950k", "2.00B", "12"], "loss": ["4.2 +- 0.1", "10", "-", "9", "-1.5"]}
    )
    (tmp_path / "page.html").write_text(
        page("x", "x", [], [Section("Points", [ReportTable("points", "P", cells, cells)])])
    )
    with open_page(tmp_path / "page.html", 1280, tmp_path / "profile") as tab:
        tab.click("th:nth-child(1) button")
        rows = "[...document.querySelectorAll('tbody tr')].map(row => row.cells[{}].textContent)"
        assert tab.value(rows.format(0)) == ["12", "950k", "1.31M", "2.00B", "-"]
        tab.click("th:nth-child(2) button")
        assert tab.value(rows.format(1)) == ["-1.5", "4.2 ± 0.1", "9", "10", "-"]
        assert tab.errors == []


def test_the_trials_are_filtered_by_words_and_by_status(tab):
    tab.value(OPEN_ALL)
    assert len(column(tab, "trial")) == 10
    tab.value("""(() => {
        const box = document.querySelector('.filters select[data-key=status]');
        box.value = 'complete';
        box.dispatchEvent(new Event('input'));
    })()""")
    assert set(column(tab, "status")) == {"complete"}
    tab.click(".filters input")
    tab.call("Input.insertText", text="s-000")
    assert tab.value("document.querySelector('.filters [role=status]').textContent") == "5 of 10"
    tab.call("Input.insertText", text="1")
    assert column(tab, "trial") == ["xs-0001", "s-0001"]


def test_paper_has_the_static_figures_everything_unfolded_and_no_controls(tab):
    opened(tab)
    tab.emulate("dark", media="print")
    assert tab.value("[...document.querySelectorAll('figure svg.static')].every(one => one.checkVisibility())")
    assert not tab.value(
        "[...document.querySelectorAll('.plot, .filters, nav, #theme')].some(one => one.checkVisibility())"
    )
    assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    texts = "[...document.querySelectorAll('td, th, p, li, figcaption')]"
    sizes = f"{texts}.map(one => parseFloat(getComputedStyle(one).fontSize))"
    assert tab.value(f"Math.min(...{sizes})") >= 8 * 96 / 72 - 0.01
    assert tab.value("parseFloat(getComputedStyle(document.querySelector('figcaption')).fontSize)") <= 10 * 96 / 72
    tab.emulate()


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs pdftotext")
def test_a_pdf_of_the_folded_page_has_all_sections_and_nothing_is_cut_off(tab, tmp_path):
    (tmp_path / "page.pdf").write_bytes(tab.pdf())
    text = subprocess.run(
        ["pdftotext", "-layout", tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout
    for words in ("Hyperparameters", "xs-0004 diverged: loss is nan at step 3", "validation loss (nats", "s-0003"):
        assert words in text, words
    information = subprocess.run(["pdfinfo", tmp_path / "page.pdf"], capture_output=True, text=True, check=True).stdout
    assert "A4" in information
    assert not tab.value("document.querySelector('details.section').open")


def test_without_scripts_the_page_shows_its_figures_and_leads_to_trials(written, tmp_path):
    with open_page(written, 1280, tmp_path / "profile") as tab:
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        tab.call("Page.navigate", url=f"{written.as_uri()}?plain#trial-xs-0003")  # a query makes it load anew
        for _ in range(200):
            time.sleep(0.05)
            if tab.value("location.search === '?plain' && document.readyState === 'complete'"):
                break
        assert tab.value("document.querySelector('#answer svg.static').checkVisibility()")
        assert tab.value("document.querySelector('#answer svg.static text') !== null")
        assert tab.value("document.getElementById('theme').hidden")


def test_a_page_that_overflows_fetches_and_fails_is_detected(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<img src=missing.png style='width: 5000px'><script>throw new Error('seen')</script>")
    shown = show(bad, 390, tmp_path / "profile")
    assert any("seen" in one for one in shown.errors)
    assert len(shown.requests) == 2
    assert shown.overflow > 4000
    assert shown.overflowing == ["IMG."]
