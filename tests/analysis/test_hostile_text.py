"""A run's folder whose names and messages were written by a stranger: they are shown, and do nothing else."""

import csv
import html
import json
import re

import pandas as pd
import pytest
from browser import CHROMIUM, open_page
from markdown_it import MarkdownIt
from test_page import SCRIPTS, read

import analysis
from analysis import report, status
from analysis.tables.files import ReportTable, latex_table, latex_text, spreadsheet_safe
from analysis.tables.formatting import is_numeric, markdown_table, markdown_text, table_cells
from lmcore.printable import printable

NAMES = [
    *(
        "$\\input{/etc/passwd}$",
        "|x|y",
        "<script>alert(1)</script>",
        "a\x1b[2Jb",
        "two\n\nlines\r",
        "[x](javascript:1)",
    ),
    *(
        "![x](http://evil)",
        "`id`",
        "_a_ **b** ~~c~~",
        "=HYPERLINK(1)",
        "@SUM(A1)",
        "[9pt]%&#^{}",
        "# title",
        "\u202egnp",
    ),
    *("$\\frac$", "&lt;b&gt;", "*starred", "\\", "-1+1", "> quoted", "***", "~struck~", "a---b", "a''b", "\\|", "{}"),
    *(
        "1. one",
        "12) twelve",
        "---",
        "===",
        "- dash",
        "www.evil.com",
        "https://evil.com",
        "a__b",
        r"\\ \hline",
        "'" * 5,
    ),
]
APOSTROPHE = "'"
MARKDOWN = MarkdownIt("gfm-like", {"linkify": False})
LATEX_COMMANDS = {  # those of the table, and those that stand for a character
    *("usepackage", "begin", "end", "toprule", "midrule", "bottomrule", "pm", "caption"),
    *("textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "textasciigrave"),
}
CHARACTERS = {
    **{name: name for name in "&%$#_{}"},
    **{"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<"},
    **{"textgreater": ">", "textbar": "|", "textasciigrave": "`"},
}
"""What a LaTeX command prints."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose sizes, experiments, messages, trial ids and name are NAMES, and its report."""
    from tests.analysis.conftest import RunFolder  # by its whole name: every folder of tests has a conftest

    studies = {name: f"study {number}" for number, name in enumerate(NAMES[:4])}
    run = RunFolder(tmp_path_factory.mktemp("hostile"), studies=studies, name=NAMES[2])
    sizes = list(studies)
    for number, name in enumerate(NAMES):
        size = sizes[number % len(sizes)]
        run.add(size, "complete", 4.0 + number / 10, experiment=name)
        run.add(size, "failed", None, experiment=name, message=f"{name}: {name}")
        run.add(size, "complete", 4.1 + number / 10, experiment=name, train__seed=1)
    return run.path


def terminal_safe(text):
    return not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_the_report_shows_such_names_and_nothing_more(hostile, capsys):
    assert report.main([str(hostile)]) == 0
    shown = capsys.readouterr()
    assert terminal_safe(shown.out + shown.err)
    assert r"a\x1b[2Jb" in shown.out
    assert report.main([str(hostile), "--brief"]) == 0
    assert terminal_safe(capsys.readouterr().out)
    files = list((hostile / "report").iterdir())
    assert {path.suffix for path in files} == {".csv", ".html", ".json", ".md", ".png", ".svg", ".tex"}
    for path in files:
        if path.suffix != ".png":
            assert terminal_safe(path.read_text()), path.name

    assert read((hostile / "report" / "report.html").read_text()).tags.count("script") == SCRIPTS
    for path in (path for path in files if path.suffix == ".md"):
        rendered = MARKDOWN.render(path.read_text())
        tags = set(re.findall(r"<(\w+)", rendered))
        assert not tags & {"script", "a", "em", "strong", "s", "code", "blockquote", "b"}, path.name
        assert not re.search(r'<img[^>]*src="(?!\w+\.svg")', rendered), path.name
        assert "<script>" not in rendered
    for path in (path for path in files if path.suffix == ".tex"):
        commands = set(re.findall(r"\\([a-zA-Z]+)", path.read_text()))
        assert commands <= LATEX_COMMANDS, path.name
    for path in (path for path in files if path.suffix == ".csv"):
        cells = [cell for line in csv.reader(path.open(newline="")) for cell in line]
        assert not [cell for cell in cells if re.match(r"[=+@]|-(?!\d)", cell)], path.name
    json.loads((hostile / "report" / "report.json").read_text())


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")
def test_a_browser_shows_the_panel_of_every_such_trial_and_runs_nothing(hostile, tmp_path):
    assert report.main([str(hostile), "--out", str(tmp_path / "out")]) == 0
    with open_page(tmp_path / "out" / "report.html", 1280, tmp_path / "profile") as tab:
        tab.value("window.alert = () => console.error('alert')")
        tab.value("for (const one of document.querySelectorAll('details')) one.open = true")
        rows = "[...document.querySelectorAll('#trials tbody tr')]"
        titles = tab.value(f"""{rows}.map(row => {{
            row.querySelector('a.trial')?.click();
            return [row.dataset.trial, document.querySelector('#trial h2')?.textContent];
        }})""")
        assert len(titles) == 3 * len(NAMES)
        assert [title for _, title in titles] == [trial for trial, _ in titles]
        assert tab.errors == []


def test_status_shows_such_names_and_nothing_more(hostile, capsys):
    assert status.main([str(hostile)]) == 0
    assert terminal_safe(capsys.readouterr().out)


def test_every_name_is_shown_as_it_is_in_markdown():
    newline = "\n"
    for name in NAMES:
        name = printable(name)
        paragraph = MARKDOWN.render(markdown_text(name))
        assert paragraph == f"<p>{html.escape(name.replace(newline, ' ')).replace('&#x27;', APOSTROPHE)}</p>{newline}"


def test_a_markdown_table_of_such_names_has_their_number_of_cells(hostile):
    trials = analysis.load(hostile).trials
    cells = table_cells(trials[["experiment", "message"]])
    rendered = MARKDOWN.render(markdown_table(cells))
    assert rendered.count("<td>") == 2 * len(trials)
    assert rendered.count("<tr>") == len(trials) + 1


def test_a_latex_table_of_such_names_has_their_number_of_cells(hostile):
    trials = analysis.load(hostile).trials
    cells = table_cells(trials[["experiment", "message"]])
    body = latex_table(cells).split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == len(trials)
    for line in body:
        assert line.endswith(r" \\")
        assert not line.startswith(("[", "*"))
        assert len(re.findall(r"(?<!\\)&", line)) == 1
        assert not re.search(r"(?<!\\)[#%_$]", line.replace(r"$\pm$", ""))


def latex_cells(line):
    """The texts that a line of a LaTeX table prints; fails at a character that would do something else.

    `{}` prints nothing, and separates characters that a font would join.
    """
    cells, place = [""], 0
    line = line.removesuffix(r" \\")
    while place < len(line):
        rest = line[place:]
        if command := re.match(r"\\([a-zA-Z]+)\{\}|\\([&%$#_{}])", rest):
            cells[-1] += CHARACTERS[command[1] or command[2]]
            place += command.end()
        elif rest.startswith("{}"):
            place += 2
        elif rest.startswith(" & "):
            cells.append("")
            place += 3
        else:
            assert rest[0] not in "\\{}$&#^_%~<>|`\n", line
            assert not re.match("--|''", rest), line
            cells[-1] += rest[0]
            place += 1
    return cells


def test_latex_prints_every_name_as_it_is():
    names = [printable(name).replace("\n", " ") for name in NAMES]
    cells = pd.DataFrame({name: [name, f"x{name}"] for name in names if not is_numeric([name])})
    table = latex_table(cells, "\n".join(names)).splitlines()
    heading, *lines = (line for line in table if line.endswith(r" \\"))
    assert latex_cells(heading) == list(cells.columns)
    assert [latex_cells(line) for line in lines] == cells.to_numpy().tolist()
    assert table[1].startswith("% ")  # the whole caption
    assert table[2].startswith(r"\begin{tabular}")
    for name in NAMES:
        assert latex_cells(latex_text(name)) == [" ".join(name.splitlines())]


def test_numbers_have_a_minus_sign_in_latex_and_names_keep_their_hyphen():
    cells = pd.DataFrame(
        {"trial": ["xs-0001"], "gap": ["-0.431 +- 0.2"], "interval": ["-0.6 to -0.2"], "lr": ["3e-03"]}
    )
    (_, body) = (line for line in latex_table(cells).splitlines() if line.endswith(r" \\"))
    assert body == r"xs-0001 & $-$0.431 $\pm$ 0.2 & $-$0.6 to $-$0.2 & 3e-03 \\"


def test_a_caption_is_escaped_in_markdown_files(tmp_path):
    cells = pd.DataFrame({"a|b": ["x"]})
    markdown = ReportTable("t", "T", cells, cells, "of <b>|`x`\n# y").save(tmp_path)[1].read_text()
    rendered = MARKDOWN.render(markdown)
    assert rendered.endswith("<p>of &lt;b&gt;|`x` # y</p>\n")
    assert "<th>a|b</th>" in rendered


def test_a_spreadsheet_finds_no_formula_and_every_number(hostile):
    trials = analysis.load(hostile).trials.assign(loss=-1.5)
    safe = spreadsheet_safe(trials[["experiment", "loss"]])
    assert safe["loss"].tolist() == [-1.5] * len(trials)
    assert not safe["experiment"].str.match(r"[=+@-]").any()
    formula = trials["experiment"].str.match(r"[=+@-]")
    assert safe["experiment"].tolist() == (formula.map({True: "'", False: ""}) + trials["experiment"]).tolist()


def test_a_report_is_not_written_through_a_link(make_run, tmp_path, capsys):
    run = make_run()
    run.add("xs", "complete", 4.0)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "parameters.csv").write_text("mine")
    (run.path / "report").symlink_to(precious)
    for _ in range(2):
        assert report.main([str(run.path)]) == 2
        refused = capsys.readouterr().err
        assert refused.startswith("--out: must be given if RUN/report is, or holds, a symbolic link")
        assert refused.count("\n") == 1
        assert (precious / "parameters.csv").read_text() == "mine"
        if (run.path / "report").is_symlink():
            (run.path / "report").unlink()
            (run.path / "report").mkdir()
            (run.path / "report" / "parameters.csv").symlink_to(precious / "parameters.csv")
    assert report.main([str(run.path), "--out", str(tmp_path / "elsewhere")]) == 0


def test_no_command_of_analysis_opens_an_address_that_only_the_folder_names(make_run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("LMSWEEP_STORAGE", raising=False)
    database = tmp_path / "elsewhere.db"
    address = f"sqlite:///{database}"
    run = make_run(storage=address)
    for command in (report.main, status.main):
        assert command([str(run.path)]) == 2
        assert capsys.readouterr().err == (
            f"--storage: {run.path}/manifest.json names a database, which is opened only if you confirm its address "
            f"(got {address}); add --storage {address}\n"
        )
        assert command([str(run.path), "--storage", address]) == 2  # there is none, and none is created
        assert "unable to open" in (said := capsys.readouterr().err) or "No such file" in said
        assert not database.exists()
    run.add("xs", "complete", 4.0)
    for command in (report.main, status.main):
        assert command([str(run.path), "--storage", address]) == 0
        monkeypatch.setenv("LMSWEEP_STORAGE", address)
        assert command([str(run.path)]) == 0
        monkeypatch.delenv("LMSWEEP_STORAGE")
