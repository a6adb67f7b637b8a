"""A run's folder: the path of each file in it, and the lock that keeps a second writer out."""

import json
import os
import secrets
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from lmcore.durable import write_file
from lmcore.errors import InputError
from sweeps.rundir.disk_full import MovedError
from sweeps.rundir.lock_holder import holder_of, holding

RUNS = Path("runs")
OWNER = ".owner"


class FolderInUseError(Exception):
    """Another process is writing to the folder; the message names it."""


class RunFolder:
    """`runs/<name>/` and the files in it. The folder, and anything in it, may be a symbolic link.

    >>> folder = RunFolder.named("quick")
    >>> folder.metrics.relative_to(folder.path).as_posix()
    'metrics.jsonl'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sweep_yaml = path / "sweep.yaml"  # the resolved spec
        self.manifest = path / "manifest.json"  # versions, commit, data fingerprint, seeds and hardware
        self.study_db = path / "study.db"  # Optuna's studies
        self.metrics = path / "metrics.jsonl"  # every report row; append-only
        self.early = path / "early.jsonl"  # of a reproducible sweep: rows that arrived before their turn; append-only
        self.window_losses = path / "window_losses.bin"  # losses of single windows of trials that ended; append-only
        self.curves = path / "curves.arrow"  # points of the training curves, finer than the rows; append-only
        self.tokens = path / "tokens"  # the tokens that the trials train on
        self.best = path / "best"  # one config per size, which trains the winner
        self.wandb = path / "wandb"  # wandb's offline files
        self.tensorboard = path / "tensorboard"  # TensorBoard's event files, a folder per trial
        self.tune = path / ".tune"  # what Ray Tune writes; nothing in it is needed later
        self.lock = path / ".lock"  # locked by the process that writes to the folder

    @classmethod
    def of_sweep(cls, path: Path) -> "RunFolder":
        """The folder of an existing sweep. Raises InputError if there is none at `path`."""
        folder = cls(path.absolute())
        if not folder.sweep_yaml.is_file():
            rule = f"must be the folder of a sweep, with its sweep.yaml (got {path})"
            raise InputError(f"--resume: {rule}; give runs/<name>")
        return folder

    @classmethod
    def named(cls, name: str, runs: Path = RUNS) -> "RunFolder":
        """The folder runs/<name>, by default in the working directory. `SweepSpec` has checked that it stays inside."""
        return cls((runs / name).absolute())

    def trial(self, trial_id: str) -> Path:
        """A trial's config and newest checkpoints."""
        return self.path / "trials" / trial_id

    def owner(self) -> str:
        """The id by which a database shared by sweeps knows whose studies are whose; made when first asked for."""
        file = self.path / OWNER
        if not file.exists():
            write_text(file, secrets.token_hex(16) + "\n")
        return file.read_text().strip()

    @property
    def display(self) -> str:
        """The path as a user would type it: relative if it is in the working directory."""
        relative = os.path.relpath(self.path)
        return str(self.path) if relative.startswith(os.pardir) else relative

    @contextmanager
    def claimed(self, resume: bool = False, before: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Create the folder and lock it for this process. The lock is released when the process ends, however it ends.

        `before` is called once the folder is locked, before it is looked at.

        Raises InputError if the folder cannot be created or holds a sweep that is not to be resumed, and
        FolderInUseError if another process has locked it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            rule = f"{self.display} cannot be created ({error.strerror})"
            raise InputError(f"name: {rule}; run from a folder that you can write to") from None
        holder = self.path / ".lock-holder"
        try:
            held = filelock.FileLock(self.lock).acquire(timeout=0)
        except filelock.Timeout:
            rule = f"one writer at a time, and {holder_of(holder)} is writing"
            raise FolderInUseError(f"{self.display}: {rule}; wait, or choose another --name") from None
        with held:
            before()
            if self.sweep_yaml.exists() and not resume:
                rule = f"each sweep has a folder of its own, and {self.display} holds a sweep already"
                remedy = f"continue it with --resume {shlex.quote(self.display)}, or choose another --name"
                raise InputError(f"name: {rule}; {remedy}")
            with holding(holder):
                yield


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically: a reader sees either the old text or the new text. Creates missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, [text.encode("utf-8")])


def write_json(path: Path, value: Any) -> None:
    """Replace a file atomically by indented JSON, in a folder that exists.

    Raises ValueError if a number is not finite, and MovedError if the folder is gone: it is not created again.
    """
    if not path.parent.is_dir():
        raise MovedError(moved(os.path.relpath(path.parent), "it is gone"), path)
    write_file(path, [(json.dumps(value, indent=2, allow_nan=False) + "\n").encode()])


def moved(folder: str, found: str) -> str:
    """The message when a run's folder, or a file in it, is not where its sweep left it.

    >>> moved("runs/quick", "it is gone")
    'runs/quick: the folder of a running sweep must stay where it is, but it is gone; move it when the sweep has ended'
    """
    rule = f"the folder of a running sweep must stay where it is, but {found}"
    return f"{folder}: {rule}; move it when the sweep has ended"
