"""What sweeps found, for people: `python analysis/report.py RUN [RUN ...]`, or a CSV of trials with `--columns`.

Prints tables, fitted numbers with intervals, and what has to be known to read them. Writes to RUN/report: report.html
(one file that needs nothing else), report.md, report.json (every fitted number under a plain path), the figures as SVG
and PNG, and every table as CSV, Markdown and LaTeX. The numbers are those of `analysis.document.sections`, the
sentences those of `analysis.document.notes`. Exit codes: 0, also when every trial diverged or failed (the report says
so); 2 with one line on stderr when the input cannot be read or the report cannot be written.
"""

import argparse
import json
import signal
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: import from the checkout, and no file of analysis/ as a top-level module
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd

from analysis.document.notes import notes, summary
from analysis.document.page import Section, page
from analysis.document.sections import PARAMETERS, sections_of_points, sections_of_run
from analysis.runs.combine import load_all
from analysis.runs.load import Run, RunError
from analysis.runs.trial_csv import LOSS, D, N, parse_columns, read_trials
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, as_json
from analysis.tables.files import ReportTable
from analysis.tables.formatting import markdown_table, text_table, trial_cells
from analysis.tables.trials import TIED
from lmcore import columns as col

WIDTH = 120  # characters of a line on the terminal
PRINTED_TRIALS = 10  # of each size; the files have all
NO_ROWS = "(none: no trial has a validation loss)"
SCHEMA = 1


@dataclass(frozen=True)
class Report:
    """What was found, and what has to be said beside it."""

    name: str
    """Of the run, or of the CSV file."""
    summary: str
    """How many trials there are, and how they ended."""
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    """Sentences that keep the tables from being misread, and what data and versions they rest on."""

    @property
    def fitted(self) -> dict[str, Fitted]:
        """All fitted numbers by plain path."""
        return {path: one for section in self.sections for path, one in section.fitted.items()}

    def table(self, name: str) -> ReportTable | None:
        """The table of this name, if there is one."""
        return next((table for section in self.sections for table in section.tables if table.name == name), None)

    def text(self) -> str:
        """For a terminal: at most WIDTH characters a line, at most PRINTED_TRIALS trials of each size."""
        parts = [f"{self.name}: {self.summary}"]
        parameters, trials = self.table("parameters"), self.table("trials")
        if parameters is not None:
            shown = text_table(parameters.cells, WIDTH, keys=[col.SIZE, col.EXPERIMENT, TIED])
            parts += [PARAMETERS, shown if len(parameters.cells) else NO_ROWS]
        if trials is not None:
            first = trials.frame.groupby(col.SIZE, sort=False).head(PRINTED_TRIALS)
            hidden = len(trials.frame) - len(first)
            title = f"Trials ({hidden} more in trials.csv)" if hidden else "Trials"
            parts += [title, text_table(trial_cells(first), WIDTH, keys=[col.TRIAL])]
        known = [_fitted_cells(path, one) for path, one in self.fitted.items() if isinstance(one, Estimate)]
        refused = [one.reason for one in self.fitted.values() if isinstance(one, NotEstimable)]
        if refused and not known:
            said = f"Fitted numbers: none; {len(refused)} were refused (report.html says why). The first: {refused[0]}"
            parts.append(textwrap.fill(said, WIDTH))
        if known:
            more = f"; {len(refused)} more were refused (report.html says why)" if refused else ""
            cells = pd.DataFrame(known, columns=["number", "value", "95 % interval", "n"])
            parts += [f"Fitted numbers{more}", text_table(cells, WIDTH, keys=["number"])]
        parts.append("\n".join(textwrap.fill(f"- {note}", WIDTH, subsequent_indent="  ") for note in self.notes))
        return "\n\n".join(part for part in parts if part)

    def markdown(self) -> str:
        """For a file: all tables, numbers and figures."""
        parts = [f"# {self.name}", self.summary]
        if self.notes:
            parts += ["## Notes", "\n".join(f"- {note}" for note in self.notes)]
        for section in filter(None, self.sections):
            parts.append(f"## {section.title}")
            if section.notes:
                parts.append("\n".join(f"- {note}" for note in section.notes))
            for table in section.tables:
                parts += [
                    f"### {table.title}",
                    markdown_table(table.cells) if len(table.cells) else NO_ROWS,
                    table.caption,
                ]
            if section.fitted:
                cells = [_fitted_cells(path, one) for path, one in section.fitted.items()]
                columns = ["number", "value", "95 % interval", "n"]
                parts += ["### Fitted numbers", markdown_table(pd.DataFrame(cells, columns=columns))]
            parts += [f"![{figure.title}]({figure.name}.svg)\n\n{figure.caption}" for figure in section.figures]
        return "\n\n".join(part for part in parts if part) + "\n"

    def json(self) -> dict[str, Any]:
        """Every fitted number, nested by its path."""
        values: dict[str, Any] = {"schema": SCHEMA, "name": self.name, "summary": self.summary, "notes": self.notes}
        for path, one in as_json(self.fitted).items():
            *parents, last = path.split(".")
            place = values
            for parent in parents:
                place = place.setdefault(parent, {})
            place.setdefault(last, {}).update(one)
        return values


def build_report(run: Run, brief: bool = False) -> Report:
    """Tables, figures, numbers and sentences of a run; `brief` leaves figures and fits out.

    Computes only: prints and writes nothing.
    """
    sections = sections_of_run(run, brief)
    parameters = sections[0].tables[0].frame
    return Report(str(run.manifest.get("name", "run")), summary(run.trials), tuple(sections), notes(run, parameters))


def report_of_points(name: str, points: pd.DataFrame) -> Report:
    """The same of trials from a CSV (`analysis.runs.trial_csv.read_trials`)."""
    diverged = len(points) - int(np.isfinite(points[LOSS]).sum())
    numbers = {"trial": len(points), "size": points[N].nunique(), "token count": points[D].nunique()}
    said = ", ".join(f"{number} {noun}{'s' * (number != 1)}" for noun, number in numbers.items())
    said += f"; {diverged} diverged" * bool(diverged)
    return Report(name, said, tuple(sections_of_points(points)), ())


def write_report(report: Report, folder: Path, brief: bool = False) -> list[Path]:
    """Write everything into `folder`, made if need be; the files. Raises OSError if it cannot.

    A brief report has no page: what an earlier, whole one has left there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [path for section in report.sections for table in section.tables for path in table.save(folder)]
    written += [path for section in report.sections for figure in section.figures for path in figure.save(folder)]
    texts = (
        {}
        if brief
        else {
            "report.html": page(report.name, report.summary, report.notes, report.sections),
            "report.md": report.markdown(),
            "report.json": json.dumps(report.json(), indent=2, allow_nan=False) + "\n",
        }
    )
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [*written, *(folder / name for name in texts)]


def main(argv: Sequence[str] | None = None, prog: str = "python analysis/report.py") -> int:
    """Write and print the report, and return the exit code. `prog` is the command as the user typed it."""
    arguments = _parser(prog).parse_args(argv)
    first = arguments.runs[0]
    out = arguments.out or (first / "report" if first.is_dir() else first.with_name(f"{first.stem}-report"))
    try:
        report = _report(arguments)
        write_report(report, out, arguments.brief)
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"RUN must be readable and --out writable, but {error.filename} is not ({error.strerror}); "
            "change its permissions or give another --out",
            file=sys.stderr,
        )
        return 2
    print(report.text())
    page_and_figures = "" if arguments.brief else "report.html, report.md, report.json; figures as SVG and PNG; "
    print(f"\nWritten to {out}: {page_and_figures}tables as CSV, MD and TEX")
    if arguments.brief:
        print(f"Figures and fits: {prog} {arguments.runs[0]}")
    return 0


def _report(arguments: argparse.Namespace) -> Report:
    runs, csv = arguments.runs, arguments.columns is not None
    of_csv = {"--flops-column": arguments.flops_column, "--batch-column": arguments.batch_column}
    of_csv |= {"--batch-unit-tokens": arguments.batch_unit_tokens, "--drop-highest-loss": arguments.drop_highest_loss}
    if not csv:
        given = [name for name, value in of_csv.items() if value is not None]
        if given:
            raise RunError(f"{given[0]}: is for a CSV file, and needs --columns beside it; add it, or leave this out")
        table = next((run for run in runs if run.is_file()), None)
        if table is not None:
            raise RunError(f"--columns: must name the columns of a CSV file (got {table}); add N=...,D=...,loss=...")
        return build_report(load_all(runs), arguments.brief)
    if len(runs) > 1:
        raise RunError(f"--columns: reads one CSV file (got {len(runs)}); give one")
    if runs[0].is_dir():
        raise RunError(f"--columns: reads a CSV file, but {runs[0]} is a folder; leave --columns out")
    columns = parse_columns(arguments.columns)
    if arguments.batch_column is not None:
        columns["batch"] = arguments.batch_column
    points = read_trials(
        *(runs[0], columns, arguments.flops_column),
        batch_unit_tokens=1.0 if arguments.batch_unit_tokens is None else arguments.batch_unit_tokens,
        drop_highest_loss=arguments.drop_highest_loss or 0,
    )
    return report_of_points(runs[0].stem, points)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Tables, figures and fits of sweeps.")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folders of runs, runs/<name>; or a CSV file")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: report/ in the first RUN)")
    parser.add_argument("--brief", action="store_true", help="tables alone: what a sweep ends with")
    table = parser.add_argument_group("a CSV file of trials that another tool made")
    table.add_argument("--columns", metavar="N=...,D=...,loss=...[,lr=...]", help="what its columns are called")
    table.add_argument("--flops-column", metavar="C", help="training FLOPs, in place of D: D = C / 6N")
    table.add_argument("--batch-column", metavar="B", help="batch size, for the law of the optimal batch")
    table.add_argument("--batch-unit-tokens", metavar="T", type=float, help="tokens in a unit of it (default: 1)")
    table.add_argument("--drop-highest-loss", metavar="n", type=int, help="leave out the n rows with the highest loss")
    return parser


def _fitted_cells(path: str, one: Fitted) -> tuple[str, str, str, str]:
    if isinstance(one, NotEstimable):
        return path, "refused", one.reason, ""
    return path, f"{one.value:.4g}", f"{one.low:.4g} to {one.high:.4g}", str(one.n)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `report.py RUN | head` ends as quietly as `cat FILE | head`
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    raise SystemExit(main())
