"""A table of the report as files: CSV in full precision, Markdown and LaTeX (booktabs) with short numbers."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.tables.formatting import is_numeric, markdown_table

LATEX_ARGUMENT = re.compile(r"^[\[*]", re.MULTILINE)
"""At the beginning of a row, LaTeX would take it for an argument of the `\\\\` that ends the row before."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet takes for a formula, and executes."""


@dataclass(frozen=True)
class ReportTable:
    """A table in full precision and as short strings, with its name, title and caption.

    >>> table = ReportTable("cost", "What it cost", frame, table_cells(frame))
    >>> table.save(Path("report"))
    [PosixPath('report/cost.csv'), PosixPath('report/cost.md'), PosixPath('report/cost.tex')]
    """

    name: str  # name of its files, without a suffix
    title: str
    frame: pd.DataFrame  # in full precision
    cells: pd.DataFrame  # short strings, in the same order
    caption: str = ""

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.csv, NAME.md and NAME.tex, and return their paths."""
        csv, markdown, latex = paths = [folder / f"{self.name}.{suffix}" for suffix in ("csv", "md", "tex")]
        spreadsheet_safe(self.frame).to_csv(csv, index=False)
        text = "\n\n".join(filter(None, (markdown_table(self.cells), self.caption)))
        markdown.write_text(f"{text}\n", encoding="utf-8")
        latex.write_text(latex_table(self.cells, self.caption), encoding="utf-8")
        return paths


def spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with an apostrophe before every text that a spreadsheet would take for a formula; numbers stay.

    >>> spreadsheet_safe(pd.DataFrame({"message": ["=1+2", "lr=1"], "loss": [-1.0, 2.0]}))["message"].tolist()
    ["'=1+2", 'lr=1']
    """

    def safe(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    words = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    return frame.assign(**{name: frame[name].map(safe) for name in words}).rename(columns=safe)


def latex_table(cells: pd.DataFrame, caption: str = "") -> str:
    """A `tabular` with the rules of booktabs: numbers aligned to the right, words to the left."""
    alignment = "".join("r" if is_numeric(cells[name]) else "l" for name in cells)
    style = cells.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    tabular = style.to_latex(hrules=True, column_format=alignment).replace("+-", r"$\pm$")
    tabular = LATEX_ARGUMENT.sub(r"{\g<0>}", tabular)
    comment = "".join(f"% {line}\n" for line in caption.splitlines())
    return f"% needs \\usepackage{{booktabs}}\n{comment}{tabular}"
