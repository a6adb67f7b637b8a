"""Tables as HTML for a notebook; `lmcore.notebook` has what they are made of."""

import pandas as pd

from analysis.tables.formatting import is_numeric
from lmcore.notebook import html_table

SHOWN_ROWS = 20


def html_cells(cells: pd.DataFrame, rows: int = SHOWN_ROWS) -> str:
    """Cells of text, such as `table_cells` makes, of which at most `rows` rows are shown.

    >>> html_cells(table_cells(run.trials[["trial", "status", "loss"]]))
    """
    numeric = [number for number, name in enumerate(cells.columns) if is_numeric(cells[name])]
    left_out = len(cells) - rows
    note = f"{left_out} more row{'' if left_out == 1 else 's'}" if left_out > 0 else ""
    return html_table([*map(str, cells.columns)], cells.head(rows).to_numpy().tolist(), numeric, note)
