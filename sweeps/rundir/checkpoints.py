"""The checkpoint files in a trial's folder: their names, and how many are kept. `lmcore.checkpoint` writes them."""

from contextlib import suppress
from pathlib import Path

KEPT = 2  # checkpoints of a trial; one is not enough, because the newest may turn out to be damaged
QUARANTINED = ".skipped"


def checkpoint_file(trial_folder: Path, step: int) -> Path:
    """The file for the checkpoint after `step` updates.

    >>> checkpoint_file(Path("trials/xs-0003"), 25).as_posix()
    'trials/xs-0003/step-000000025.safetensors'
    """
    return trial_folder / f"step-{step:09d}.safetensors"


def checkpoint_files(trial_folder: Path) -> list[Path]:
    """A trial's checkpoints, oldest first."""
    return sorted(trial_folder.glob(f"step-{'[0-9]' * 9}.safetensors"))


def step_of(file: Path) -> int:
    """The number of updates in a checkpoint's name. Checkpoints are ordered by it, never by file times."""
    return int(file.stem.removeprefix("step-"))


def quarantine(file: Path) -> None:
    """Rename an unusable checkpoint, so that it is no longer the trial's newest."""
    with suppress(OSError):
        file.replace(file.with_suffix(QUARANTINED))


def drop_old_checkpoints(trial_folder: Path) -> None:
    """Delete all but the newest KEPT checkpoints."""
    for old in checkpoint_files(trial_folder)[:-KEPT]:
        old.unlink(missing_ok=True)


def drop_unfinished(trial_folder: Path) -> None:
    """Delete the partial files of a writer that was killed. Call this before the next writer starts."""
    for unfinished in trial_folder.glob(".step-*.tmp"):
        unfinished.unlink(missing_ok=True)


def drop_checkpoints(trial_folder: Path) -> None:
    """Delete all checkpoints. The driver and an engine may do this at the same time."""
    for file in (*checkpoint_files(trial_folder), *trial_folder.glob(f"step-*{QUARANTINED}")):
        file.unlink(missing_ok=True)
    drop_unfinished(trial_folder)
