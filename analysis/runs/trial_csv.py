"""A table of trials that somebody else made, read from CSV: columns named by the user, one row per trained model.

Its columns are few: `N` (parameters), `D` (tokens trained on), `loss` (nats per token), and, where named, `lr` and
`batch` (tokens per update). Nothing is fitted here; `analysis.scaling.fit` takes this frame, or `analysis.load`'s
trials in the same form.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.runs.load import RunError

N, D, LOSS, LR, BATCH = "N", "D", "loss", "lr", "batch"
NAMES = {"N": N, "D": D, "loss": LOSS, "lr": LR, "batch": BATCH}
"""What `--columns` calls them."""
FLOPS_PER_PARAMETER_AND_TOKEN = 6


def parse_columns(text: str) -> dict[str, str]:
    """`N=params,D=tokens,loss=val_loss,lr=lr` -> {"N": "params", ...}.

    Raises:
        RunError: it is not of this form, or names something else.
    """
    columns: dict[str, str] = {}
    for pair in text.split(","):
        name, equals, column = (part.strip() for part in pair.partition("="))
        if not equals or not column or name not in NAMES or name in columns:
            raise RunError(
                f"--columns: must be NAME=COLUMN pairs, each once, with NAME one of {', '.join(NAMES)} (got {pair!r}); "
                "write --columns N=params,D=tokens,loss=val_loss,lr=lr"
            )
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

    Args:
        columns: ours to the file's, as `parse_columns` gives them.
        flops_column: training FLOPs C; tokens are then C / 6N.
        batch_unit_tokens: tokens in one unit of the batch column, such as the sequence length.
        drop_highest_loss: leave out so many rows with the highest loss.

    Raises:
        RunError: the file cannot be read, or lacks a column; a value is not a positive number.
    """
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise RunError(f"RUN must be a run's folder or a CSV file, but {path} does not exist; correct it") from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = " ".join(str(error).split())
        raise RunError(f"{path} must be a CSV file with a header, but is not ({reason}); correct it") from None
    wanted = dict(columns)
    missing = [name for name in ("N", "loss") if name not in wanted]
    if "D" not in wanted and flops_column is None:
        missing.append("D")
    if missing:
        raise RunError(f"--columns: must name {', '.join(missing)} (D may come from --flops-column); add it")
    if flops_column is not None:
        if "D" in wanted:
            raise RunError("--flops-column: gives D = C / 6N, but --columns names D as well; leave one out")
        wanted["flops"] = flops_column
    for name, column in wanted.items():
        if column not in table:
            raise RunError(
                f"{path} must have the column {column!r} that --{'flops-column' if name == 'flops' else 'columns'} "
                f"names, but has {', '.join(map(str, table.columns))}; name one of these"
            )
    if table.empty:
        raise RunError(f"{path} must have a row for each model, but has only a header; add them")
    if not (math.isfinite(batch_unit_tokens) and batch_unit_tokens > 0):
        raise RunError(f"--batch-unit-tokens: must be a positive number (got {batch_unit_tokens:g}); correct it")
    trials = pd.DataFrame({name: _numbers(table[column], column, path, name) for name, column in wanted.items()})
    if flops_column is not None:
        trials["D"] = trials.pop("flops") / (FLOPS_PER_PARAMETER_AND_TOKEN * trials["N"])
    if "batch" in trials:
        trials["batch"] *= batch_unit_tokens
    trials = trials.rename(columns=NAMES)
    if not 0 <= drop_highest_loss < len(trials):
        raise RunError(
            f"--drop-highest-loss: must leave a row of {path}'s {len(trials)} (got {drop_highest_loss}); give fewer"
        )
    kept = trials.drop(trials[LOSS].nlargest(drop_highest_loss).index)
    return kept.reset_index(drop=True)


def _numbers(column: pd.Series, name: str, path: Path, meaning: str) -> pd.Series:
    """The column as positive floats. A loss that is not finite, or not there, is a run that diverged: +inf."""
    values = pd.to_numeric(column, errors="coerce").astype("float64")
    if meaning == "loss":
        empty = column.isna() | column.astype("str").str.lower().isin(("nan", "null", "none"))
        values = values.mask(empty, np.inf)
        wrong = ~(values > 0)
    else:
        wrong = ~((values > 0) & np.isfinite(values))
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0])
        found = column.iloc[line]
        shown = repr(found) if isinstance(found, str) else found
        raise RunError(f"{path}:{line + 2}: {name} must be a positive number (got {shown}); correct the row")
    return values
