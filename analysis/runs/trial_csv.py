"""Trials of another tool, read from a CSV file with one row per trained model; the user names its columns.

The result has the columns `N` (parameters), `D` (tokens trained on), `loss` (nats per token) and, where named, `lr`
(peak learning rate) and `batch` (tokens per update). `analysis.scaling.fit` fits such a frame, and turns the trials of
`analysis.load` into one; nothing is fitted here.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.runs.manifest import RunError

N, D, LOSS, LR, BATCH = "N", "D", "loss", "lr", "batch"
NAMES = (N, D, LOSS, LR, BATCH)
FLOPS = "flops"
FLOPS_PER_PARAMETER_AND_TOKEN = 6  # C = 6 N D, Kaplan et al. 2020


def parse_columns(text: str) -> dict[str, str]:
    """The argument of `--columns` as a dict from our names to the file's.

    >>> parse_columns("N=params,D=tokens,loss=val_loss")
    {'N': 'params', 'D': 'tokens', 'loss': 'val_loss'}

    Raises RunError if the text is not of this form, or a name is unknown or given twice.
    """
    columns: dict[str, str] = {}
    for pair in text.split(","):
        name, _, column = (part.strip() for part in pair.partition("="))
        if not column or name not in NAMES or name in columns:
            rule = f"--columns: must be NAME=COLUMN pairs, each once, with NAME one of {', '.join(NAMES)}"
            raise RunError(f"{rule} (got {pair!r}); write --columns N=params,D=tokens,loss=val_loss,lr=lr")
        columns[name] = column
    return columns


def read_trials(
    path: Path,
    columns: Mapping[str, str],
    flops_column: str | None = None,
    batch_unit_tokens: float = 1.0,
    drop_highest_loss: int = 0,
) -> pd.DataFrame:
    """One row per model with columns N, D, loss and, where named, lr and batch, all float64, in the file's order.

    A loss that is empty or not finite means that the model diverged: it becomes +inf.

    Args:
        columns: from our names to the file's, as `parse_columns` returns them.
        flops_column: column of the training FLOPs C; tokens are then D = C / 6N.
        batch_unit_tokens: tokens in one unit of the batch column, such as the sequence length.
        drop_highest_loss: how many rows to leave out, those with the highest loss.

    Raises RunError if the file cannot be read or lacks a column, a value is not a positive number, or an argument is
    out of range.
    """
    missing = [name for name in (N, LOSS) if name not in columns]
    if D not in columns and flops_column is None:
        missing.append(D)
    if missing:
        raise RunError(f"--columns: must name {', '.join(missing)} (D may come from --flops-column); add it")
    if D in columns and flops_column is not None:
        raise RunError("--flops-column: gives D = C / 6N, but --columns names D as well; leave one out")
    if not (math.isfinite(batch_unit_tokens) and batch_unit_tokens > 0):
        raise RunError(f"--batch-unit-tokens: must be a positive number (got {batch_unit_tokens:g}); correct it")

    table = _read_csv(path)
    wanted = dict(columns) if flops_column is None else {**columns, FLOPS: flops_column}
    for name, column in wanted.items():
        if column not in table:
            option, found = "flops-column" if name == FLOPS else "columns", ", ".join(map(str, table.columns))
            rule = f"{path} must have the column {column!r} that --{option} names"
            raise RunError(f"{rule}, but has {found}; name one of these")
    trials = pd.DataFrame({name: _positive(table[column], path, name == LOSS) for name, column in wanted.items()})
    if FLOPS in trials:
        trials[D] = trials.pop(FLOPS) / (FLOPS_PER_PARAMETER_AND_TOKEN * trials[N])
    if BATCH in trials:
        trials[BATCH] *= batch_unit_tokens
    if not 0 <= drop_highest_loss < len(trials):
        rule = f"--drop-highest-loss: must leave a row of {path}'s {len(trials)}"
        raise RunError(f"{rule} (got {drop_highest_loss}); give fewer")
    return trials.drop(trials[LOSS].nlargest(drop_highest_loss).index).reset_index(drop=True)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise RunError(f"RUN must be a run's folder or a CSV file, but {path} does not exist; correct it") from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = " ".join(str(error).split())
        raise RunError(f"{path} must be a CSV file with a header, but is not ({reason}); correct it") from None
    if table.empty:
        raise RunError(f"{path} must have a row for each model, but has only a header; add them")
    return table


def _positive(column: pd.Series, path: Path, is_loss: bool) -> pd.Series:
    """The column as positive floats; a loss may also be +inf."""
    values = pd.to_numeric(column, errors="coerce").astype("float64")
    if is_loss:
        diverged = column.isna() | column.astype("str").str.lower().isin(("nan", "null", "none"))
        values = values.mask(diverged, np.inf)
    wrong = ~((values > 0) & (is_loss | np.isfinite(values)))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = repr(column.iloc[row]) if isinstance(column.iloc[row], str) else column.iloc[row]
        raise RunError(f"{path}:{row + 2}: {column.name} must be a positive number (got {found}); correct the row")
    return values
