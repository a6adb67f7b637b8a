"""A sweep that `ray job submit --working-dir` starts runs in a copy of that directory, which Ray deletes afterwards."""

from lmcore.errors import InputError
from sweeps.rundir.folder import RunFolder

COPIES = "runtime_resources"
"""The folder of a Ray session that holds what Ray unpacks for its jobs."""


def check_lasting(folder: RunFolder) -> None:
    """Raise InputError if the run's folder would be deleted with the copy that a Ray job runs in."""
    if COPIES in folder.path.resolve().parts:
        rule = f"must be a folder that stays, as Ray deletes the copy that a job runs in (got {folder.path.parent})"
        raise InputError(f"--runs: {rule}; give a path on a disk that all nodes share, as in --runs /shared/runs")
