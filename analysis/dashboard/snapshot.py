"""Everything that a dashboard shows, as one dict for JSON, from the folder of a run alone."""

import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.dashboard.answer_part import AnswerCache, AnswerPart
from analysis.dashboard.live_figures import live_figures
from analysis.dashboard.timeline import NAME as TIMELINE
from analysis.dashboard.timeline import timeline
from analysis.document.status_text import cost_text, failure_text
from analysis.document.thinning import thinned
from analysis.document.trial_index import TrialIndex
from analysis.figures.interactive import interactive
from analysis.runs.load import EXCLUDED, Run, load
from analysis.tables.formatting import MISSING, table_cells
from analysis.tables.sweep_status import StudyStatus, SweepStatus, status_of
from analysis.tables.trials import BEST_FIRST, trials_table
from lmcore import columns as col

NOT_SHOWN = (
    *(col.SIZE, col.FINAL_VAL_LOSS, col.FINAL_VAL_LOSS_SE, col.VAL_LOSS, col.VAL_LOSS_SE),
    *(col.TOKENS, col.ELAPSED_S, col.MESSAGE, col.STEP),
)
"""Columns of the report's table of trials that are not in this one, which has the quoted loss."""
WAITING = "No trial has reported yet."
ALWAYS = (col.COMPLETE, col.PRUNED, col.RUNNING)

Table = dict[str, Any]


def snapshot(folder: Path, storage: str | None = None, answers: AnswerCache | None = None) -> dict[str, Any]:
    """What the page shows: `status`, sentences, `tables`, `figures` and `trials`; plain values without NaN.

    >>> snapshot(Path("runs/quick"))["status"]["ended"]
    36

    Timestamps are seconds since the epoch. `answers` is kept from one snapshot of a run to the next. Raises RunError as
    `analysis.load`.
    """
    run = load(folder, storage)
    status, answer = status_of(run, folder), (answers or AnswerCache()).of(run.trials)
    index = TrialIndex.of_run(run, [folder])
    return {
        "name": str(run.manifest.get("name", folder.name)),
        "status": _status(status, run),
        "waiting": WAITING if run.rows.empty and not answer.lead else "",
        "lead": list(answer.lead),
        "notes": _notes(status, answer, run),
        "tables": {
            "studies": _table("Studies", study_cells(status.studies)),
            **{name: _table(title, cells) for name, title, cells in answer.tables},
            "trials": trial_rows(run),
        },
        "figures": _figures(run, answer, index),
        "trials": index.as_json(),
    }


def _figures(run: Run, answer: AnswerPart, index: TrialIndex) -> dict[str, Any]:
    """By name: title, caption, and what plotly draws."""
    remarkable = index.remarkable
    charts = [figure.chart for figure in live_figures(run)] + ([answer.figure.chart] if answer.figure else [])
    charts = [thinned(chart, remarkable) for chart in charts]
    shown = {chart.name: {"title": chart.title, "caption": chart.caption, **interactive(chart)} for chart in charts}
    bars = timeline(run)
    return shown if bars is None else {**shown, TIMELINE: bars}


def _status(status: SweepStatus, run: Run) -> dict[str, Any]:
    now = time.time()
    counts = {one: int((run.trials[col.STATUS] == one).sum()) for one in BEST_FIRST}
    shown = {name: value for name, value in asdict(status).items() if name not in ("studies", "failures", "cost")}
    return {
        **shown,
        "over": status.over,
        "counts": counts,
        "cost": cost_text(status.cost),
        "computed_at": now,
        "seen_at": None if status.seen_s is None else now - status.seen_s,
        "report_at": None if status.report_s is None else now - status.report_s,
        "resume": shlex.join(["lmsweep", "run", "--resume", status.run]),
        "is_replay": col.REPLAY in run.manifest,
    }


def _notes(status: SweepStatus, answer: AnswerPart, run: Run) -> list[str]:
    notes = [f"Did not finish: {failure_text(failure)}." for failure in status.failures]
    if excluded := run.manifest.get(EXCLUDED):
        what = "trial is" if len(excluded) == 1 else "trials are"
        notes.append(f"{len(excluded)} {what} excluded and not shown: {', '.join(excluded)}.")
    if col.REPLAY in run.manifest:
        notes.append("This is a replay: its losses were recorded, nothing was trained, and its times are virtual.")
    return [*answer.notes, *notes]


def study_cells(studies: list[StudyStatus]) -> pd.DataFrame:
    """A row per study: its trials by status, and its leading setting with the mean loss over seeds."""
    shown = [status for status in BEST_FIRST if status in ALWAYS or any(study.trials[status] for study in studies)]
    rows = []
    for study in studies:
        leader = study.leader
        half = None if leader is None else leader.half
        loss = MISSING if leader is None else f"{leader.loss:.4f}"
        loss = loss if leader is None or half is None else f"{leader.loss:.3f} +- {half:.3f}"
        counts = {status: str(study.trials[status]) for status in shown}
        best = MISSING if leader is None else leader.setting
        rows.append({"study": study.study, "loss": loss, "best": best, **counts})
    return pd.DataFrame(rows)


def trial_rows(run: Run) -> Table:
    """The table of trials with the id and the group of each row: status, loss, updates and searched settings."""
    table = trials_table(run.trials)
    known = run.trials.set_index(col.TRIAL).loc[table[col.TRIAL]]
    steps = known.get(f"{col.PARAMS_PREFIX}train.steps", pd.Series(float("nan"), known.index))
    cells = table_cells(table.drop(columns=[name for name in NOT_SHOWN if name in table]))
    cells.insert(1, col.STATUS, cells.pop(col.STATUS))
    cells.insert(2, "loss", [f"{loss:.4f}" if pd.notna(loss) else MISSING for loss in known[col.LOSS]])
    cells.insert(3, "updates", [_progress(*pair) for pair in zip(known[col.STEP], steps, strict=True)])
    keys = [name for name in (col.STATUS, col.SIZE, col.ARM, col.EXPERIMENT) if known[name].notna().any()]
    groups = known[keys].astype("object").where(known[keys].notna(), "")
    return {**_table("Trials", cells), "ids": list(known.index), "groups": groups.to_dict("records")}


def _progress(step: Any, steps: Any) -> str:
    done = 0 if pd.isna(step) else int(step)
    return f"{done}" if pd.isna(steps) else f"{done} of {int(steps)}"


def _table(title: str, cells: pd.DataFrame) -> Table:
    return {"title": title, "columns": list(cells.columns), "rows": cells.to_numpy().tolist()}
