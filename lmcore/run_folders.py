"""Folders of runs, to say which one somebody meant who gave another path."""

import difflib
import os
import shlex
from contextlib import suppress
from pathlib import Path

from lmcore.printable import printable

RUNS = Path("runs")
NAMED = 3  # runs that a message names


def is_run(folder: Path) -> bool:
    """Whether a sweep has begun in this folder."""
    return (folder / "sweep.yaml").is_file() or (folder / "manifest.json").is_file()


def run_hint(path: Path, otherwise: str = "runs/<name>") -> str:
    """The runs that `path` was probably meant to be, as one would type them; `otherwise` if there are none.

    That is the run that the path leads into (runs/quick/report), those in the folder that it names (runs), the run of
    this name in runs/, or the one with the most similar name.

    >>> run_hint(Path("no-such-folder-anywhere"))
    'runs/<name>'
    """
    with suppress(OSError):
        found = _near(path)
        if found:
            names = [shlex.quote(printable(os.path.normpath(one))) for one in found[:NAMED]]
            left = len(found) - len(names)
            return " or ".join([*names, *([f"one of {left} more there"] if left else [])])
    return otherwise


def _near(path: Path) -> list[Path]:
    """The runs near a path, the newest first."""
    for above in path.parents:
        if is_run(above):
            return [above]
    if path.is_dir():
        inside = [one for one in path.iterdir() if is_run(one)]
        if not inside and is_run(path / RUNS):
            inside = [path / RUNS]
        return sorted(inside, key=lambda one: one.stat().st_mtime, reverse=True)
    if not path.is_absolute() and is_run(RUNS / path):
        return [RUNS / path]
    for folder in dict.fromkeys((path.parent, RUNS)):
        names = [one.name for one in folder.iterdir() if is_run(one)] if folder.is_dir() else []
        if close := difflib.get_close_matches(path.name, names, 1):
            return [folder / close[0]]
    return []
