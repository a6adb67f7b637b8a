"""The page of a dashboard: one document, with the style sheet and the scripts of the report beside its own."""

import json
from pathlib import Path

import jinja2
from markupsafe import Markup

from analysis.document.page import FOLDER as DOCUMENT
from analysis.figures.colours import DARK

FOLDER = Path(__file__).parent
STYLES = (DOCUMENT / "page.css", FOLDER / "dashboard.css")
SCRIPTS = (
    *(DOCUMENT / name for name in ("tables.js", "trials.js", "figures.js", "theme.js")),
    *(FOLDER / name for name in ("live_tables.js", "live.js")),
)


def page(name: str) -> tuple[str, str]:
    """The document and the text of its only script.

    >>> html, script = page("quick")
    """
    script = "\n".join(["\n(() => {", "'use strict';", *map(_read, SCRIPTS), "})();\n"])
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    template = environment.from_string(_read(FOLDER / "dashboard.html.jinja"))
    dark, css = Markup(json.dumps(DARK)), Markup("\n".join(map(_read, STYLES)))
    return template.render(name=name, css=css, script=Markup(script), dark_json=dark), script


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
