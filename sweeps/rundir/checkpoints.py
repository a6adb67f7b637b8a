"""The checkpoints in a trial's folder: their names and how many stay. Workers and the driver both read this."""

from contextlib import suppress
from pathlib import Path

KEPT = 2
ASIDE = ".skipped"


def checkpoint_file(trial_folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates goes."""
    return trial_folder / f"step-{step:09d}.safetensors"


def checkpoint_files(trial_folder: Path) -> list[Path]:
    """A trial's checkpoints, oldest first."""
    return sorted(trial_folder.glob(f"step-{'[0-9]' * 9}.safetensors"))


def step_of(file: Path) -> int:
    """The number in a checkpoint's name, which is what orders a trial's checkpoints: no clock does."""
    return int(file.stem.removeprefix("step-"))


def quarantine(file: Path) -> None:
    """Take a checkpoint that is of no use out of the order: those that are written from now on are the newest."""
    with suppress(OSError):
        file.replace(file.with_suffix(ASIDE))


def drop_old_checkpoints(trial_folder: Path) -> None:
    """Delete all but the newest two: the newest might turn out to be damaged."""
    for old in checkpoint_files(trial_folder)[:-KEPT]:
        old.unlink(missing_ok=True)


def drop_unfinished(trial_folder: Path) -> None:
    """Delete what a writer that was killed has left, before there is another one."""
    for unfinished in trial_folder.glob(".step-*.tmp"):
        unfinished.unlink(missing_ok=True)


def drop_checkpoints(trial_folder: Path) -> None:
    """Delete all of them: nobody wants these weights. The driver and an engine may both do it, at the same time."""
    for file in (*checkpoint_files(trial_folder), *trial_folder.glob(f"step-*{ASIDE}")):
        file.unlink(missing_ok=True)
    drop_unfinished(trial_folder)
