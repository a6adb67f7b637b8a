"""Where lmsweep is imported from, so that every process that a sweep starts imports the same."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ("site-packages", "dist-packages")
"""Names of ROOT if lmsweep is installed from a wheel rather than used from a checkout."""


def python_path() -> str:
    """PYTHONPATH for child processes, so that they import the same lmcore and sweeps as this one.

    An installed lmsweep is found without it, and site-packages must not come before the standard library.
    """
    checkout = [] if ROOT.name in INSTALLED else [str(ROOT)]
    return os.pathsep.join([*checkout, *filter(None, [os.environ.get("PYTHONPATH")])])
