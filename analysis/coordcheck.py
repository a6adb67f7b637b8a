"""The coordinate check: `lmsweep coordcheck`, or `python analysis/coordcheck.py`. It measures, judges and draws.

The measurement is `python -m lmcore.coordinates`, a process of its own, as nothing in this package loads torch. It
leaves `coordinates.json` in the folder --out, of which the figure `coordinates.svg` and `.png` is made here. The exit
code is that of the measurement: 0 flat; 1 not flat; 2 wrong input (one line); 130 interrupted.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: see report.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lmcore.coordinates.options import FILE, parser
from lmcore.terminal.console import print_out

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "python analysis/coordcheck.py"
MEASURED = (0, 1)
"""Exit codes with which the measurement has written its file."""


def main(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> int:
    """Measure, draw, and return the exit code. `prog` is the command as the user typed it.

    >>> main(["--parametrization", "standard"])  # doctest: +SKIP
    1
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parser(prog).parse_args(arguments)
    command = [sys.executable, "-m", "lmcore.coordinates", *arguments]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}  # a checkout need not be installed
    try:
        code = subprocess.run(command, env=environment, check=False).returncode
        if code not in MEASURED:
            return code
        from analysis.figures.coordinates import coordinates_figure  # matplotlib, which takes a second to import

        paths = coordinates_figure(json.loads((options.out / FILE).read_text())).save(options.out)
    except KeyboardInterrupt:
        return 130
    print_out(f"Written to {options.out}: {', '.join([FILE, *(path.name for path in paths)])}")
    return code


if __name__ == "__main__":
    sys.exit(main())
