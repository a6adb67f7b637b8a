"""A table of the report as files: full precision as CSV, short figures as Markdown and as LaTeX (booktabs)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.tables.formatting import markdown_table

ENDINGS = ("csv", "md", "tex")
LATEX_OF = {"+-": r"$\pm$"}


@dataclass(frozen=True)
class ReportTable:
    """A table in full precision, how people read it, and what has to be said of it."""

    name: str
    """Of its files, without an ending."""
    title: str
    frame: pd.DataFrame
    """In full precision."""
    cells: pd.DataFrame
    """Short strings, in the same order."""
    caption: str = ""

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.csv, NAME.md and NAME.tex."""
        paths = [folder / f"{self.name}.{ending}" for ending in ENDINGS]
        self.frame.to_csv(paths[0], index=False)
        caption = f"\n\n{self.caption}" if self.caption else ""
        paths[1].write_text(f"{markdown_table(self.cells)}{caption}\n", encoding="utf-8")
        paths[2].write_text(latex_table(self.cells, self.caption), encoding="utf-8")
        return paths


def latex_table(cells: pd.DataFrame, caption: str = "") -> str:
    """A `tabular` with the rules of booktabs and no vertical ones; numbers to the right, words to the left."""
    alignment = "".join("r" if _is_figures(cells[name].tolist()) else "l" for name in cells.columns)
    style = cells.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    text = style.to_latex(hrules=True, column_format=alignment)
    for plain, symbol in LATEX_OF.items():
        text = text.replace(plain, symbol)
    comment = "".join(f"% {line}\n" for line in caption.splitlines())
    return f"% needs \\usepackage{{booktabs}}\n{comment}{text}"


def _is_figures(column: Sequence[str]) -> bool:
    return any(cell[:1].isdigit() or cell[:2].lstrip("-").isdigit() for cell in column)
