r"""What objects show at the end of a notebook's cell: a title, lines of text and small tables.

All text is escaped, because names in a run may be anyone's. Neither text nor background has a colour of its own, so
that it reads in light and dark notebooks.

    def _repr_html_(self) -> str:
        return html_card("Tokens", html_table(["split", "tokens"], [["train", "3,752,645"]], numeric=[1]))
"""

import base64
import html
from collections.abc import Iterable, Sequence

from lmcore.printable import printable

_LINE = "border-bottom:1px solid rgba(128,128,128,.4)"


def html_text(text: str) -> str:
    r"""Text as HTML that shows it and does nothing else.

    >>> html_text("<b>\x1b[2J")
    '&lt;b&gt;\\x1b[2J'
    """
    return html.escape(printable(text))


def html_card(title: str, *parts: str) -> str:
    """A title above parts of HTML, of which empty ones are left out.

    >>> html_card("quick", html_lines(["16 complete"]))
    '<div><strong>quick</strong><p style="margin:.3em 0">16 complete</p></div>'
    """
    return f"<div><strong>{html_text(title)}</strong>{''.join(parts)}</div>"


def html_lines(lines: Iterable[str]) -> str:
    """Plain texts, each a paragraph."""
    return "".join(f'<p style="margin:.3em 0">{html_text(line)}</p>' for line in lines)


def html_image(svg: bytes, alt: str) -> str:
    """A picture on white, as a data URL: the ids of several inline SVG would clash.

    >>> html_image(b"<svg/>", "a <plot>")
    '<img alt="a &lt;plot&gt;" style="max-width:100%;background:white" src="data:image/svg+xml;base64,PHN2Zy8+">'
    """
    data = base64.b64encode(svg).decode()
    return (
        f'<img alt="{html_text(alt)}" style="max-width:100%;background:white" src="data:image/svg+xml;base64,{data}">'
    )


def html_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = (), note: str = ""
) -> str:
    """A table of plain texts, and a note below it. The columns `numeric` are aligned to the right.

    >>> html_table(["n"], [["3"]], numeric=[0]).count("text-align:right")
    2
    """
    sides = ["right" if column in numeric else "left" for column in range(len(headings))]

    def line(tag: str, cells: Sequence[str], look: str) -> str:
        texts = zip(sides, map(html_text, cells), strict=True)
        return "".join(
            f'<{tag} style="text-align:{side};padding:.15em .7em;{look}">{text}</{tag}>' for side, text in texts
        )

    body = "".join(f"<tr>{line('td', row, '')}</tr>" for row in rows)
    table = f"<thead><tr>{line('th', headings, _LINE)}</tr></thead><tbody>{body}</tbody>"
    return f'<table style="border-collapse:collapse">{table}</table>{html_lines([note] if note else [])}'
