"""The entry `timings` of manifest.json: when the stages of the last command in the folder were reached."""

from collections.abc import Mapping
from contextlib import suppress

from lmcore.errors import InputError
from sweeps.provenance.resume import manifest_of
from sweeps.rundir.disk_full import UnwritableError
from sweeps.rundir.folder import RunFolder, write_json

TIMINGS = "timings"


def keep_timings(folder: RunFolder, stages: Mapping[str, float]) -> None:
    """Write the stages (seconds since the command was started) to the manifest, in place of those of a command before.

    Nothing is raised if that fails: the sweep has ended well, and all of its results are on disk.

    >>> keep_timings(RunFolder.named("quick"), {"config_read": 0.9, "first_update": 5.8})  # doctest: +SKIP
    """
    with suppress(OSError, InputError, UnwritableError):
        write_json(folder.manifest, {**manifest_of(folder), TIMINGS: dict(stages)})
