"""Counts, in a trial's folder, the workers that died while they trained this trial alone.

When a worker dies in the middle of a batched interval, nobody can tell which of its trials killed it. So each of them
trains alone until its next row (`sweeps.engine.slot_table`), and only the trial that is training then is charged. The
count must survive the process, its node and the trial's proxy, hence a file: a line is written before an interval, and
the file is deleted after it, and by a new driver.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_DEATHS = 3
"""A trial that was charged with so many deaths is given up."""
FILE = "engine_deaths.txt"


def forget_deaths(trial_folder: Path) -> None:
    """Reset the count. A driver does so for each trial that it submits.

    If an earlier driver was killed, its workers died with it, which is not the trial's fault.
    """
    with suppress(OSError):
        (trial_folder / FILE).unlink(missing_ok=True)


def deaths(trial_folder: Path) -> int:
    """Number of workers that died while they trained the trial alone, since its last row."""
    file = trial_folder / FILE
    return len(file.read_text().splitlines()) if file.exists() else 0


@contextmanager
def death_charged(trial_folder: Path, worker: int) -> Iterator[None]:
    """Charge the trial with a death if this process dies inside the context; otherwise reset its count.

    >>> with death_charged(folder.trial("xs-0002"), worker=0):  # doctest: +SKIP
    ...     trainers.advance(signature, [slot], batched=False)
    """
    file = trial_folder / FILE
    # Counting is not worth an error: where the folder cannot be written, the checkpoint will say so.
    with suppress(OSError), file.open("a") as lines:
        lines.write(f"engine {worker} began an interval of this trial alone\n")
    try:
        yield
    finally:
        forget_deaths(trial_folder)
