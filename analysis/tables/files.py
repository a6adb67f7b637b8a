"""A table of the report as files: CSV in full precision, Markdown and LaTeX (booktabs) with short numbers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.tables.formatting import is_numeric, markdown_table, markdown_text

LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}"},
    }
)
LATEX_PAIRS = (("--", "-{}-"), ("--", "-{}-"), ("''", "'{}'"), ("''", "'{}'"))
"""Pairs that a font joins to one character; twice, because a run of three has two pairs."""
LATEX_NUMBER = re.compile(r"(?<![\w.+-])-(?=[\d.]+(?:$|[\s,)]))")
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
        text = "\n\n".join(filter(None, (markdown_table(self.cells), markdown_text(self.caption))))
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
    """A `tabular` with the rules of booktabs: numbers aligned to the right, words to the left.

    Every cell is plain text, escaped. The caption is in a comment, ready for `\\caption`.
    """
    numeric = [is_numeric(cells[name]) for name in cells]
    lines = [_latex_row(map(latex_text, cells.columns))]
    for row in cells.itertuples(index=False):
        texts = (
            latex_number(cell) if is_number else latex_text(cell) for cell, is_number in zip(row, numeric, strict=True)
        )
        lines.append(_latex_row(texts))
    alignment = "".join("r" if is_number else "l" for is_number in numeric)
    comments = [r"% needs \usepackage{booktabs}"]
    if caption:
        comments.append(rf"% \caption{{{latex_text(caption)}}}")
    start, end = rf"\begin{{tabular}}{{{alignment}}}", r"\end{tabular}"
    return "\n".join([*comments, start, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", end, ""])


def latex_text(text: str) -> str:
    r"""Plain text as LaTeX that prints it, on one line: names make no commands, cells or formulas.

    >>> print(latex_text("50 % of a_b & $x$"))
    50 \% of a\_b \& \$x\$
    """
    escaped = " ".join(str(text).splitlines()).translate(LATEX)
    for pair, apart in LATEX_PAIRS:
        escaped = escaped.replace(pair, apart)
    return escaped


def latex_number(text: str) -> str:
    r"""A cell of a column of numbers: with a minus sign for a hyphen, and the sign for plus or minus.

    >>> print(latex_number("-0.431 +- 0.236"))
    $-$0.431 $\pm$ 0.236
    """
    signs = latex_text(text).replace(" +- ", r" $\pm$ ")
    return LATEX_NUMBER.sub("$-$", signs)


def _latex_row(texts: Iterable[str]) -> str:
    """A line of the table. `[` or `*` at its beginning would be an argument of the command before it."""
    line = " & ".join(texts)
    return rf"{'{}' if line.startswith(('[', '*')) else ''}{line} \\"
