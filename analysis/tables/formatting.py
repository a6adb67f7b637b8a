"""Numbers and tables as text: short figures for people, aligned columns for a terminal, Markdown for a file.

Cells are DataFrames of strings. Which tables there are, and what is said about them, is not decided here; full
precision is for CSV.
"""

import math
from typing import Any

import pandas as pd

from analysis.tables.cost import ACHIEVED, DEVICE_S, PEAK_SHARE
from analysis.tables.trials import TIED, WARMUP
from lmcore import columns as col

MISSING = "-"
COUNT_SUFFIXES = ("", "k", "M", "B", "T")  # parameters and tokens
FLOP_SUFFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")

LEGEND = (
    "est., exact, non-emb: parameters by the textbook formula, exactly, and without embeddings; val loss: nats per "
    "token +- standard error over the validation windows; ppl: perplexity; bpb: bits per byte; warmup: fraction."
)


def parameter_cells(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.tables.trials.parameter_table` as short strings.

    A loss that is not final is marked in its own cell, where its standard error would stand: `4.000 (pruned)`.
    """
    kind = [name for name in (col.SIZE, col.EXPERIMENT, TIED) if name in table]
    losses = zip(table[col.VAL_LOSS], table[col.VAL_LOSS_SE], table[col.STATUS], strict=True)
    cells = {
        **{name: [number(value) for value in table[name]] for name in kind},
        "est.": [count(value) for value in table[col.PARAMS_ESTIMATE]],
        "exact": [count(value) for value in table[col.PARAMS_EXACT]],
        "non-emb": [count(value) for value in table[col.PARAMS_NON_EMBEDDING]],
        "tokens": [count(value) for value in table[col.TOKENS]],
        "FLOPs": [count(value, FLOP_SUFFIXES) for value in table[col.TRAIN_FLOPS]],
        "val loss": [
            loss(mean, se) if status == col.COMPLETE else f"{decimal(mean, 3)} ({status})"
            for mean, se, status in losses
        ],
        "ppl": [count(value) for value in table[col.PERPLEXITY]],
        "bpb": [hundredths(value) for value in table[col.BITS_PER_BYTE]],
        "lr": [scientific(value) for value in table["lr"]],
        "beta1": [beta(value) for value in table["beta1"]],
        "beta2": [beta(value) for value in table["beta2"]],
        "warmup": [hundredths(value) for value in table[WARMUP]],
        "trial": table[col.TRIAL].tolist(),
    }
    return pd.DataFrame(cells, dtype="str")


def trial_cells(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.tables.trials.trials_table` as short strings; messages are too long for a cell and left out."""
    formats = {"lr": scientific, "beta1": beta, "beta2": beta, WARMUP: hundredths}
    formats |= {col.TOKENS: count, col.TOKENS_PER_S: count, col.ELAPSED_S: count}
    cells: dict[str, list[str]] = {}
    for name in table.columns.drop([col.SIZE, col.VAL_LOSS_SE, col.MESSAGE]):  # the size is part of the trial's name
        if name == col.VAL_LOSS:
            cells["val loss"] = [loss(*pair) for pair in zip(table[col.VAL_LOSS], table[col.VAL_LOSS_SE], strict=True)]
        elif name == col.TRAIN_LOSS:
            cells["train loss"] = [decimal(value, 3) for value in table[name]]
        else:
            cells[name] = [formats.get(name, number)(value) for value in table[name]]
    return pd.DataFrame(cells, dtype="str")


def cost_cells(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.tables.cost.cost_table` as short strings."""
    cells = {
        col.SIZE: table[col.SIZE].tolist(),
        "trials": [number(value) for value in table["trials"]],
        "tokens": [count(value) for value in table[col.TOKENS]],
        "FLOPs": [count(value, FLOP_SUFFIXES) for value in table[col.TRAIN_FLOPS]],
        "device-seconds": [count(value) for value in table[DEVICE_S]],
        "FLOP/s": [count(value, FLOP_SUFFIXES) for value in table[ACHIEVED]],
        "share of peak": [MISSING if pd.isna(value) else f"{value:.0%}" for value in table[PEAK_SHARE]],
    }
    return pd.DataFrame(cells, dtype="str")


def plain_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Any table as short strings: four digits of a number, words as they are."""
    cells = {str(name).replace("_", " "): [number(value) for value in table[name]] for name in table.columns}
    return pd.DataFrame(cells, dtype="str")


def text_table(cells: pd.DataFrame, width: int, keys: list[str]) -> str:
    """Columns aligned under their names, no line longer than `width` characters as long as each column allows it.

    Columns that do not fit go into further blocks below, about equally wide, each of which repeats the `keys`, which
    are the first columns.
    """
    columns = {name: _aligned(name, cells[name].tolist()) for name in cells.columns}
    keys = [name for name in keys if name in columns]
    layouts = [_blocks(columns, keys, limit) for limit in range(1, width + 1)]
    narrowest = next(layout for layout in layouts if len(layout) == len(layouts[-1]))
    lines = [zip(*(columns[name] for name in block), strict=True) for block in narrowest]
    return "\n\n".join("\n".join("  ".join(line).rstrip() for line in block) for block in lines)


def markdown_table(cells: pd.DataFrame) -> str:
    """A Markdown table (pandas' own needs one more package); no cell can break out of it."""
    lines = [cells.columns.tolist(), ["---"] * len(cells.columns), *cells.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def count(value: Any, suffixes: tuple[str, ...] = COUNT_SUFFIXES) -> str:
    """Three digits and a suffix: 1310720 -> 1.31M; whole numbers below 1000 as they are."""
    if pd.isna(value):
        return MISSING
    if abs(value) < 1000 and value == int(value):
        return f"{value:.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")  # rounds first, so that 999,999 becomes 1.00M and not 1000k
    group = min(max(int(exponent) // 3, 0), len(suffixes) - 1)
    digits = int(exponent) - 3 * group
    return f"{float(mantissa) * 10.0**digits:.{max(0, 2 - digits)}f}{suffixes[group]}"


def loss(mean: Any, error: Any) -> str:
    """Loss and its standard error: 4.123 +- 0.050."""
    if pd.isna(mean) or not math.isfinite(mean):
        return MISSING
    return decimal(mean, 3) if pd.isna(error) else f"{mean:.3f} +- {error:.3f}"


def scientific(value: Any) -> str:
    """Two digits and a power of ten: 0.0032 -> 3.2e-03."""
    return MISSING if pd.isna(value) else f"{value:.1e}"


def decimal(value: Any, places: int) -> str:
    """A fixed number of places: 4.1234 -> 4.12 for two."""
    return MISSING if pd.isna(value) else f"{value:.{places}f}"


def hundredths(value: Any) -> str:
    """Two places."""
    return decimal(value, 2)


def beta(value: Any) -> str:
    """Three places, and more where those would read 1: 0.95 -> 0.950, 0.9999 -> 0.9999."""
    return f"{value:.6g}" if 0.9995 <= value < 1 else decimal(value, 3)


def number(value: Any) -> str:
    """Any setting: words and whole numbers as they are, yes and no, and four digits of the rest."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if pd.isna(value):
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _blocks(columns: dict[str, list[str]], keys: list[str], width: int) -> list[list[str]]:
    """As many columns in each block as `width` allows, and at least one besides the keys."""
    blocks = [[*keys]]
    for name in (name for name in columns if name not in keys):
        used = sum(len(columns[other][0]) + 2 for other in blocks[-1])
        if len(blocks[-1]) > len(keys) and used + len(columns[name][0]) > width:
            blocks.append([*keys])
        blocks[-1].append(name)
    return blocks


def _aligned(name: str, column: list[str]) -> list[str]:
    """The name and the cells below it at one width: figures to the right, words to the left."""
    width = max(map(len, (name, *column)))
    figures = any(cell[:1].isdigit() for cell in column)
    return [cell.rjust(width) if figures else cell.ljust(width) for cell in (name, *column)]
