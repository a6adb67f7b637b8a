"""Where lmsweep is imported from, so that every process that a sweep starts imports the same."""

import os
from pathlib import Path
from typing import Any

import lmcore
import sweeps

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ("site-packages", "dist-packages")
"""Names of ROOT if lmsweep is installed from a wheel rather than used from a checkout."""


def python_path() -> str:
    """PYTHONPATH for child processes, so that they import the same lmcore and sweeps as this one.

    An installed lmsweep is found without it, and site-packages must not come before the standard library.
    """
    given = os.environ.get("PYTHONPATH", "")
    if ROOT.name in INSTALLED or given.split(os.pathsep)[0] == str(ROOT):  # of an earlier sweep in this process
        return given
    return os.pathsep.join([str(ROOT), *filter(None, [given])])


def runtime_env() -> dict[str, Any]:
    """Ray's `runtime_env` by which the nodes of a cluster get this code, whether they have lmsweep or not.

    The packages come before anything that is installed on a node, so all processes of a sweep run the driver's code:
    a checkout's edits as well. They are less than 1 MB, and a node unpacks them once. What lmsweep depends on (torch,
    Ray, ...) does not travel.

    >>> sorted(Path(path).name for path in runtime_env()["py_modules"])
    ['lmcore', 'sweeps']
    """
    return {"py_modules": packages()}


def packages() -> list[str]:
    """The folders from which this process imports lmcore and sweeps. On a node each may be in a folder of its own."""
    return [str(Path(str(package.__file__)).parent) for package in (lmcore, sweeps)]
