"""What a sweep found, for people: `python analysis/report.py RUN`, or `python -m analysis.report RUN`.

Prints the parameter-count-vs-loss table, the trials, and what has to be known to read them; writes parameters.csv and
trials.csv (full precision) and report.md to RUN/report. The numbers are those of `analysis.tables`, the sentences are
made here. Exit codes: 0, also when every trial diverged or failed (the report says so); 2 with one line on stderr when
RUN cannot be read or the report cannot be written.
"""

import argparse
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: Python has put analysis/ itself on the path, and nothing need be installed
    _here = Path(__file__).resolve().parent
    sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

import pandas as pd

from analysis.load import Run, RunError, load
from analysis.rendering import LEGEND, count, decimal, markdown_table, parameter_cells, text_table, trial_cells
from analysis.tables import (
    BEST_FIRST,
    SEPARABLE_SE,
    TIED,
    TIED_PATH,
    parameter_table,
    status_counts,
    trials_table,
    winner_margins,
)
from lmcore import columns as col

WIDTH = 120  # characters of a line on the terminal
PRINTED_TRIALS = 10  # of each size; the files have all
LISTED_REASONS = 10  # different messages of failed and diverged trials; trials.csv has all

TITLE = "Parameters and loss: the best trial of each kind"
NO_ROWS = "(none: no trial has a validation loss)"


@dataclass(frozen=True)
class Report:
    """The tables of a run and what has to be said beside them."""

    name: str
    """Of the run."""
    summary: str
    """How many trials there are, and how they ended."""
    parameters: pd.DataFrame
    """`analysis.tables.parameter_table`."""
    trials: pd.DataFrame
    """`analysis.tables.trials_table`."""
    notes: tuple[str, ...]
    """Sentences that keep the tables from being misread, and what data and versions they rest on."""

    def text(self) -> str:
        """For a terminal: at most WIDTH characters a line, at most PRINTED_TRIALS trials of each size."""
        shown = self.trials.groupby(col.SIZE, sort=False).head(PRINTED_TRIALS)
        hidden = len(self.trials) - len(shown)
        parameters = text_table(parameter_cells(self.parameters), WIDTH, keys=[col.SIZE, col.EXPERIMENT, TIED])
        return "\n\n".join(
            [
                f"{self.name}: {self.summary}",
                TITLE,
                parameters if len(self.parameters) else NO_ROWS,
                f"Trials ({hidden} more in trials.csv)" if hidden else "Trials",
                text_table(trial_cells(shown), WIDTH, keys=[col.TRIAL]),
                "\n".join(textwrap.fill(f"- {note}", WIDTH, subsequent_indent="  ") for note in self.notes),
            ]
        )

    def markdown(self) -> str:
        """For a file: the same with every trial and a legend."""
        parts = [
            f"# {self.name}",
            self.summary,
            f"## {TITLE}",
            markdown_table(parameter_cells(self.parameters)) if len(self.parameters) else NO_ROWS,
            LEGEND,
            "## Trials",
            markdown_table(trial_cells(self.trials)),
            "## Notes",
            "\n".join(f"- {note}" for note in self.notes),
        ]
        return "\n\n".join(parts) + "\n"


def build_report(run: Run) -> Report:
    """Tables and sentences of a run. Computes only: prints and writes nothing."""
    parameters = parameter_table(run.trials)
    counts = status_counts(run.trials).drop(columns=col.SIZE).sum()
    return Report(
        name=str(run.manifest.get("name", "run")),
        summary=f"{counts['total']} trials: " + ", ".join(f"{counts[status]} {status}" for status in BEST_FIRST),
        parameters=parameters,
        trials=trials_table(run.trials),
        notes=(
            *_winner_notes(run.trials),
            *_gap_notes(run, parameters),
            *_reason_notes(run.trials),
            *_provenance(run.manifest),
        ),
    )


def write_report(report: Report, folder: Path) -> None:
    """Write parameters.csv, trials.csv and report.md into `folder`, made if need be. Raises OSError if it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    report.parameters.to_csv(folder / "parameters.csv", index=False)
    report.trials.to_csv(folder / "trials.csv", index=False)
    (folder / "report.md").write_text(report.markdown(), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="report", description="Tables of a sweep, printed and written.")
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run: runs/<name>")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: RUN/report)")
    arguments = parser.parse_args(argv)
    out = arguments.out or arguments.run / "report"
    try:
        report = build_report(load(arguments.run))
        write_report(report, out)
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
    print(f"\nWritten to {out}: parameters.csv, trials.csv, report.md")
    return 0


def _winner_notes(trials: pd.DataFrame) -> Iterator[str]:
    """For each size, whether its best trial can be told from the next."""
    leads = {lead.size: lead for lead in winner_margins(trials).itertuples()}
    for size in trials[col.SIZE].unique():
        if size not in leads:
            yield f"{size}: fewer than two complete trials, so nothing to compare the best with."
            continue
        lead = leads[size]
        margin = f"{lead.best} leads {lead.runner_up} by {lead.difference:.3f}"
        if pd.isna(lead.difference_se):
            yield f"{size}: {margin}; not separable, because the standard errors are unknown."
        elif lead.separable:
            yield (
                f"{size}: {margin}, more than {SEPARABLE_SE:g} combined standard errors "
                f"({SEPARABLE_SE * lead.difference_se:.3f}); the spread between seeds is not in them."
            )
        else:
            yield (
                f"{size}: {margin}, not more than {SEPARABLE_SE:g} combined standard errors "
                f"({SEPARABLE_SE * lead.difference_se:.3f}): not separable, the winner is inside the evaluation noise."
            )


def _gap_notes(run: Run, parameters: pd.DataFrame) -> Iterator[str]:
    """What the parameter table lacks, and which of its rows are not final."""
    kind = [name for name in (col.SIZE, col.EXPERIMENT, TIED) if name in parameters]
    for row in parameters[parameters[col.STATUS] != col.COMPLETE].to_dict("records"):
        reached = f"{row[col.STATUS]} at step {row[col.STEP]}"
        yield f"{_kind(row, kind)}: no trial is complete; the row is {row[col.TRIAL]}, {reached}."
    trials = run.trials.rename(columns={TIED_PATH: TIED})
    shown = {_kind(row, kind) for row in parameters.to_dict("records")}
    for values, group in trials[trials[TIED].notna()].groupby(kind, sort=False, dropna=False):
        name = _kind(dict(zip(kind, values, strict=True)), kind)
        if name not in shown:
            ended = ", ".join(f"{number} {status}" for status, number in group[col.STATUS].value_counts().items())
            yield f"{name}: no row, because no trial has a validation loss ({ended})."
    for size in run.manifest["studies"]:
        if size not in set(trials[col.SIZE]):
            yield f"{size}: no trial has begun."


def _kind(row: dict[str, Any], kind: list[str]) -> str:
    return " ".join(("tied" if row[name] else "untied") if name == TIED else str(row[name]) for name in kind)


def _reason_notes(trials: pd.DataFrame) -> Iterator[str]:
    """Why trials failed or diverged, each different message once."""
    ended = trials[trials[col.STATUS].isin((col.DIVERGED, col.FAILED))]
    reasons = list(ended.fillna({col.MESSAGE: "no message"}).groupby([col.STATUS, col.MESSAGE], sort=False)[col.TRIAL])
    for (status, message), names in reasons[:LISTED_REASONS]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"{', '.join(names[:3])}{more} {status}: {textwrap.shorten(message, 200)}"
    if len(reasons) > LISTED_REASONS:
        yield f"{len(reasons) - LISTED_REASONS} more messages of failed and diverged trials are in trials.csv."


def _provenance(manifest: dict[str, Any]) -> Iterator[str]:
    data = manifest.get("data", {})
    yield (
        f"Data: {data.get('source', 'unknown')}, fingerprint {data.get('fingerprint', 'unknown')}; "
        f"vocabulary {data.get('vocab_size', 'unknown')}, "
        f"{count(data.get('train_tokens'))} training and {count(data.get('val_tokens'))} validation tokens, "
        f"bytes per token {decimal(data.get('bytes_per_token'), 3)}, "
        f"unigram entropy {decimal(data.get('val_entropy_unigram'), 3)} nats per token."
    )
    versions = ", ".join(f"{package} {version}" for package, version in manifest.get("versions", {}).items())
    yield f"Versions: {versions or 'unknown'}; commit {manifest.get('commit') or 'unknown'}."


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `report.py RUN | head` ends as quietly as `cat FILE | head`
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    raise SystemExit(main())
