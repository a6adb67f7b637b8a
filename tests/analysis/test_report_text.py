"""The report's tables at every width: which columns they show, and that no cell is broken."""

import io
import re

import pytest
from rich.console import Console

import analysis
from analysis.report import build_report
from analysis.tables.formatting import parameter_cells
from analysis.tables.trials import parameter_table
from lmcore.terminal.console import as_text

LEFT_OUT = {
    60: "8 columns are left out: est., non-emb, tokens, FLOPs, ppl, bpb, beta2, warmup",
    80: "6 columns are left out: est., non-emb, FLOPs, ppl, bpb, warmup",
    120: "",
    200: "",
}


@pytest.fixture
def report(folder):
    return build_report(analysis.load(folder.path), brief=True)


@pytest.mark.parametrize("width", LEFT_OUT)
def test_the_parameter_table_leaves_out_what_does_not_fit_by_rank_and_says_so(report, width):
    text = report.text(width)
    assert max(map(len, text.splitlines())) <= width
    paragraph = text.split("\n\n")[2]
    note = re.search(r"\d+ columns? (?:is|are) left out: [^;]*", " ".join(paragraph.split()))
    assert (note[0] if note else "") == LEFT_OUT[width]


@pytest.mark.parametrize("width", LEFT_OUT)
def test_the_keys_and_the_loss_are_shown_whole_at_every_width(report, folder, width):
    cells = parameter_cells(parameter_table(analysis.load(folder.path).trials))
    lines = report.text(width).split("\n\n")[2].splitlines()
    for _, row in cells.iterrows():
        assert any(line.startswith(f"{row['size']} ") and row["loss"] in line for line in lines)


def test_the_best_of_a_size_is_bold_and_what_diverged_is_red_on_a_terminal(report):
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard", _environ={})
    console.print(report.body())
    lines = console.file.getvalue().splitlines()
    [best] = [line for line in lines if "xs-0000" in line and "complete" in line]
    [diverged] = [line for line in lines if "xs-0004" in line and "diverged:" not in line]
    assert "\x1b[1m" in best
    assert "\x1b[31m" in diverged
    assert "\x1b" not in as_text(report.body(), 200)
