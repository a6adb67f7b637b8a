"""Numbers and tables as text: short numbers for people, aligned columns for a terminal, Markdown for a file.

Cells are DataFrames of strings. What the tables contain is decided in the modules beside this one, whose columns are
formatted here by name. Full precision is for CSV files.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from analysis.tables.cost import ACHIEVED, DEVICE_S, PEAK_SHARE
from analysis.tables.settings import HALF
from analysis.tables.trials import PEAK_LR, SEEDS, TIED, WARMUP, WINDOWS
from lmcore import columns as col
from lmcore.terminal.table import Column, FittedTable

MISSING = "-"
OPTIMAL_LR, NOT_TOLD_APART = "optimal peak lr (95 %)", "cannot be told apart from"
COUNT_SUFFIXES = ("", "k", "M", "B", "T")  # parameters and tokens
FLOP_SUFFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")

MARKDOWN = re.compile(r"[\\`*<\[|$]|~(?=~)|&(?=[#\w]+;)|(?<![^\W_])_|_(?![^\W_])|^>|^[#+-](?=[\s#])")
"""What has a meaning in Markdown where it stands; an underscore within a word has none."""

LEGEND = (
    "est., exact, non-emb: parameters by the textbook formula, exactly, and without embeddings; loss: validation loss "
    "in nats per token, mean over seeds +- half of its 95 % interval from them (with one seed there is none), measured "
    "on {windows}; ppl: perplexity; bpb: bits per byte; peak lr: learning rate after the warmup; warmup: fraction of "
    "the run."
)
FINAL_SET, SMALL_SET = "the {n} windows of the final evaluation", "the small set of windows of every report"


def count(value: Any, suffixes: tuple[str, ...] = COUNT_SUFFIXES) -> str:
    """Three digits and a suffix; whole numbers below 1000 as they are.

    >>> count(1310720), count(61.83), count(200)
    ('1.31M', '61.8', '200')
    """
    if pd.isna(value):
        return MISSING
    if abs(value) < 1000 and value == int(value):
        return f"{value:.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")  # rounds first, so that 999,999 becomes 1.00M and not 1000k
    group = min(max(int(exponent) // 3, 0), len(suffixes) - 1)
    digits = int(exponent) - 3 * group
    return f"{float(mantissa) * 10.0**digits:.{max(0, 2 - digits)}f}{suffixes[group]}"


def loss(value: Any) -> str:
    """Three decimal places of a loss, or nothing if it is not finite: 4.1234 -> 4.123."""
    return MISSING if pd.isna(value) or not math.isfinite(value) else decimal(value)


def scientific(value: Any) -> str:
    """Two digits and a power of ten: 0.0032 -> 3.2e-03."""
    return MISSING if pd.isna(value) else f"{value:.1e}"


def decimal(value: Any, places: int = 3) -> str:
    """A fixed number of decimal places: 4.1234 -> 4.123."""
    return MISSING if pd.isna(value) else f"{value:.{places}f}"


def beta(value: Any) -> str:
    """Three decimal places, more where three would round to 1: 0.95 -> 0.950, 0.9999 -> 0.9999."""
    return f"{value:.6g}" if 0.9995 <= value < 1 else decimal(value)


def number(value: Any) -> str:
    """Any setting: words and whole numbers as they are, booleans as yes or no, four digits of other numbers."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if pd.isna(value):
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tally(statuses: pd.Series) -> str:
    """How often each status occurs, the most frequent first: `7 complete, 2 pruned`."""
    return ", ".join(f"{number} {status}" for status, number in statuses.value_counts().items())


FORMATS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys((col.PARAMS_ESTIMATE, col.PARAMS_EXACT, col.PARAMS_NON_EMBEDDING, col.TOKENS), count),
    **dict.fromkeys((col.PERPLEXITY, col.ELAPSED_S, col.TOKENS_PER_S, DEVICE_S), count),
    **dict.fromkeys((col.TRAIN_FLOPS, ACHIEVED), partial(count, suffixes=FLOP_SUFFIXES)),
    **dict.fromkeys((col.BITS_PER_BYTE, WARMUP), partial(decimal, places=2)),
    **dict.fromkeys(("beta1", "beta2"), beta),
    **dict.fromkeys((col.TRAIN_LOSS, col.LOSS, "sd", HALF, col.VAL_LOSS_SE, col.FINAL_VAL_LOSS_SE), decimal),
    **dict.fromkeys((col.VAL_LOSS, col.FINAL_VAL_LOSS), loss),
    **dict.fromkeys((PEAK_LR, "peak_lr_optimum"), scientific),
    PEAK_SHARE: lambda share: MISSING if pd.isna(share) else f"{share:.0%}",
}
"""By column; other columns are formatted by `number`."""

HEADINGS = {
    col.PARAMS_ESTIMATE: "est.",
    col.PARAMS_EXACT: "exact",
    col.PARAMS_NON_EMBEDDING: "non-emb",
    col.TRAIN_FLOPS: "FLOPs",
    col.PERPLEXITY: "ppl",
    col.BITS_PER_BYTE: "bpb",
    col.TOKENS_PER_S: "tokens/s",
    col.VAL_LOSS_SE: "se",
    col.FINAL_VAL_LOSS_SE: "final se",
    DEVICE_S: "device-seconds",
    ACHIEVED: "FLOP/s",
    PEAK_SHARE: "share of peak",
    "refused": "not estimable",
    "peak_lr_optimum": OPTIMAL_LR,
    "same": NOT_TOLD_APART,
}
"""By column; the heading of other columns is their name without underscores."""

OTHER_RANK = 50  # of settings that a sweep searches
CONSTANT_RANK = 10  # is added
RANKS = {
    "verdict": 4,
    "n": 5,
    "status": 10,
    "final val loss": 10,
    "peak lr": 15,
    "phase": 20,
    SEEDS: 20,
    "trial": 25,
    "against": 30,
    TIED: 30,
    "beta1": 51,
    "beta2": 52,
    WARMUP: 53,
    "non-emb": 54,
    "step": 60,
    "noise from": 60,
    "final se": 61,
    "exact": 62,
    "tokens": 63,
    "FLOPs": 64,
    "est.": 65,
    "val loss": 70,
    "se": 71,
    OPTIMAL_LR: 72,
    "bpb": 73,
    "ppl": 74,
    "train loss": 75,
    "tokens/s": 76,
    "elapsed s": 77,
    "data.seed": 78,
}
"""By heading: of columns that do not fit into the terminal, the one with the highest rank is left out first."""
NAMES = (col.SIZE, col.EXPERIMENT, col.ARM, col.TRIAL)
"""Headings of columns that are aligned to the left, also where a name begins with a digit."""
WRAPPED = ("matching",)
"""Headings of columns whose cells are text, which may take several lines."""


def table_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Any table as short strings, each on one line, under readable headings."""
    columns = {name: [FORMATS.get(name, number)(value) for value in table[name]] for name in table}
    cells = pd.DataFrame({name: [" ".join(cell.split("\n")) for cell in column] for name, column in columns.items()})
    return cells.astype("str").rename(columns=lambda name: HEADINGS.get(name, str(name).replace("_", " ")))


def parameter_cells(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.tables.trials.parameter_table` as short strings.

    A loss has its 95 % interval from seeds, `4.000 +- 0.050`; or `4.000 (1 seed)`, or `4.000 (pruned)` if it is not
    final. Columns that would say nothing are left out: seeds where no row has two, tied where the arm says it.
    """
    hidden = [col.STEP, col.STATUS, HALF, WINDOWS, col.VAL_LOSS, col.VAL_LOSS_SE, "unconfirmed", "beaten"]
    if not (table[SEEDS] > 1).any():
        hidden.append(SEEDS)
    if col.ARM in table and (table[col.ARM].map({"tied": True, "untied": False}) == table[TIED]).all():
        hidden.append(TIED)
    optima = table[["peak_lr_optimum", "peak_lr_low", "peak_lr_high"]].itertuples(index=False)
    cells = table_cells(table.drop(columns=[*hidden, "peak_lr_low", "peak_lr_high"]))
    cells["loss"] = [_parameter_loss(*row) for row in table[[col.LOSS, HALF, col.STATUS]].itertuples(index=False)]
    cells[OPTIMAL_LR] = [
        MISSING if pd.isna(best) else f"{best:.1e} ({low:.1e} to {high:.1e})" for best, low, high in optima
    ]
    empty = {OPTIMAL_LR: table["peak_lr_optimum"].isna().all(), NOT_TOLD_APART: table["same"].isna().all()}
    order = [*cells.columns]
    order.insert(order.index("peak lr") + 1, order.pop(order.index(OPTIMAL_LR)))
    return cells[order].drop(columns=[name for name, is_empty in empty.items() if is_empty])


def difference_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The estimable rows of `analysis.stats.verdicts.Verdicts.table`: a difference with half of its interval.

    Matchings of one difference share a row: `same shape, non-embedding parameters`.
    """
    known = table[table["refused"].isna()]
    by = [name for name in known.columns if name not in ("matching", "refused")]
    matching = known.groupby(by, dropna=False, sort=False)["matching"].transform(
        lambda own: ", ".join([own.iloc[0], *(name.removeprefix("same ") for name in own.iloc[1:])])
    )
    known = known.assign(matching=matching).drop_duplicates(by, ignore_index=True)
    half = (known["high"] - known["low"]) / 2
    text = [f"{value:+.3f} +- {decimal(one)}" for value, one in zip(known["difference"], half, strict=True)]
    return table_cells(known.drop(columns=["low", "high", "refused"]).assign(difference=text))


def parameter_legend(table: pd.DataFrame) -> str:
    """What the columns of `parameter_cells` mean, and which windows their losses were measured on."""
    complete = table[table[col.STATUS] == col.COMPLETE]
    numbers = sorted({int(n) for n in complete[WINDOWS].dropna()})
    sets = [FINAL_SET.format(n=" or ".join(map(str, numbers)))] if numbers else []
    if complete[WINDOWS].isna().any() or complete.empty:
        sets.append(SMALL_SET)
    return LEGEND.format(windows=" or ".join(sets))


def _parameter_loss(mean: float, half: float, status: str) -> str:
    if status != col.COMPLETE:
        return f"{decimal(mean)} ({status})"
    return f"{decimal(mean)} (1 seed)" if pd.isna(half) else f"{decimal(mean)} +- {decimal(half)}"


def fitted_table(
    cells: pd.DataFrame, keys: Sequence[str], more: str = "", styles: Sequence[str] | None = None
) -> FittedTable:
    """A table for the terminal, which shows the columns `keys` and, of the others, those that fit, by RANKS.

    A column that has the same cell in all rows says least, and is left out before the others. `more` names the file
    that has all columns; `styles` is a style of rich for each row.
    """
    columns = [
        Column(
            name,
            rank=0 if name in keys else RANKS.get(name, OTHER_RANK) + CONSTANT_RANK * (cells[name].nunique() == 1),
            right=name not in NAMES and is_numeric(cells[name]),
            wraps=name in WRAPPED,
        )
        for name in cells
    ]
    table = FittedTable(columns, more)
    for line, style in zip(cells.to_numpy(), styles or [""] * len(cells), strict=True):
        table.add(*line, style=style)
    return table


def markdown_table(cells: pd.DataFrame) -> str:
    """A Markdown table (pandas' own needs the package tabulate); no cell can break out of it."""
    heading, *lines = [[*map(markdown_text, line)] for line in (cells.columns, *cells.to_numpy())]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ["---"] * len(heading), *lines))


def markdown_text(text: str) -> str:
    r"""Plain text as Markdown that shows it: names and messages make no tags, links, formulas or table cells.

    >>> print(markdown_text("<b> [x](y) |z| a_b _c_"))
    \<b> \[x](y) \|z\| a_b \_c\_
    """
    return MARKDOWN.sub(r"\\\g<0>", " ".join(text.split("\n")))


def is_numeric(column: Iterable[str]) -> bool:
    """Whether a column of cells holds numbers, which are aligned to the right."""
    return any(cell.lstrip("+-")[:1].isdigit() for cell in column)
