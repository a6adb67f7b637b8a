"""`ReportFigure`: a figure with its caption, and the files that it is saved as."""

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.chart import Chart
from analysis.figures.draw import draw
from lmcore.notebook import html_card, html_image, html_lines

DPI = 200


@dataclass(frozen=True, repr=False)
class ReportFigure:
    """A figure with its caption.

    >>> figure = ReportFigure(chart)
    >>> figure.save(Path("report"))  # report/loss_lr.svg and report/loss_lr.png
    """

    chart: Chart

    def __repr__(self) -> str:
        return f"<ReportFigure {self.name}: {self.title}>"

    def _repr_html_(self) -> str:
        return html_card(self.title, "<br>", html_image(self.svg, self.title), html_lines([self.caption]))

    @property
    def name(self) -> str:
        """File name without extension."""
        return self.chart.name

    @property
    def title(self) -> str:
        """A few words without a full stop."""
        return self.chart.title

    @property
    def caption(self) -> str:
        """What is shown, and of how many trials."""
        return self.chart.caption

    @cached_property
    def figure(self) -> Figure:
        """The matplotlib figure, for changes of one's own."""
        return draw(self.chart)

    @cached_property
    def svg(self) -> bytes:
        """The figure as SVG; the same figure gives the same bytes."""
        buffer = BytesIO()
        with style.report_style(), style.own_ids(self.name):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.svg and NAME.png into the folder, and return their paths."""
        paths = [folder / f"{self.name}.{extension}" for extension in ("svg", "png")]
        paths[0].write_bytes(self.svg)
        with style.report_style():
            self.figure.savefig(paths[1], dpi=DPI)
        return paths
