"""A run's folder: where each thing lies, and the lock that keeps a second writer out."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from lmcore.durable import replace
from lmcore.errors import InputError

RUNS = Path("runs")


class FolderInUseError(Exception):
    """Another process writes to the folder; the message names it."""


@dataclass(frozen=True)
class RunFolder:
    """`runs/<name>/` and what is in it (the README lists it)."""

    path: Path

    @classmethod
    def of_sweep(cls, path: Path) -> "RunFolder":
        """The folder of a sweep that was begun there.

        Raises:
            InputError: no sweep was.
        """
        folder = cls(path.absolute())
        if not folder.sweep_yaml.is_file():
            raise InputError(
                f"--resume: must be the folder of a sweep, with its sweep.yaml (got {path}); give runs/<name>"
            )
        return folder

    @classmethod
    def named(cls, name: str) -> "RunFolder":
        """The folder of the sweep `name` under the working directory; `SweepSpec` has checked the name."""
        return cls((RUNS / name).absolute())

    @property
    def sweep_yaml(self) -> Path:
        """The resolved spec."""
        return self.path / "sweep.yaml"

    @property
    def manifest(self) -> Path:
        """Versions, commit, data fingerprint, seeds, hardware."""
        return self.path / "manifest.json"

    @property
    def study_db(self) -> Path:
        """Optuna's studies, the ledger."""
        return self.path / "study.db"

    @property
    def metrics(self) -> Path:
        """Every report row, append-only."""
        return self.path / "metrics.jsonl"

    @property
    def tokens(self) -> Path:
        """The data as trained on."""
        return self.path / "tokens"

    @property
    def best(self) -> Path:
        """One config per size that trains the winner."""
        return self.path / "best"

    @property
    def wandb(self) -> Path:
        """Offline tracking files."""
        return self.path / "wandb"

    @property
    def tune(self) -> Path:
        """What Tune itself writes; disposable."""
        return self.path / ".tune"

    def trial(self, trial_id: str) -> Path:
        """A trial's config and newest checkpoints."""
        return self.path / "trials" / trial_id

    @property
    def display(self) -> str:
        """The path as a user would type it."""
        return os.path.relpath(self.path)

    @contextmanager
    def claimed(self, resume: bool = False) -> Iterator[None]:
        """Make the folder and hold it for this process; the kernel lets go when the process dies, however it dies.

        Raises:
            InputError: it holds a sweep already which is not to be resumed, it cannot be made, or something of it lies
                elsewhere.
            FolderInUseError: another process holds it.
        """
        self._check_inside()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            rule = f"{self.display} cannot be made ({error.strerror})"
            raise InputError(f"name: {rule}; run from a folder that you can write to") from None
        lock = filelock.FileLock(self.path / ".lock")
        holder = self.path / ".lock-holder"
        try:
            held = lock.acquire(timeout=0)
        except filelock.Timeout:
            pid = holder.read_text().strip() if holder.exists() else "unknown"
            raise FolderInUseError(
                f"{self.display}: one writer at a time, and process {pid} is writing; wait, or choose another --name"
            ) from None
        with held:
            if self.sweep_yaml.exists() and not resume:
                raise InputError(
                    f"name: each sweep has a folder of its own, and {self.display} holds a sweep already; "
                    f"continue it with --resume {self.display}, or choose another --name"
                )
            holder.write_text(f"{os.getpid()}\n")
            yield

    def _check_inside(self) -> None:
        """Refuse symbolic links in place of the folder or of what is in it: what is written there would go elsewhere.

        wandb makes links of its own, which nothing of ours follows.
        """
        found = [self.path] if self.path.is_symlink() else []
        for parent, folders, files in os.walk(self.path):
            found += [path for name in (*folders, *files) if (path := Path(parent, name)).is_symlink()]
            if parent == str(self.path) and "wandb" in folders and not (self.path / "wandb").is_symlink():
                folders.remove("wandb")
        if found:
            raise InputError(
                f"{os.path.relpath(found[0])}: must be in the run's folder itself, but is a symbolic link to "
                f"{os.readlink(found[0])}; put what it leads to in its place"
            )


def write_text(path: Path, text: str) -> None:
    """Replace a file whole: a reader sees the old text or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON; raises ValueError for numbers that are not finite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
