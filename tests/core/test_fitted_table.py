"""Tables that fit their terminal: which columns are left out, that no word is broken, and where colours go."""

import io

import pytest

from lmcore.terminal.console import as_text, output_width, print_out, short_digests, wrapped, wrapped_command
from lmcore.terminal.table import Column, FittedTable


def table():
    columns = [
        Column("size"),
        Column("params exact", rank=2, right=True),
        Column("matching", rank=1, wraps=True),
        Column("beta2", rank=4, right=True),
        Column("trial", rank=3),
    ]
    made = FittedTable(columns, "parameters.csv")
    made.add("xs", "1,064,960", "same shape, non-embedding parameters", "0.95", "xs-untied-0000")
    made.add("medium", "12", "same shape", "0.999", "medium-untied-0001", style="bold")
    return made


GOLDEN = {
    100: """\
size    params exact  matching                              beta2  trial
xs         1,064,960  same shape, non-embedding parameters   0.95  xs-untied-0000
medium            12  same shape                            0.999  medium-untied-0001""",
    72: """\
           params
size        exact  matching                    beta2  trial
xs      1,064,960  same shape, non-embedding    0.95  xs-untied-0000
                   parameters
medium         12  same shape                  0.999  medium-untied-0001""",
    65: """\
           params
size        exact  matching                    trial
xs      1,064,960  same shape, non-embedding   xs-untied-0000
                   parameters
medium         12  same shape                  medium-untied-0001
1 column is left out: beta2; a wider terminal or parameters.csv
has it""",
    46: """\
           params
size        exact  matching
xs      1,064,960  same shape, non-embedding
                   parameters
medium         12  same shape
2 columns are left out: beta2, trial; a wider
terminal or parameters.csv has them""",
    30: """\
size
xs
medium
4 columns are left out: params
exact, matching, beta2, trial;
a wider terminal or
parameters.csv has them""",
}


@pytest.mark.parametrize("width", GOLDEN)
def test_columns_are_left_out_by_rank_and_named_and_headings_and_texts_wrap_at_spaces(width):
    assert as_text(table(), width) == GOLDEN[width]


@pytest.mark.parametrize("width", range(30, 101, 7))
def test_every_line_fits_and_no_cell_is_broken(width):
    lines = as_text(table(), width).splitlines()
    assert max(map(len, lines)) <= width
    words = {word for made in (table(),) for cells, _ in made.rows for cell in cells for word in cell.split()}
    headings = {word for column in table().columns for word in column.heading.split()}
    note = " ".join(lines).partition(" left out: ")[0].rsplit(" ", 3)[0].split()
    assert set(note) <= words | headings


def test_a_name_that_is_wider_than_the_terminal_ends_in_an_ellipsis():
    made = FittedTable([Column("experiment"), Column("loss", right=True)])
    made.add("an-experiment-with-a-name-that-is-too-long", "4.123")
    assert as_text(made, 30) == "experiment                loss\nan-experiment-with-a-n…  4.123"


def test_what_is_piped_has_no_control_codes_and_no_trailing_spaces():
    file = io.StringIO()
    print_out(table(), file, 100)
    assert file.getvalue() == GOLDEN[100] + "\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_styles_and_no_color_takes_the_colours_back(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    made = FittedTable([Column("trial")])
    made.add("xs-0001", style="red")
    shown = {}
    for no_color in ("", "1"):
        monkeypatch.setenv("NO_COLOR", no_color)
        file = Terminal()
        print_out(made, file, 80)
        shown[no_color] = file.getvalue()
    assert "\x1b[31m" in shown[""]
    assert "\x1b[31m" not in shown["1"]
    assert "xs-0001" in shown["1"]


@pytest.mark.parametrize(
    ("columns", "width"), [("80", 80), ("20", 60), ("1000", 200), ("", 120), ("0", 120), ("wide", 120)]
)
def test_a_pipe_has_120_characters_or_columns_of_them(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert output_width(io.StringIO()) == width


def test_prose_is_broken_at_spaces_only():
    path = "/a/path/that-is-longer-than/the/line"
    assert wrapped(f"see {path} for more", 20, "  ") == f"see\n  {path}\n  for more"


def test_a_command_that_is_broken_is_still_one_command():
    import shlex

    command = "lmsweep run --set data.source=my_text.txt --set train.steps=1000 --name mine --trials 32"
    text = wrapped_command(command, 60)
    assert max(map(len, text.splitlines())) <= 60
    assert not any(line.endswith("--set \\") for line in text.splitlines())
    assert shlex.split(text.replace("\\\n", " ")) == shlex.split(command)
    assert wrapped_command("lmsweep status runs/quick", 60) == "  lmsweep status runs/quick"


def test_long_digests_are_cut_as_git_cuts_them_and_other_words_are_not():
    fingerprint = "0123456789abcdef" * 4
    text = f"fingerprint {fingerprint}; commit {fingerprint[:40]}+changes-59e2f510, decade, 0123456789abcdef"
    assert short_digests(text) == (
        "fingerprint 0123456789ab; commit 0123456789ab+changes-59e2f510, decade, 0123456789abcdef"
    )
