"""A run's folder as two DataFrames: every trial of its Optuna studies, and every report row of metrics.jsonl.

The study is the ledger: which trials there are and how each ended is its word alone. Rows are evidence: they draw
curves, and they say how far a trial got that has not ended. Nothing is aggregated or judged here
(`analysis.tables.trials` does that), and the folder is only read: loading neither creates nor changes a file in it.
"""

import json
import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.json
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col

MANIFEST_SCHEMA = 1

DERIVED = (col.TRAIN_FLOPS, col.PERPLEXITY, col.BITS_PER_BYTE)

STRINGS = {col.TRIAL, col.SIZE, col.STATUS, col.EXPERIMENT, col.MESSAGE}
INTEGERS = {*col.COUNT_COLUMNS, col.STEP, col.TOKENS, col.RETRIES}  # nullable: a trial that failed at once has no step


class RunError(ValueError):
    """A run's folder cannot be read: the message is one line that says the rule, the offending value and the remedy."""


class Run(NamedTuple):
    """One run's folder, read."""

    trials: pd.DataFrame
    """One row per trial, by size in the manifest's order, then number. Columns: trial, size, number, status,
    experiment, message, one `params.<dotted path>` per field of its RunSpec, the counts, and the last report with what
    follows from it: train_flops, perplexity, bits_per_byte (NaN where bytes per token are unknown). A trial that is
    still running shows its newest row."""
    rows: pd.DataFrame
    """One row per (trial, step) with `lmcore.columns.ROW_COLUMNS`, in the order of `trials`, then step."""
    manifest: dict[str, Any]
    """manifest.json as it is."""


def load(folder: str | Path) -> Run:
    """Read a run's folder, whether its sweep has ended, was killed, or is still going on.

    Raises RunError if the folder, its manifest or its studies are missing or damaged, or if there is no trial yet.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    ledger = _read_ledger(folder, manifest)
    rows = _read_rows(folder / "metrics.jsonl", [_trial_id(size, trial) for size, trial in ledger])
    bytes_per_token = manifest.get("data", {}).get("bytes_per_token")
    return Run(_trials_frame(ledger, rows, bytes_per_token), rows, manifest)


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise RunError(f"RUN must be the folder of a run, but {folder} is not a folder; give runs/<name> of a sweep")
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"a run's folder must hold manifest.json, but {folder} has none; give runs/<name> of a sweep"
        ) from None
    except ValueError as error:
        raise RunError(f"manifest.json must be JSON, but {path} is damaged ({error}); restore it from a copy") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != MANIFEST_SCHEMA:
        raise RunError(
            f"manifest.json must have schema {MANIFEST_SCHEMA}, but {path} has {schema!r}; "
            "read it with the version that wrote it"
        )
    studies = manifest.get("studies")
    if not isinstance(studies, dict) or not studies or not all(isinstance(name, str) for name in studies.values()):
        raise RunError(
            f"manifest.json must name the study of each size under studies, but {path} has {studies!r}; "
            "restore it from a copy"
        )
    return manifest


def _read_ledger(folder: Path, manifest: dict[str, Any]) -> list[tuple[str, FrozenTrial]]:
    """Every trial that was begun, with its size, in the order of `Run.trials`.

    A size whose study is not there yet has no trials; a run without any study is an error.
    """
    address = manifest.get("storage")
    path = folder / "study.db"
    if address is None and not path.is_file():
        raise RunError(f"a run's folder must hold study.db, but {folder} has none; run the sweep first")
    ledger: list[tuple[str, FrozenTrial]] = []
    found = False
    # Optuna passes on whatever its storage raises: its own errors, SQLAlchemy's, the JSON decoder's, a missing driver.
    # All of them mean the same to a reader. The address is not shown, because it may hold a password.
    try:
        storage = _sqlite(path) if address is None else optuna.storages.RDBStorage(address, skip_table_creation=True)
        try:
            _without_intermediate_values(storage)
            for size, name in manifest["studies"].items():
                try:
                    study = optuna.load_study(study_name=name, storage=storage)
                except KeyError:
                    continue
                found = True
                trials = study.get_trials(deepcopy=False)
                ledger += [(size, trial) for trial in trials if trial.state != TrialState.WAITING]
        finally:
            storage.engine.dispose()
    except Exception as error:
        place = str(path) if address is None else "the storage named in manifest.json"
        reason = " ".join(str(error.__cause__ or error).split("\n")[0].split())
        remedy = "restore a copy"
        if address is not None and ":***@" in address:
            remedy = "the manifest keeps no password: take :*** out of its storage and set PGPASSWORD or the like"
        raise RunError(f"a run's studies must be readable, but {place} is not ({reason}); {remedy}") from error
    names = ", ".join(manifest["studies"].values())
    if not found:
        raise RunError(f"a run must have a study for each size, but there is none named {names}; run the sweep first")
    if not any(col.RUN in trial.user_attrs for _, trial in ledger):
        raise RunError(f"a report needs a trial, but no trial of {folder} has begun; wait for the sweep's first trial")
    return ledger


def _sqlite(path: Path) -> optuna.storages.RDBStorage:
    """The database at `path`, opened so that a missing or empty file stays as it is.

    mode=rw and not ro: a sweep that was killed in mid-write leaves a journal, which SQLite rolls back when it next
    opens the file. Where the file is write-protected, SQLite reads it all the same.
    """
    uri = f"{path.resolve().as_uri()}?mode=rw"
    engine = {"creator": lambda: sqlite3.connect(uri, uri=True)}
    return optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs=engine, skip_table_creation=True)


def _without_intermediate_values(storage: optuna.storages.RDBStorage) -> None:
    """Hide the table of intermediate values: metrics.jsonl has them, and Optuna takes 20 s to build 500,000 of them.

    A temporary table belongs to its connection, comes before the real one of the same name, and writes nothing.
    """
    table = "trial_intermediate_values"

    def hide(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"CREATE TEMPORARY TABLE {table} AS SELECT * FROM {table} WHERE 1 = 0")
        cursor.close()
        connection.commit()

    storage.engine.dispose()  # what is connected already would not be told
    sqlalchemy.event.listen(storage.engine, "connect", hide)


def _trial_id(size: str, trial: FrozenTrial) -> str:
    return trial.user_attrs.get(col.TRIAL, col.trial_id(size, trial.number))


def _read_rows(path: Path, trial_ids: Sequence[str]) -> pd.DataFrame:
    """Columns ROW_COLUMNS, one row per (trial, step): of several lines, which a resumed trial writes, the last."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    table = _parse_rows(content)
    if table is None:
        table = _parse_rows(_without_torn_end(content, path))
    if table is None:
        raise RunError(f"metrics.jsonl must hold the columns of this version's rows, but {path} does not; restore it")
    rows = table.to_pandas().astype({name: _dtype(name) for name in col.ROW_COLUMNS})
    rows = rows.drop_duplicates([col.TRIAL, col.STEP], keep="last")
    place = rows[col.TRIAL].map({trial: place for place, trial in enumerate(trial_ids)})
    return rows.assign(place=place).sort_values(["place", col.TRIAL, col.STEP], ignore_index=True).drop(columns="place")


def _parse_rows(content: bytes) -> pa.Table | None:
    """One row per line of `content`, with ROW_COLUMNS; None if any line is something else."""
    fields = [
        (name, pa.string() if name in STRINGS else pa.int64() if name in INTEGERS else pa.float64())
        for name in col.ROW_COLUMNS
    ]
    schema = pa.schema(fields)
    if not content:
        return schema.empty_table()
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        table = pyarrow.json.read_json(pa.BufferReader(content), parse_options=options)
        table.validate(full=True)
    except pa.ArrowInvalid:
        return None
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    lost = table[col.TRIAL].null_count + table[col.STEP].null_count
    return table if len(table) == lines and not lost else None


def _without_torn_end(content: bytes, path: Path) -> bytes:
    """`content` without a last line that its writer, killed, did not finish; RunError names any other bad line."""
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row[col.TRIAL], row[col.STEP]
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                return b"".join(lines[:-1])
            raise RunError(
                f"each line of metrics.jsonl must be one report row, but line {number} of {path} is damaged; "
                "restore the file or delete that line"
            ) from None
    return content


def _trials_frame(
    ledger: list[tuple[str, FrozenTrial]], rows: pd.DataFrame, bytes_per_token: float | None
) -> pd.DataFrame:
    newest = rows.drop_duplicates(col.TRIAL, keep="last").set_index(col.TRIAL)[list(col.LAST_COLUMNS)].to_dict("index")
    trials = pd.DataFrame([_trial_record(size, trial, newest) for size, trial in ledger])
    params = [name for name in trials.columns if name.startswith(col.PARAMS_PREFIX)]
    identity = [col.TRIAL, col.SIZE, col.NUMBER, col.STATUS, col.EXPERIMENT, col.MESSAGE]
    known = [*identity, *col.COUNT_COLUMNS, *col.LAST_COLUMNS]
    trials = trials.astype({name: _dtype(name) for name in known if name != col.NUMBER})

    # A float: an int64 ends at 9e18, and a model of 1B parameters trained on 2B tokens is beyond that.
    trials[col.TRAIN_FLOPS] = trials[col.FLOPS_PER_TOKEN].astype("float64") * trials[col.TOKENS].astype("float64")
    with np.errstate(over="ignore"):
        trials[col.PERPLEXITY] = np.exp(trials[col.VAL_LOSS])
    trials[col.BITS_PER_BYTE] = trials[col.VAL_LOSS] / math.log(2) / (bytes_per_token or math.nan)
    return trials[[*identity, *params, *col.COUNT_COLUMNS, *col.LAST_COLUMNS, *DERIVED]]


def _trial_record(size: str, trial: FrozenTrial, newest: dict[str, dict[str, Any]]) -> dict[str, Any]:
    attributes = trial.user_attrs
    trial_id = _trial_id(size, trial)
    params = {
        f"{col.PARAMS_PREFIX}{part}.{name}": value
        for part, fields in attributes.get(col.RUN, {}).items()
        for name, value in fields.items()
    }
    # Without a status nobody has recorded the end: what is known is the newest row.
    last = attributes.get(col.LAST, {}) if col.STATUS in attributes else newest.get(trial_id, {})
    counts = attributes.get(col.COUNTS, {})
    return {
        col.TRIAL: trial_id,
        col.SIZE: size,
        col.NUMBER: trial.number,
        col.STATUS: attributes.get(col.STATUS) or _status_of_state(trial),
        col.EXPERIMENT: attributes.get(col.EXPERIMENT),
        col.MESSAGE: attributes.get(col.MESSAGE),
        **params,
        **{name: counts.get(name) for name in col.COUNT_COLUMNS},
        **{name: last.get(name) for name in col.LAST_COLUMNS},
    }


def _status_of_state(trial: FrozenTrial) -> str:
    """The status of a trial that carries none: it is running, unless somebody else told Optuna of its end."""
    if trial.state == TrialState.COMPLETE:
        return col.COMPLETE if trial.value is not None and math.isfinite(trial.value) else col.DIVERGED
    return {TrialState.RUNNING: col.RUNNING, TrialState.PRUNED: col.PRUNED, TrialState.FAIL: col.FAILED}[trial.state]


def _dtype(column: str) -> str:
    return "str" if column in STRINGS else "Int64" if column in INTEGERS else "float64"
