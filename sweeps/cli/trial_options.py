"""What the commands that work on one trial of a sweep share: RUN, --trial, and mistakes as one line.

Loads neither torch nor Optuna, so that a mistake is answered at once.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from lmcore.errors import OneLineParser

BEST = "best"


class TrialParser(OneLineParser):
    """A parser with RUN and --trial; a mistake exits with code 2 after one line."""

    def __init__(self, script: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"python sweeps/{script}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("run", type=Path, metavar="RUN", help="the folder of a sweep: runs/<name>")
        self.add_argument(
            "--trial",
            default=BEST,
            metavar="best[:SIZE]|ID",
            help="whose weights: the best complete trial of a size (default: of the largest one), or a trial's id",
        )


def number(kind: type[int] | type[float], rule: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    """A type for argparse: a finite number for which `holds` is true; `rule` says so in words."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not holds(value):
            raise argparse.ArgumentTypeError(f"must be {rule} (got {text!r})")
        return value

    return parse
