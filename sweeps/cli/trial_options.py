"""The options RUN, `--trial` and `--storage` of the commands that read one trial (`export`, `generate`).

Imports neither torch nor Optuna, so that a mistake is reported at once.
"""

from pathlib import Path

from lmcore.errors import OneLineParser
from lmcore.study_database import STORAGE_HELP

BEST = "best"


class TrialParser(OneLineParser):
    """A parser with RUN, `--trial` and `--storage`. A mistake is reported in one line, with exit code 2.

    >>> TrialParser("lmsweep export", "Export.", "").parse_args(["runs/quick"]).trial
    'best'
    """

    def __init__(self, prog: str, description: str, examples: str) -> None:
        """`{prog}` in `examples` becomes `prog`, the command as the user typed it."""
        super().__init__(
            prog=prog,
            description=description,
            epilog=examples.format(prog=prog),
            allow_abbrev=False,
        )
        self.add_argument("run", type=Path, metavar="RUN", help="the sweep's folder: runs/<name>")
        self.add_argument(
            "--trial",
            default=BEST,
            metavar="best[:SIZE]|ID",
            help="the best complete trial of a size (default: of the largest size), or a trial's id, e.g. xs-0003",
        )
        self.add_argument("--storage", metavar="URL", help=STORAGE_HELP)
