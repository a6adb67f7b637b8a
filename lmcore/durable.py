"""Replacing a file or folder so that the change survives a power cut."""

import os
from pathlib import Path


def replace(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename `source`, whose content the caller has synced, to `target`, which is then the old one or the new one.

    A folder may take the place of none, or of an empty one. Raises OSError where the disk refuses.
    """
    os.replace(source, target)
    folder = os.open(Path(target).parent, os.O_RDONLY)  # without this a power cut may undo the renaming
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
