"""The options RUN and `--trial` of the commands that read one trial (`export`, `generate`).

Imports neither torch nor Optuna, so that a mistake is reported at once.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from lmcore.errors import OneLineParser

BEST = "best"


class TrialParser(OneLineParser):
    """A parser with RUN and `--trial`. A mistake is reported in one line, with exit code 2.

    >>> TrialParser("lmsweep export", "Export.", "").parse_args(["runs/quick"]).trial
    'best'
    """

    def __init__(self, prog: str, description: str, examples: str) -> None:
        """`{prog}` in `examples` becomes `prog`, the command as the user typed it."""
        super().__init__(
            prog=prog,
            description=description,
            epilog=examples.format(prog=prog),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("run", type=Path, metavar="RUN", help="the sweep's folder: runs/<name>")
        self.add_argument(
            "--trial",
            default=BEST,
            metavar="best[:SIZE]|ID",
            help="the best complete trial of a size (default: of the largest size), or a trial's id, e.g. xs-0003",
        )


def number(kind: type[int] | type[float], rule: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    """An argparse type: a finite number for which `holds` is true; `rule` describes it for the error message."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not holds(value):
            raise argparse.ArgumentTypeError(f"must be {rule} (got {text!r})")
        return value

    return parse
