"""Folders of replayed sweeps: their losses were not trained, so training must not continue them."""

from lmcore import columns as col
from lmcore.errors import InputError
from sweeps.provenance.resume import manifest_of
from sweeps.rundir.folder import RunFolder


def check_trained(folder: RunFolder) -> None:
    """Raise InputError if the folder holds a replayed sweep."""
    if col.REPLAY in manifest_of(folder):
        rule = f"must be the folder of a sweep that trained its trials (got {folder.display}, which is a replay)"
        raise InputError(f"--resume: {rule}; start the sweep with --config and another --name")
