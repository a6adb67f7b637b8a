"""curves.arrow: points of the training curve of every trial, finer than the rows of metrics.jsonl.

`lmcore.curve_batches` defines the format. Damaged batches are skipped, and what a writer has not finished is ignored.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa

from lmcore import columns as col
from lmcore.curve_batches import SCHEMA, read_batches

NAME = "curves.arrow"
COLUMNS = (col.TRIAL, col.STEP, col.TOKENS, col.TRAIN_LOSS, col.GRAD_NORM, col.LR)
TOKENS_PER_STEP = (f"{col.PARAMS_PREFIX}train.batch_size", f"{col.PARAMS_PREFIX}model.context_length")


def read_curves(files: Mapping[str, Path], trials: pd.DataFrame) -> pd.DataFrame:
    """The points of these trials, in their order and then by step: COLUMNS, with the types of `Run.rows`.

    >>> read_curves({"": Path("runs/quick/curves.arrow")}, run.trials).groupby("trial")["train_loss"].min()

    The keys of `files` are what ids of trials in `trials` have in front of those in the file. A file that does not
    exist has no points. If a step occurs twice, the later point counts.
    """
    points = pd.concat([_read(path, prefix) for prefix, path in files.items()] or [_read(None, "")])
    points = points.drop_duplicates([col.TRIAL, col.STEP], keep="last")
    known = trials.set_index(col.TRIAL)
    points = points[points[col.TRIAL].isin(known.index)]
    place = points[col.TRIAL].map({trial: place for place, trial in enumerate(known.index)})
    per_step = known.reindex(columns=list(TOKENS_PER_STEP)).astype("Int64").prod(axis=1, skipna=False)
    points = points.assign(place=place, **{col.TOKENS: points[col.STEP] * points[col.TRIAL].map(per_step)})
    points = points.sort_values(["place", col.STEP], ignore_index=True)
    whole = dict.fromkeys((col.STEP, col.TOKENS), "Int64")
    return points[[*COLUMNS]].astype({**dict.fromkeys(COLUMNS, "float64"), **whole, col.TRIAL: "str"})


def _read(path: Path | None, prefix: str) -> pd.DataFrame:
    """The points in a file, with `prefix` before the ids of the trials."""
    content = path.read_bytes() if path is not None and path.exists() else b""
    batches = [batch.points for batch in read_batches(content) if batch.points is not None]
    frame: pd.DataFrame = pa.Table.from_batches(batches, SCHEMA).to_pandas()
    return frame.assign(**{col.TRIAL: prefix + frame[col.TRIAL]})
