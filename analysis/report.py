"""The report of a sweep: `python analysis/report.py RUN [RUN ...]`, or of a CSV file of trials with `--columns`.

Prints tables, fitted numbers with intervals, and the caveats that go with them. Writes to RUN/report: report.html (one
file that needs nothing else), report.md, report.json (every fitted number under a plain path), the figures as SVG and
PNG, and every table as CSV, Markdown and LaTeX. What a report contains is decided in `analysis.document.sections` and
`analysis.document.notes`.

Exit codes: 0, also when every trial diverged or failed (the report says so); 2 with one line on stderr when the input
cannot be read or the report cannot be written.
"""

import argparse
import atexit
import gc
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

if not __package__:  # started as a script: import from the checkout, and no file of analysis/ as a top-level module
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd
from rich.console import Group

from analysis.document.notes import notes, summary, summary_of_points
from analysis.document.page import page
from analysis.document.report_text import NO_ROWS, body, conclusion
from analysis.document.section import Section, fitted_cells
from analysis.document.sections import sections_of_points, sections_of_run
from analysis.document.trial_index import TrialIndex
from analysis.runs.combine import load_all
from analysis.runs.load import Run, RunError
from analysis.runs.trial_csv import parse_columns, read_trials
from analysis.stats.estimate import Fitted, as_json
from analysis.tables.formatting import markdown_table, markdown_text
from lmcore import columns as col
from lmcore.errors import OneLineParser, print_error
from lmcore.notebook import html_card, html_lines, html_text
from lmcore.printable import printable
from lmcore.run_folders import run_hint
from lmcore.study_database import STORAGE_HELP, mask_password
from lmcore.terminal.console import PIPE_WIDTH, as_text, print_out, prose_width

SCHEMA = 1
DESCRIPTION = """\
Tables, figures and fitted numbers of sweeps, printed and written to RUN/report: report.html, report.md, report.json,
and every table and figure as a file.
"""
EXAMPLES = """\
examples:
  {prog} runs/quick
      the answer, tables, figures and fits
  {prog} runs/small runs/large
      several runs on the same data, side by side
  {prog} trials.csv --columns N=params,D=tokens,loss=val_loss,lr=lr
      trials of another tool
"""


@dataclass(frozen=True, repr=False)
class Report:
    """Sections of tables, figures and fitted numbers, and the notes beside them.

    >>> report = build_report(analysis.load("runs/quick"))
    >>> print(report.text(width=80))
    >>> report.fitted["optimum.lr.xs"].value
    """

    name: str  # name of the run, or of the CSV file
    summary: str  # how many trials there are, and how they ended
    sections: tuple[Section, ...]
    notes: tuple[str, ...]  # caveats, and the data and versions that the tables rest on
    trials: TrialIndex | None = None  # what the page shows of a selected trial
    folder: Path | None = None  # where it was written; None if it was not
    dotted: frozenset[str] = frozenset()  # names of sizes and arms that have a dot: `0.1M`

    def __repr__(self) -> str:
        where = "not written" if self.folder is None else f"written to {self.folder}"
        return f"<Report {self.name}: {self.summary}; {where}>"

    def _repr_html_(self) -> str:
        answers = [line for section in self.sections for line in section.lead]
        return html_card(self.name, html_lines([self.summary, *answers]), *self._links())

    def _links(self) -> list[str]:
        """The page as a link that a notebook's server opens, relative to the working directory."""
        page = None if self.folder is None else self.folder / "report.html"
        if page is None or not page.is_file():
            return []
        address = quote(os.path.relpath(page))
        return [
            f'<p style="margin:.3em 0"><a href="{html_text(address)}" target="_blank">{html_text(str(page))}</a></p>'
        ]

    @property
    def fitted(self) -> dict[str, Fitted]:
        """All fitted numbers by plain path."""
        return {path: one for section in self.sections for path, one in section.fitted.items()}

    def text(self, width: int = PIPE_WIDTH) -> str:
        """The report for a terminal of this many characters: tables, fitted numbers and notes, and last the answer."""
        return "\n\n".join(filter(None, (as_text(part, width) for part in (self.body(width), self.conclusion(width)))))

    def body(self, width: int = PIPE_WIDTH) -> Group:
        """The text without the answer, for rich: the main tables, fitted numbers and notes."""
        return body(self.name, self.summary, self.sections, self.notes, width)

    def conclusion(self, width: int = PIPE_WIDTH) -> Group:
        """The answer, for rich: what the leading settings are, and last a sentence per size."""
        return conclusion(self.sections, width)

    def markdown(self) -> str:
        """The report for a file: all tables, numbers and figures."""
        parts = [f"# {markdown_text(self.name)}", markdown_text(self.summary)]
        for section in filter(None, self.sections):
            figures = [
                f"![{markdown_text(figure.title)}]({figure.name}.svg)\n\n{markdown_text(figure.caption)}"
                for figure in section.figures
            ]
            parts += [f"## {markdown_text(section.title)}", *map(markdown_text, section.lead), _bullets(section.notes)]
            for table in section.shown_tables:
                rows = markdown_table(table.cells) if len(table.cells) else NO_ROWS
                parts += [f"### {markdown_text(table.title)}", rows, markdown_text(table.caption)]
            if section.estimates:
                parts += ["### Fitted numbers", markdown_table(fitted_cells(section.estimates))]
            parts += figures
            if section.refusal:
                reasons = [f"{reason}: {', '.join(paths)}" for reason, paths in section.unsaid.items()]
                which = ["<details><summary>Which numbers</summary>", _bullets(reasons), "</details>"]
                parts += [markdown_text(section.refusal), *which]
        if self.notes:
            parts += ["## Notes", _bullets(self.notes)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def json(self) -> dict[str, Any]:
        """Every fitted number, nested by its path."""
        values: dict[str, Any] = {"schema": SCHEMA, "name": self.name, "summary": self.summary, "notes": self.notes}
        for path, one in as_json(self.fitted).items():
            place = values
            for name in _keys(path, self.dotted):
                place = place.setdefault(name, {})
            place.update(one)
        return values


def build_report(run: Run, brief: bool = False, folders: Sequence[Path] = ()) -> Report:
    """The report of a run, or of several that were combined; `brief` leaves out figures and fits. Writes nothing.

    The commands on the page name `folders`, those of the runs; without them, runs/ and the name of each run.
    """
    sections = sections_of_run(run, brief)
    parameters = sections[0].tables[0].frame
    name, index = str(run.manifest.get("name", "run")), TrialIndex.of_run(run, folders)
    named = {str(one) for column in (col.SIZE, col.ARM, col.EXPERIMENT) for one in run.trials[column].dropna().unique()}
    dotted = frozenset(one for one in named if "." in one)
    return Report(name, summary(run.trials), tuple(sections), notes(run, parameters), index, dotted=dotted)


def report_of_points(name: str, points: pd.DataFrame) -> Report:
    """The report of trials from a CSV file (`analysis.runs.trial_csv.read_trials`)."""
    return Report(name, summary_of_points(points), tuple(sections_of_points(points)), ())


def write_report(report: Report, folder: Path, brief: bool = False) -> list[Path]:
    """Write the tables, the figures and, unless `brief`, the page into `folder`, and return the paths of all files.

    The folder is created if need be. A brief report leaves the page of an earlier one as it is. Raises OSError if a
    file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [path for section in report.sections for table in section.tables for path in table.save(folder)]
    paths += [path for section in report.sections for figure in section.figures for path in figure.save(folder)]
    if brief:
        return paths
    texts = {
        "report.html": page(report.name, report.summary, report.notes, report.sections, trials=report.trials),
        "report.md": report.markdown(),
        "report.json": json.dumps(report.json(), indent=2, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [*paths, *(folder / name for name in texts)]


def main(argv: Sequence[str] | None = None, prog: str = "python analysis/report.py") -> int:
    """Write and print the report, and return the exit code. `prog` is the command as the user typed it."""
    arguments = _parser(prog).parse_args(argv)
    if arguments.standby and not wait_for_end():
        return 0
    first = arguments.runs[0]
    out = arguments.out or (first / "report" if first.is_dir() else first.with_name(f"{first.stem}-report"))
    try:
        _check(arguments)
        if arguments.columns is None:
            report = build_report(load_all(arguments.runs, arguments.storage), arguments.brief, arguments.runs)
        else:
            report = report_of_points(first.stem, _points(arguments))
        write_report(report, out, arguments.brief)
    except RunError as error:
        print_error(error)
        return 2
    except OSError as error:
        rule = f"RUN must be readable and --out writable, but {error.filename} is not ({error.strerror})"
        print_error(f"{rule}; change its permissions or give another --out")
        return 2
    print_out(report.body(prose_width()))
    files = "tables as CSV, MD and TEX" if arguments.brief else "tables, figures, report.html, report.md, report.json"
    print(f"\nWritten to {out}: {files}")
    if arguments.brief:
        storage = [] if arguments.storage is None else ["--storage", mask_password(arguments.storage)]
        print(f"Figures and fits: {prog} {shlex.join([*map(str, arguments.runs), *storage])}")
    answer = report.conclusion(prose_width())
    if answer.renderables:
        print()
        print_out(answer)
    return 0


def wait_for_end() -> bool:
    """Wait until a line on standard input says that the run has ended: JSON of environment variables to set, such as
    the size of the terminal. False if that never happens, because whoever started this process has ended."""
    line = sys.stdin.readline()
    if not line:
        return False
    os.environ.update(json.loads(line))
    return True


def _check(arguments: argparse.Namespace) -> None:
    """Raise RunError if the options for a CSV file do not go with the given RUNs."""
    runs = arguments.runs
    if arguments.columns is None:
        for option in ("flops_column", "batch_column", "batch_unit_tokens", "drop_highest_loss"):
            if getattr(arguments, option) is not None:
                flag = f"--{option.replace('_', '-')}"
                raise RunError(f"{flag}: is for a CSV file, which needs --columns as well; add it, or leave this out")
        if arguments.out is None:
            check_links(runs[0] / "report")
        for run in runs:
            if run.is_file():
                rule = f"--columns: must name the columns of a CSV file (got {run}); add N=...,D=...,loss=..."
                own = run_hint(run, "")
                raise RunError(f"{rule}, or give the run's folder, {own}" if own else rule)
    elif arguments.storage is not None:
        raise RunError("--storage: is for a run's folder, but --columns reads a CSV file; leave one out")
    elif len(runs) > 1:
        raise RunError(f"--columns: reads one CSV file (got {len(runs)}); give one")
    elif runs[0].is_dir():
        raise RunError(f"--columns: reads a CSV file, but {runs[0]} is a folder; leave --columns out")


def check_links(report: Path) -> None:
    """Raise RunError if RUN/report is or holds a symbolic link: a stranger's could lead to any file of the user's."""
    for path in (report, *(report.iterdir() if report.is_dir() else ())):
        if path.is_symlink():
            rule = "must be given if RUN/report is, or holds, a symbolic link, which would be written through"
            raise RunError(f"--out: {rule} (got {printable(f'{path} to {path.readlink()}')}); delete it, or give --out")


def _points(arguments: argparse.Namespace) -> pd.DataFrame:
    """The trials of the CSV file."""
    columns = parse_columns(arguments.columns)
    if arguments.batch_column is not None:
        columns["batch"] = arguments.batch_column
    unit = 1.0 if arguments.batch_unit_tokens is None else arguments.batch_unit_tokens
    return read_trials(arguments.runs[0], columns, arguments.flops_column, unit, arguments.drop_highest_loss or 0)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        usage=f"{prog} [-h] [options] RUN [RUN ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES.format(prog=prog),
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folders of runs, runs/<name>; or a CSV file")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: report/ in the first RUN)")
    parser.add_argument("--storage", metavar="URL", help=STORAGE_HELP)
    parser.add_argument("--brief", action="store_true", help="tables only, as at the end of a sweep")
    parser.add_argument("--standby", action="store_true", help=argparse.SUPPRESS)  # see `wait_for_end`
    table = parser.add_argument_group("a CSV file of trials from another tool")
    table.add_argument("--columns", metavar="N=...,D=...,loss=...[,lr=...]", help="the names of its columns")
    table.add_argument("--flops-column", metavar="C", help="training FLOPs, in place of D: D = C / 6N")
    table.add_argument("--batch-column", metavar="B", help="batch size, for the law of the optimal batch")
    table.add_argument("--batch-unit-tokens", metavar="T", type=float, help="tokens per unit of it (default: 1)")
    table.add_argument("--drop-highest-loss", metavar="n", type=int, help="leave out the n rows with the highest loss")
    return parser


def _keys(path: str, dotted: frozenset[str]) -> list[str]:
    """The parts of a path; a name that has a dot is one of them.

    >>> _keys("answer.0.1M.loss", frozenset({"0.1M"}))
    ['answer', '0.1M', 'loss']
    """
    names = "|".join(map(re.escape, sorted(dotted, key=len, reverse=True)))
    return re.findall(rf"(?:(?<=\.)|^)(?:{names})(?=\.|$)|[^.]+" if names else r"[^.]+", path)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `report.py RUN | head` ends as quietly as `cat FILE | head`
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    atexit.register(gc.freeze)  # or the interpreter would spend 0.6 s on garbage before it exits
    raise SystemExit(main())
