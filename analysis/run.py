"""`Run`: a loaded run that shows a summary at the end of a notebook's cell, and writes its own report.

It stands above everything else in `analysis`, because its summary and its report need all of it. Functions of the
packages below take the plain `analysis.runs.load.Run`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from analysis.report import Report, build_report, check_links, write_report
from analysis.runs import load as loaded
from analysis.runs.combine import load_all as load_plain_all
from analysis.runs.load import RunError
from analysis.runs.manifest import studies_of
from analysis.stats.verdicts import verdicts
from analysis.tables.formatting import count, parameter_cells, tally
from analysis.tables.html import html_cells
from analysis.tables.trials import SEEDS, parameter_table, short_names, varying_params
from lmcore import columns as col
from lmcore.notebook import html_card, html_lines

LEADING = "Leading settings: validation loss in nats per token, mean over seeds +- half of its 95 % interval"
SHOWN = (col.SIZE, col.EXPERIMENT, col.ARM, "tied", "exact", col.TOKENS, col.LOSS, SEEDS, "peak lr", col.TRIAL)
"""Columns of `analysis.tables.formatting.parameter_cells` in the summary, beside what was searched."""


class Run(loaded.Run):
    """The contents of a run's folder: `trials, rows, manifest = analysis.load("runs/quick")`.

    >>> run = analysis.load("runs/quick")
    >>> run
    <Run quick: 42 trials: 30 complete, 12 pruned
    sizes xs, s; arms untied, tied
    data stdlib, 3.75M training tokens, vocabulary 2048, fingerprint 584975dff697
    trials (42 rows), rows (312 rows), curves, manifest; report() writes the report>
    """

    folders: Sequence[Path] = ()
    """Where it was loaded from, one folder for each run; empty if it was made in another way."""

    @classmethod
    def of(cls, run: loaded.Run, folders: Sequence[Path]) -> Self:
        """The same run, with the folders that it is from."""
        found = cls(*run)
        vars(found).update(getattr(run, "__dict__", {}))
        found.folders = folders
        return found

    @property
    def folder(self) -> Path | None:
        """The folder that it was loaded from; of several runs, the first."""
        return self.folders[0] if self.folders else None

    def report(self, out: str | Path | None = None, brief: bool = False) -> Report:
        """Write the report, and return it; a notebook shows its answer and a link to the page.

        >>> analysis.load("runs/quick").report()
        <Report quick: 42 trials: 30 complete, 12 pruned; written to runs/quick/report>

        Args:
            out: folder to write to; by default `report` in the run's folder, or in that of the first run.
            brief: tables only, without figures and fits.

        Raises RunError if `out` is needed, and OSError if it cannot be written.
        """
        if out is None:
            if self.folder is None:
                raise RunError("out: must be given for a run that was not loaded from a folder; give a folder")
            out = self.folder / "report"
            check_links(out)
        report = build_report(self, brief, self.folders)
        write_report(report, Path(out), brief)
        return replace(report, folder=Path(out))

    @property
    def _name(self) -> str:
        return str(self.manifest.get("name", "run"))

    def _facts(self) -> list[str]:
        """Sizes, arms and data, a line each."""
        entries = studies_of(self.manifest)
        groups = {"size": (one.size for one in entries), "arm": (one.arm for one in entries)}
        if self.trials[col.EXPERIMENT].notna().any():
            groups["experiment"] = self.trials[col.EXPERIMENT].dropna()
        names = {what: [name for name in dict.fromkeys(found) if name] for what, found in groups.items()}
        parts = [f"{what}{'s' * (len(one) > 1)} {', '.join(one)}" for what, one in names.items() if one]
        return ["; ".join(parts), _data_line(self.manifest)]

    def _parts(self) -> str:
        branches = f"branches ({len(self.branches)} rows), " if len(self.branches) else ""
        tables = f"trials ({len(self.trials)} rows), rows ({len(self.rows)} rows), curves, {branches}manifest"
        return f"{tables}; report() writes the report"

    def _statuses(self) -> str:
        n, confirms = len(self.trials), int((self.trials[col.PHASE] == col.CONFIRM).sum())
        confirmed = f"; {confirms} of them confirm" if confirms else ""
        return f"{n} trial{'' if n == 1 else 's'}: {tally(self.trials[col.STATUS])}{confirmed}"

    def __repr__(self) -> str:
        return "\n".join((f"<Run {self._name}: {self._statuses()}", *self._facts(), self._parts())) + ">"

    def _repr_html_(self) -> str:
        answer = verdicts(self.trials)
        cells = leading_cells(self.trials)
        leading = html_lines([LEADING]) + html_cells(cells) if len(cells) else ""
        facts = html_lines([self._statuses(), *self._facts()])
        return html_card(self._name, facts, leading, html_lines([*answer.sentences, self._parts()]))


def load(folder: str | Path, storage: str | None = None) -> Run:
    """Read a run's folder, whether its sweep has finished, was killed, or is still running.

    >>> run = load("runs/quick")
    >>> run.trials[["trial", "status", "loss"]]

    `storage` is the address of the studies' database, if they are in another one than the folder's study.db; see
    `analysis.runs.load.load`. Raises RunError if the folder cannot be read.
    """
    return Run.of(loaded.load(folder, storage), [Path(folder)])


def load_all(folders: Sequence[str | Path], storage: str | None = None) -> Run:
    """Several runs on the same data as one, so that their trials can be compared.

    >>> load_all(["runs/small", "runs/large"]).trials["size"].unique()
    ['small/xs', 'large/xs']

    The names of sizes and trials get their run's name in front. Raises RunError if a folder cannot be read, two runs
    have one name, or their data differ.
    """
    paths = [Path(folder) for folder in folders]
    return Run.of(load_plain_all(paths, storage), paths)


def leading_cells(trials: pd.DataFrame) -> pd.DataFrame:
    """The leading setting of each size and arm or experiment as short strings; empty if no trial has a loss."""
    table = parameter_table(trials)
    if not np.isfinite(table[col.LOSS]).any():
        return pd.DataFrame()
    cells = parameter_cells(table)
    names = short_names(varying_params(trials))
    searched = {name.replace("_", " ") for name in names.values()} - {"tied"}
    shown = [*SHOWN[:-1], *(name for name in cells if name in searched and name not in SHOWN), SHOWN[-1]]
    return cells[[name for name in shown if name in cells]].rename(columns={"exact": "parameters"})


def _data_line(manifest: Mapping[str, Any]) -> str:
    if col.REPLAY in manifest:
        return f"replayed from {manifest[col.REPLAY].get('source', 'recorded runs')}, nothing was trained"
    data = manifest.get("data", {})
    parts = [str(data.get("source", "unknown"))]
    if isinstance(tokens := data.get("train_tokens"), int):
        parts.append(f"{count(tokens)} training tokens")
    if (vocabulary := data.get("vocab_size")) is not None:
        parts.append(f"vocabulary {vocabulary}")
    if (fingerprint := data.get("fingerprint")) is not None:
        parts.append(f"fingerprint {str(fingerprint)[:12]}")
    return f"data {', '.join(parts)}"
