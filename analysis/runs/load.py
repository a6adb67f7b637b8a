"""A run's folder as two DataFrames: the trials of its Optuna studies, and the report rows of metrics.jsonl.

`load` reads these files in turn: manifest.json names the studies of the run; the studies say which trials exist and
how each ended; metrics.jsonl holds the reports, and says how far a running trial has got; window_losses.bin, where
there is one, has the losses of single validation windows, and curves.arrow the training curves. Once a trial has ended,
only the study counts. Loading neither creates nor changes a file, so it is safe while the sweep is running; and it
follows no address that the folder names.

Nothing is aggregated or judged here: `analysis.tables.trials` does that.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json

from analysis.runs.branches import COLUMNS, branch_table
from analysis.runs.curve_file import NAME as CURVES
from analysis.runs.curve_file import read_curves
from analysis.runs.manifest import RunError, read_manifest
from analysis.runs.next_size import read_next_sizes
from analysis.runs.quoted_loss import with_quoted_loss
from analysis.runs.studies import Studied, read_studies, status_of
from analysis.runs.window_file import BEST, LAST, NAME, WindowLosses, read_window_losses
from lmcore import columns as col
from lmcore.printable import printable

__all__ = ["Run", "RunError", "load"]

IDENTITY = (
    *(col.TRIAL, col.SIZE, col.ARM, col.PHASE, col.OF, col.LEADER, col.OVER),
    *(col.NUMBER, col.STATUS, col.EXPERIMENT, col.MESSAGE, col.SAME_AS),
)
FIRST = (
    *(col.TRIAL, col.SIZE, col.ARM, col.EXPERIMENT, col.STATUS),
    *(col.LOSS, col.LOSS_SE, col.STEP, col.TOKENS),
)
"""What a reader looks for in a trial, and hence the first columns of `Run.trials`."""
SEEDS = tuple(f"{col.PARAMS_PREFIX}{part}.seed" for part in ("train", "data"))
QUOTED = (col.LOSS, col.LOSS_SE)
DERIVED = (col.TRAIN_FLOPS, col.PERPLEXITY, col.BITS_PER_BYTE)
EXCLUDED = col.EXCLUDED
"""Entry that `load` adds to a manifest: why each excluded trial is. They are in no table."""
PREDICTED = "predicted"
"""Entry that `load` adds to a manifest: by study, the optimum that was predicted before its first trial."""
NEXT = "next"
"""Entry that `load` adds to a manifest if there is a best/next.yaml: by arm, `analysis.runs.next_size.NextSize`."""
EXPECTED_DATA = f"{col.PARAMS_PREFIX}data.fingerprint"
WINDOWS = (col.WINDOW_LOSSES, col.BEST_WINDOW_LOSSES, col.WINDOW_DOCUMENTS)

STRINGS = {col.TRIAL, col.SIZE, col.ARM, col.PHASE, col.OF, col.STATUS, col.EXPERIMENT, col.MESSAGE, col.SAME_AS}
# Nullable, because a trial that failed early has no step.
INTEGERS = {*col.COUNT_COLUMNS, col.STEP, col.TOKENS, col.RETRIES, col.FINAL_WINDOWS}


class Tables(NamedTuple):
    """What a `Run` unpacks to."""

    trials: pd.DataFrame
    """One row per trial, by size in the manifest's order, searches first, then by arm and number.

    Columns, in the order of `in_reading_order`: trial, size, arm, experiment, status; loss and loss_se, which are those
    of the final evaluation if there was one; step and tokens; `params.<dotted path>` of the fields that were searched;
    phase, of, leader, over (of trials that confirm: whether their study has a result; missing in others), number,
    message, same_as (the trial of the same setting whose result it has, not being trained itself); `params.<dotted
    path>` of the other fields of the RunSpec; the last report (of a running trial, the newest row) and the final
    evaluation; the parameter and FLOP counts; train_flops, perplexity and bits_per_byte, which follow from these
    (bits_per_byte is NaN where the bytes per token are unknown); and window_losses, best_window_losses and
    window_documents, each an array [n], or None where they were not kept."""
    rows: pd.DataFrame
    """One row per (trial, step) with `lmcore.columns.ROW_COLUMNS`, in the order of `trials`, then by step."""
    manifest: dict[str, Any]
    """manifest.json; `excluded` has the trials that the user has excluded, which are not in the tables, and why;
    `predicted` what smaller sizes predicted of the optimum of a study; `next` the size of best/next.yaml."""


class Run(Tables):
    """The contents of a run's folder: `trials, rows, manifest = load("runs/quick")`, and `curves` beside them.

    >>> run = load("runs/quick")
    >>> run.curves.pivot(index="step", columns="trial", values="train_loss").plot(logx=True)
    """

    branches: pd.DataFrame = pd.DataFrame(columns=[*COLUMNS])
    """Finished models of shorter budgets, from `train.branches`: one row per (trial, branch) of the trials in `trials`
    when they were loaded, with the columns of `analysis.runs.branches.branch_table`."""
    curve_files: Mapping[str, Path] = MappingProxyType({})
    """Files that `curves` reads, by what the ids of their trials have in front in `trials`."""

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Points of the training curves, about 200 a trial, finer than `rows`: one row per (trial, step) of the trials
        in `trials`, in their order, then by step. Read when first used; empty for runs of versions that kept none.

        Columns: trial, step, tokens, and train_loss, grad_norm and lr, which are those of the batch that is trained on
        after `step` updates, before it changes the weights. So a curve begins at step 0, and a trial with the last
        update n has no point at n. A number that is not finite is NaN or infinite, as it was.
        """
        return read_curves(self.curve_files, self.trials)

    def _replace(self, **changes: Any) -> Self:
        run = super()._replace(**changes)
        vars(run).update({name: value for name, value in vars(self).items() if name != "curves"})
        return run


def load(folder: str | Path, storage: str | None = None) -> Run:
    """Read a run's folder, whether its sweep has finished, was killed, or is still running.

    >>> run = load("runs/quick")
    >>> run.trials[["trial", "status", "loss"]]

    If the studies are in another database than the folder's study.db, its address must be given as `storage`: an
    address that is only in the folder is not followed. Control characters in texts are escaped.

    Raises RunError if the folder, its manifest or its studies are missing or damaged, no trial has started, or
    `storage` is needed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    found = read_studies(folder, manifest, storage)
    excluded = {one.id: one.excluded for one in found if one.excluded is not None}
    studied = [one for one in found if one.excluded is None]
    if not any(col.RUN in one.trial.user_attrs for one in studied):
        rule = f"a report needs a trial, but all trials of {folder} that have begun are excluded"
        raise RunError(f"{rule}; take one back with lmsweep exclude {shlex.quote(str(folder))} TRIAL --include")
    if excluded:
        manifest[EXCLUDED] = excluded
    if predicted := {one.entry.id: one.predicted for one in studied if one.predicted is not None}:
        manifest[PREDICTED] = predicted
    if following := read_next_sizes(folder, {one.entry.arm for one in studied}):
        manifest[NEXT] = following
    rows = _read_rows(folder / "metrics.jsonl", [one.id for one in studied])
    rows = rows[~rows[col.TRIAL].isin(list(excluded))].reset_index(drop=True) if excluded else rows
    windows = read_window_losses(folder / NAME)
    bytes_per_token = manifest.get("data", {}).get("bytes_per_token")
    trials = _trials_frame(studied, rows, windows, bytes_per_token)
    run = Run(trials, rows, manifest)
    run.branches = branch_table(trials, [one.attributes.get(col.BRANCHES, ()) for one in studied], windows)
    run.curve_files = {"": folder / CURVES}
    return run


def _read_rows(path: Path, trial_ids: Sequence[str]) -> pd.DataFrame:
    """metrics.jsonl with columns ROW_COLUMNS. A resumed trial repeats steps: the last line of a step counts.

    Rows of branches are left out: they are no part of a trial's curve, and the study has their results.
    """
    content = path.read_bytes() if path.exists() else b""
    if (table := _parse_rows(content)) is None:
        table = _parse_rows(_without_torn_end(content, path))
    if table is None:
        raise RunError(f"metrics.jsonl must hold the columns of this version's rows, but {path} does not; restore it")
    rows = table.to_pandas().astype({name: _dtype(name) for name in col.ROW_COLUMNS})
    for name in STRINGS & set(col.ROW_COLUMNS):
        unsafe = {text: safe for text in rows[name].dropna().unique() if (safe := printable(text)) != text}
        if unsafe:
            rows[name] = rows[name].replace(unsafe)
    rows = rows[rows[col.BRANCH].isna()].drop_duplicates([col.TRIAL, col.STEP], keep="last")
    order = rows[col.TRIAL].map({trial: place for place, trial in enumerate(trial_ids)})
    return rows.assign(order=order).sort_values(["order", col.TRIAL, col.STEP], ignore_index=True).drop(columns="order")


def _parse_rows(content: bytes) -> pa.Table | None:
    """One row per line, with ROW_COLUMNS; None if any line is not a report row."""
    types = {name: pa.string() for name in STRINGS} | {name: pa.int64() for name in INTEGERS}
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in col.ROW_COLUMNS])
    if not content:
        return schema.empty_table()
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        table = pyarrow.json.read_json(pa.BufferReader(content), parse_options=options)
        table.validate(full=True)
    except pa.ArrowInvalid:
        return None
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    nameless = table[col.TRIAL].null_count + table[col.STEP].null_count
    return table if len(table) == lines and not nameless else None


def _without_torn_end(content: bytes, path: Path) -> bytes:
    """`content` without a last line that was cut short; any other bad line raises RunError."""
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row[col.TRIAL], row[col.STEP]
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                return b"".join(lines[:-1])
            rule = f"each line of metrics.jsonl must be one report row, but line {number} of {path} is damaged"
            raise RunError(f"{rule}; restore the file or delete that line") from None
    return content


def _trials_frame(
    studied: list[Studied], rows: pd.DataFrame, windows: WindowLosses, bytes_per_token: float | None
) -> pd.DataFrame:
    newest = rows.drop_duplicates(col.TRIAL, keep="last").set_index(col.TRIAL)[[*col.LAST_COLUMNS]].to_dict("index")
    trials = pd.DataFrame([_trial_record(one, newest) for one in studied])
    params = [name for name in trials.columns if name.startswith(col.PARAMS_PREFIX)]
    typed = [name for name in (*IDENTITY, *col.COUNT_COLUMNS, *col.LAST_COLUMNS) if name != col.NUMBER]
    trials = trials.astype({name: _dtype(name) for name in typed})
    if trials[col.OF].notna().any():  # what repeats an experiment belongs to it
        named = trials.set_index(col.TRIAL)[col.EXPERIMENT]
        trials[col.EXPERIMENT] = trials[col.EXPERIMENT].fillna(trials[col.OF].map(named)).astype("str")

    # FLOPs as float: int64 ends at 9e18, which a model of 1B parameters trained on 2B tokens exceeds.
    trials[col.TRAIN_FLOPS] = trials[col.FLOPS_PER_TOKEN].astype("float64") * trials[col.TOKENS].astype("float64")
    trials = with_quoted_loss(trials)
    with np.errstate(over="ignore"):
        trials[col.PERPLEXITY] = np.exp(trials[col.LOSS])
    trials[col.BITS_PER_BYTE] = trials[col.LOSS] / math.log(2) / (bytes_per_token or math.nan)
    trials = trials.assign(**_window_columns(trials, windows))
    return in_reading_order(
        trials[[*IDENTITY, *params, *col.LAST_COLUMNS, *col.COUNT_COLUMNS, *DERIVED, *QUOTED, *WINDOWS]]
    )


def in_reading_order(trials: pd.DataFrame) -> pd.DataFrame:
    """The same trials with the columns first that a reader looks for: FIRST, then the fields that were searched.

    >>> in_reading_order(trials).columns[:9].tolist()
    ['trial', 'size', 'arm', 'experiment', 'status', 'loss', 'loss_se', 'step', 'tokens']
    """
    by_size = trials.groupby(col.SIZE, sort=False)
    params = [name for name in trials if str(name).startswith(col.PARAMS_PREFIX) and name not in SEEDS]
    searched = [name for name in params if by_size[name].nunique().gt(1).any()]
    first = [name for name in (*FIRST, *searched) if name in trials]
    return trials[[*first, *(name for name in trials if name not in first)]]


def _trial_record(studied: Studied, newest: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One row of `Run.trials`, without what is derived; `newest` has the newest row of each trial that has rows."""
    entry, trial, result = studied.entry, studied.trial, studied.result
    attributes = studied.attributes
    record: dict[str, Any] = {col.TRIAL: studied.id, col.SIZE: entry.size, col.ARM: entry.arm, col.PHASE: entry.phase}
    of = attributes.get(col.OF)
    record |= {col.OF: of, col.LEADER: of == result.get("leader") if of and result else None}
    record[col.OVER] = result is not None if entry.phase == col.CONFIRM else None
    record |= {col.NUMBER: trial.number, col.STATUS: status_of(trial)}
    record |= {name: attributes.get(name) for name in (col.EXPERIMENT, col.MESSAGE, col.SAME_AS)}
    for part, fields in attributes.get(col.RUN, {}).items():
        record |= {f"{col.PARAMS_PREFIX}{part}.{name}": _cell(value) for name, value in fields.items()}
    record.pop(EXPECTED_DATA, None)  # says what the data should be; the manifest says what they were
    counts = attributes.get(col.COUNTS, {})
    record |= {name: counts.get(name) for name in col.COUNT_COLUMNS}
    # A trial without a status has not ended, or nobody recorded its end: its newest row is all that is known.
    last = attributes.get(col.LAST, {}) if col.STATUS in attributes else newest.get(studied.id, {})
    return record | {name: last.get(name) for name in col.LAST_COLUMNS}


def _cell(value: Any) -> Any:
    """A field of a run in a table: a list as text."""
    return ", ".join(f"{item:g}" for item in value) if isinstance(value, list | tuple) else value


def _window_columns(trials: pd.DataFrame, windows: WindowLosses) -> dict[str, pd.Series]:
    """WINDOWS, one entry per trial. The documents are those of the windows of the last evaluation."""
    contexts = trials.get(f"{col.PARAMS_PREFIX}model.context_length", pd.Series(math.nan, trials.index))
    last = [windows.losses[LAST].get(trial) for trial in trials[col.TRIAL]]
    documents = [
        None if losses is None or pd.isna(context) else windows.documents.get((int(context), len(losses)))
        for losses, context in zip(last, contexts, strict=True)
    ]
    best = [windows.losses[BEST].get(trial) for trial in trials[col.TRIAL]]
    columns: tuple[list[Any], ...] = (last, best, documents)
    return {name: _objects(arrays) for name, arrays in zip(WINDOWS, columns, strict=True)}


def _objects(arrays: Sequence[object]) -> pd.Series:
    """One array per trial; pandas would make two dimensions of a plain list of equally long arrays."""
    return pd.Series(dict(enumerate(arrays)), dtype=object)


def _dtype(column: str) -> str:
    if column in (col.LEADER, col.OVER):
        return "boolean"
    return "str" if column in STRINGS else "Int64" if column in INTEGERS else "float64"
