"""Whether a run's folder is still where it was when the sweep began, and holds the files that the sweep writes to.

A driver keeps files open. If the folder is moved or deleted, what it writes goes to files that nobody will find; if the
folder is replaced by a copy, the copy misses it.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from sweeps.rundir.disk_full import MovedError
from sweeps.rundir.folder import RunFolder, moved
from sweeps.rundir.repeating import repeating

PERIOD_S = 1.0


class InPlace:
    """Remembers which files are at the paths of a folder that this process has claimed, and notices if others are.

    Example:
        in_place = InPlace(folder)
        in_place.check()  # before something is written
        with in_place.watched(end=interrupts.exit_now):
            train()
    """

    def __init__(self, folder: RunFolder) -> None:
        self._label = folder.display
        # A file that is open keeps its number in every file system; folders of some network file systems do not.
        self._paths = (folder.lock, folder.metrics, folder.curves, folder.window_losses, folder.study_db)
        self._known: dict[Path, tuple[int, int]] = {}

    def problem(self) -> str | None:
        """What has happened to the folder, in one line; None while it is in place."""
        for path in self._paths:
            try:
                found = os.stat(path)
            except FileNotFoundError:
                if path in self._known:
                    return moved(self._label, f"{path.name} is gone" if path.parent.exists() else "it is gone")
                continue
            except OSError:
                continue  # a network file system that does not answer: whatever writes next will say so
            if self._known.setdefault(path, (found.st_dev, found.st_ino)) != (found.st_dev, found.st_ino):
                return moved(self._label, f"{path.name} is another file now")
        return None

    def check(self) -> None:
        """Raise MovedError unless the folder is in place."""
        if (problem := self.problem()) is not None:
            raise MovedError(problem, None)

    def watched(self, end: Callable[[str], None]) -> AbstractContextManager[None]:
        """A block during which a thread looks once a second, and calls `end` with the line when the folder has gone."""

        def look() -> bool:
            if (problem := self.problem()) is not None:
                end(problem)
            return problem is not None

        return repeating(look, PERIOD_S, "in place")
