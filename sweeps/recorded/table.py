"""Recorded runs from a table, CSV or Parquet: one row for each report of a run, or one for each run's final loss.

Columns have the names that sweeps use: dotted paths of a run's fields (`optim.lr`), `val_loss`, and where there are
curves `run` and `step`; `size`, `seed` and `final_val_loss` if known. Other names are given as path=column.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmcore import columns as col
from lmcore.errors import InputError
from lmcore.runfile.paths import RUN_DEFAULTS, plain_types, show
from sweeps.recorded.recorded_runs import RecordedRun, RecordedRuns
from sweeps.spec.arms import SEED_PATHS

if TYPE_CHECKING:
    import pandas as pd

RUN, SEED, STEPS = "run", "seed", "train.steps"
NAMES = (RUN, col.SIZE, SEED, col.STEP, col.VAL_LOSS, col.FINAL_VAL_LOSS)
PARQUET = (".parquet", ".pq")


def read_table(path: Path, columns: Mapping[str, str]) -> RecordedRuns:
    """The runs in a table. `columns` gives the table's own name for some of NAMES or of the dotted paths.

    Example:
        read_table(Path("steplaw.csv"), {"optim.lr": "lr", "train.batch_size": "bs", "val_loss": "loss"})

    Raises InputError if the file cannot be read, is empty, or lacks a column.
    """
    frame = _read(path)
    found, notes = _named(path, frame, columns)
    if not len(found):
        raise InputError(f"--from: must hold at least one run (got {path}, which has no rows); give another table")
    paths = tuple(name for name in found if name not in NAMES and name not in (STEPS, *SEED_PATHS))
    if col.VAL_LOSS not in found:
        raise _missing(path, frame, col.VAL_LOSS)
    curves = col.STEP in found
    if curves and RUN not in found:
        raise _missing(path, frame, RUN)
    if not curves:
        steps = found.get(STEPS, 1)
        found = found.assign(**{RUN: [str(i) for i in range(len(found))], col.STEP: steps})
    for name in (RUN, col.STEP):
        if found[name].isna().any():
            raise InputError(f"{path}: every row must have a {name} (got none in row {_row(found[name].isna())})")
    for name in (col.STEP, col.VAL_LOSS):
        if not np.issubdtype(found[name].dtype, np.number):
            raise InputError(f"{path}: {name} must be a column of numbers (got {show(found[name].iloc[0])})")
    for name in paths:
        if found[name].isna().any() and type(None) not in plain_types(name):
            raise InputError(f"{path}: every row must have {name} (got none in row {_row(found[name].isna())})")
    sizes = found[col.SIZE].astype(str) if col.SIZE in found else found[RUN].map(lambda run: "")
    longest = found[STEPS] if STEPS in found else found.groupby(sizes)[col.STEP].transform("max")
    found = found.assign(**{"longest": longest})
    runs = [_run(path, str(name), rows, paths) for name, rows in found.groupby(RUN, sort=False)]
    vocabulary = {run.setting.get("model.vocab_size") for run in runs}
    return RecordedRuns(
        source=str(path),
        paths=tuple(name for name in paths if name != "model.vocab_size"),
        runs=tuple(runs),
        steps_known=curves or STEPS in found,
        vocab_size=vocabulary.pop() if len(vocabulary) == 1 else None,
        notes=tuple(notes),
    )


def _read(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not path.is_file():
        raise InputError(f"--from: must be a table or the folder of a run (got {path}, which is neither); correct it")
    try:
        return pd.read_parquet(path) if path.suffix.lower() in PARQUET else pd.read_csv(path)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise InputError(f"--from: must be a table or the folder of a run (got {path}: {reason}); correct it") from None
    except (ValueError, ImportError) as error:  # of pandas and pyarrow
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"--from: must be a CSV or Parquet file (got {path}: {lines[0]}); give another") from None


def _named(path: Path, frame: "pd.DataFrame", columns: Mapping[str, str]) -> tuple["pd.DataFrame", list[str]]:
    """The columns that are used, under our names, and a note about the others."""
    for name, column in columns.items():
        if name not in NAMES and name not in RUN_DEFAULTS:
            [nearest] = difflib.get_close_matches(name, [*NAMES, *RUN_DEFAULTS], 1, cutoff=0)
            raise InputError(f"--column: {name!r} is neither a field of a run nor a column; did you mean {nearest}?")
        if column not in frame:
            raise _missing(path, frame, column, option=f"--column {name}={column}")
    own = {name: name for name in frame if name in NAMES or name in RUN_DEFAULTS}
    used = own | dict(columns)
    unused = [str(name) for name in frame if name not in used.values()]
    notes = [f"columns of {path} that are not used: {', '.join(unused)}"] if unused else []
    return frame[list(used.values())].set_axis(list(used), axis=1), notes


def _missing(path: Path, frame: "pd.DataFrame", name: str, option: str | None = None) -> InputError:
    place = option or str(path)
    names = [str(column) for column in frame]
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    remedy = "correct it" if option else f"name it with --column {name}=COLUMN"
    return InputError(f"{place}: must name a column of the table (got {name!r}; there are {shown}); {remedy}")


def _run(path: Path, name: str, rows: "pd.DataFrame", paths: Sequence[str]) -> RecordedRun:
    """One run from its rows."""
    rows = rows.drop_duplicates(col.STEP, keep="last").sort_values(col.STEP)
    for column in (*paths, *(one for one in (col.SIZE, SEED) if one in rows)):
        if rows[column].nunique(dropna=False) > 1:
            raise InputError(f"{path}: a run must have one value of {column} (got several in run {name!r})")
    first = rows.iloc[0]
    final = rows[col.FINAL_VAL_LOSS].iloc[-1] if col.FINAL_VAL_LOSS in rows else None
    losses = rows[col.VAL_LOSS].to_numpy(dtype=float, na_value=math.nan)
    losses = np.where(np.isfinite(losses), losses, math.nan)
    diverged = bool(np.isnan(losses).any())
    seed = next((first[one] for one in (SEED, *SEED_PATHS) if one in rows), None)
    if diverged:  # what follows is no loss of the setting
        end = int(np.isnan(losses).argmax()) + 1
        rows, losses, final = rows.iloc[:end], losses[:end], None
    return RecordedRun(
        id=name,
        size=str(first[col.SIZE]) if col.SIZE in rows else None,
        seed=None if seed is None else int(seed),
        setting={column: _plain(first[column]) for column in paths},
        steps=rows[col.STEP].to_numpy(dtype=np.int64),
        losses=losses,
        last_step=int(first["longest"]),
        final_loss=None if final is None or not np.isfinite(final) else float(final),
    )


def _plain(value: Any) -> Any:
    """A value of pandas as Python's own; None for a missing one."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _row(mask: Any) -> int:
    return int(np.asarray(mask).argmax()) + 1
