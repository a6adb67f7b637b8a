"""A run's folder as two DataFrames: the trials of its Optuna studies, and the report rows of metrics.jsonl.

`load` reads three files in turn: manifest.json names the studies of the run; the studies say which trials exist and
how each ended; metrics.jsonl holds the curves, and says how far a running trial has got. Once a trial has ended, only
the study counts. Loading neither creates nor changes a file, so it is safe while the sweep is running.

Nothing is aggregated or judged here: `analysis.tables.trials` does that.
"""

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.json
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col

MANIFEST_SCHEMA = 1

IDENTITY = (col.TRIAL, col.SIZE, col.NUMBER, col.STATUS, col.EXPERIMENT, col.MESSAGE)
DERIVED = (col.TRAIN_FLOPS, col.PERPLEXITY, col.BITS_PER_BYTE)

STRINGS = {col.TRIAL, col.SIZE, col.STATUS, col.EXPERIMENT, col.MESSAGE}
INTEGERS = {*col.COUNT_COLUMNS, col.STEP, col.TOKENS, col.RETRIES}  # nullable: a trial that failed early has no step


class RunError(ValueError):
    """The input of a report cannot be used. The message is one line: the rule, the offending value and the remedy."""


class Run(NamedTuple):
    """The contents of a run's folder: `trials, rows, manifest = load("runs/quick")`."""

    trials: pd.DataFrame
    """One row per trial, by size in the manifest's order, then number. Columns: trial, size, number, status,
    experiment, message; one `params.<dotted path>` per field of the RunSpec; the parameter and FLOP counts; the last
    report (of a running trial, the newest row); and train_flops, perplexity and bits_per_byte, which follow from it
    (bits_per_byte is NaN where the bytes per token are unknown)."""
    rows: pd.DataFrame
    """One row per (trial, step) with `lmcore.columns.ROW_COLUMNS`, in the order of `trials`, then by step."""
    manifest: dict[str, Any]  # manifest.json, unchanged


def load(folder: str | Path) -> Run:
    """Read a run's folder, whether its sweep has finished, was killed, or is still running.

    >>> run = load("runs/quick")
    >>> run.trials[["trial", "status", "val_loss"]]

    Raises RunError if the folder, its manifest or its studies are missing or damaged, or no trial has started.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    studied = _read_studies(folder, manifest)
    rows = _read_rows(folder / "metrics.jsonl", [_trial_id(size, trial) for size, trial in studied])
    bytes_per_token = manifest.get("data", {}).get("bytes_per_token")
    return Run(_trials_frame(studied, rows, bytes_per_token), rows, manifest)


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise RunError(f"RUN must be the folder of a run, but {folder} is not a folder; give runs/<name> of a sweep")
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        rule = f"a run's folder must hold manifest.json, but {folder} has none"
        raise RunError(f"{rule}; give runs/<name> of a sweep") from None
    except ValueError as error:
        raise RunError(f"manifest.json must be JSON, but {path} is damaged ({error}); restore it from a copy") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != MANIFEST_SCHEMA:
        rule = f"manifest.json must have schema {MANIFEST_SCHEMA}, but {path} has {schema!r}"
        raise RunError(f"{rule}; read it with the version that wrote it")
    studies = manifest.get("studies")
    if not isinstance(studies, dict) or not studies or not all(isinstance(name, str) for name in studies.values()):
        rule = f"manifest.json must name the study of each size under studies, but {path} has {studies!r}"
        raise RunError(f"{rule}; restore it from a copy")
    return dict(manifest)


def _read_studies(folder: Path, manifest: dict[str, Any]) -> list[tuple[str, FrozenTrial]]:
    """Size and trial of every trial that has started, in the order of `Run.trials`.

    A size whose study has not been created yet has no trials.
    """
    url, database = manifest.get("storage"), folder / "study.db"
    if url is None and not database.is_file():
        raise RunError(f"a run's folder must hold study.db, but {folder} has none; run the sweep first")
    studies: dict[str, list[FrozenTrial]] = {}
    # Optuna passes on whatever its storage raises: its own errors, SQLAlchemy's, the JSON decoder's, a missing driver.
    # To a reader they all mean that the studies cannot be read. The URL is not shown, as it may hold a password.
    try:
        with _open_storage(url, database) as storage:
            for size, name in manifest["studies"].items():
                with suppress(KeyError):  # not created yet
                    study = optuna.load_study(study_name=name, storage=storage)
                    studies[size] = study.get_trials(deepcopy=False)
    except Exception as error:
        place = database if url is None else "the storage named in manifest.json"
        reason = " ".join(str(error.__cause__ or error).split("\n")[0].split())
        remedy = "restore a copy"
        if url is not None and ":***@" in url:
            remedy = "the manifest keeps no password: take :*** out of its storage and set PGPASSWORD or the like"
        raise RunError(f"a run's studies must be readable, but {place} is not ({reason}); {remedy}") from error
    if not studies:
        names = ", ".join(manifest["studies"].values())
        raise RunError(f"a run must have a study for each size, but there is none named {names}; run the sweep first")
    started = [(size, t) for size, trials in studies.items() for t in trials if t.state != TrialState.WAITING]
    if not any(col.RUN in trial.user_attrs for _, trial in started):
        raise RunError(f"a report needs a trial, but no trial of {folder} has begun; wait for the sweep's first trial")
    return started


@contextmanager
def _open_storage(url: str | None, database: Path) -> Iterator[RDBStorage]:
    """Optuna's storage at `url`, or in the file `database`, without its intermediate values."""
    if url is None:
        # mode=rw, so that a missing or empty file is left as it is. Not mode=ro, because the journal of a sweep that
        # was killed while writing has to be rolled back. SQLite can still read a file that is write-protected.
        uri = f"{database.resolve().as_uri()}?mode=rw"
        engine = {"creator": lambda: sqlite3.connect(uri, uri=True)}
        storage = RDBStorage("sqlite:///study.db", engine_kwargs=engine, skip_table_creation=True)
    else:
        storage = RDBStorage(url, skip_table_creation=True)
    storage.engine.dispose()  # the listener only sees connections that are opened after it was added
    sqlalchemy.event.listen(storage.engine, "connect", _hide_intermediate_values)
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _hide_intermediate_values(connection: Any, _: Any) -> None:
    """Cover the table of intermediate values by an empty one, because Optuna takes 20 s to read 500,000 of them.

    metrics.jsonl has the same values. A temporary table takes precedence over the real one of the same name; it exists
    for this connection only and writes nothing to the database.
    """
    table = "trial_intermediate_values"
    with closing(connection.cursor()) as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE {table} AS SELECT * FROM {table} WHERE 1 = 0")
    connection.commit()


def _trial_id(size: str, trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get(col.TRIAL, col.trial_id(size, trial.number)))


def _read_rows(path: Path, trial_ids: Sequence[str]) -> pd.DataFrame:
    """metrics.jsonl with columns ROW_COLUMNS. A resumed trial repeats steps: the last line of a step counts."""
    content = path.read_bytes() if path.exists() else b""
    if (table := _parse_rows(content)) is None:
        table = _parse_rows(_without_torn_end(content, path))
    if table is None:
        raise RunError(f"metrics.jsonl must hold the columns of this version's rows, but {path} does not; restore it")
    rows = table.to_pandas().astype({name: _dtype(name) for name in col.ROW_COLUMNS})
    rows = rows.drop_duplicates([col.TRIAL, col.STEP], keep="last")
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
    studied: list[tuple[str, FrozenTrial]], rows: pd.DataFrame, bytes_per_token: float | None
) -> pd.DataFrame:
    newest = rows.drop_duplicates(col.TRIAL, keep="last").set_index(col.TRIAL)[list(col.LAST_COLUMNS)].to_dict("index")
    trials = pd.DataFrame([_trial_record(size, trial, newest) for size, trial in studied])
    params = [name for name in trials.columns if name.startswith(col.PARAMS_PREFIX)]
    typed = [*IDENTITY, *col.COUNT_COLUMNS, *col.LAST_COLUMNS]
    trials = trials.astype({name: _dtype(name) for name in typed if name != col.NUMBER})

    # FLOPs as float: int64 ends at 9e18, which a model of 1B parameters trained on 2B tokens exceeds.
    trials[col.TRAIN_FLOPS] = trials[col.FLOPS_PER_TOKEN].astype("float64") * trials[col.TOKENS].astype("float64")
    with np.errstate(over="ignore"):
        trials[col.PERPLEXITY] = np.exp(trials[col.VAL_LOSS])
    trials[col.BITS_PER_BYTE] = trials[col.VAL_LOSS] / math.log(2) / (bytes_per_token or math.nan)
    return trials[[*IDENTITY, *params, *col.COUNT_COLUMNS, *col.LAST_COLUMNS, *DERIVED]]


def _trial_record(size: str, trial: FrozenTrial, newest: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One row of `Run.trials`, without what is derived; `newest` has the newest row of each trial that has rows."""
    attributes = trial.user_attrs
    trial_id = _trial_id(size, trial)
    record: dict[str, Any] = {col.TRIAL: trial_id, col.SIZE: size, col.NUMBER: trial.number}
    record[col.STATUS] = attributes.get(col.STATUS) or _status_of_state(trial)
    record |= {name: attributes.get(name) for name in (col.EXPERIMENT, col.MESSAGE)}
    for part, fields in attributes.get(col.RUN, {}).items():
        record |= {f"{col.PARAMS_PREFIX}{part}.{name}": value for name, value in fields.items()}
    counts = attributes.get(col.COUNTS, {})
    record |= {name: counts.get(name) for name in col.COUNT_COLUMNS}
    # A trial without a status has not ended, or nobody recorded its end: its newest row is all that is known.
    last = attributes.get(col.LAST, {}) if col.STATUS in attributes else newest.get(trial_id, {})
    return record | {name: last.get(name) for name in col.LAST_COLUMNS}


def _status_of_state(trial: FrozenTrial) -> str:
    """The status of a trial that has none recorded: running, unless another tool ended it in the study."""
    if trial.state == TrialState.COMPLETE:
        return col.COMPLETE if trial.value is not None and math.isfinite(trial.value) else col.DIVERGED
    return {TrialState.RUNNING: col.RUNNING, TrialState.PRUNED: col.PRUNED, TrialState.FAIL: col.FAILED}[trial.state]


def _dtype(column: str) -> str:
    return "str" if column in STRINGS else "Int64" if column in INTEGERS else "float64"
