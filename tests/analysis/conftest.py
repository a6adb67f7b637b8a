"""Folders of runs like those of real sweeps: Optuna studies in SQLite, manifest.json and metrics.jsonl."""

import copy
import functools
import json
import math
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from lmcore import columns as col
from lmcore.curve_batches import HEADER, encode_batch
from lmcore.window_records import encode_record

BASE = {
    "data": {"source": "stdlib", "val_source": None, "seed": 0},
    "model": {"vocab_size": 256, "d_model": 64, "context_length": 32, "tie_embeddings": False},
    "train": {"steps": 100, "batch_size": 8, "seed": 0},
    "optim": {"lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "warmup_fraction": 0.05, "clip_norm": 1.0},
}
MANIFEST = {
    "schema": 1,
    "name": "quick",
    "created": "2026-01-02T03:04:05+00:00",
    "command": ["python", "sweeps/run.py"],
    "versions": {"python": "3.11", "optuna": optuna.__version__},
    "commit": None,
    "hardware": {"cpus": 2},
    "seeds": {"train": 0, "data": 0, "search": 0},
    "storage": None,
    "studies": {"xs": "xs", "s": "s"},
    "search": {"method": "optuna", "scheduler": "asha", "trials": 4},
    "data": {
        "source": "stdlib",
        "fingerprint": "f00d",
        "vocab_size": 256,
        "train_tokens": 1_200_000,
        "val_tokens": 60_000,
        "bytes_per_token": 3.0,
        "val_entropy_unigram": 5.5,
    },
}
STATES = {
    None: TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
}


def armed(*arms: str, sizes: tuple[str, ...] = ("xs", "s")) -> dict[str, Any]:
    """Entries of a manifest of schema 2: a search and a confirmation for each size and arm."""
    pairs = [(size, arm) for size in sizes for arm in arms or (None,)]
    names = {pair: "-".join(filter(None, pair)) for pair in pairs}
    search = [{"id": names[p], "study": names[p], "size": p[0], "arm": p[1], "phase": "search"} for p in pairs]
    confirm = [
        {**one, "id": f"{one['id']}-confirm", "study": f"{one['study']}/confirm", "phase": "confirm"} for one in search
    ]
    return {"schema": 2, "studies": [*search, *confirm], "confirm": {"top": 3, "seeds": 3}}


class RunFolder:
    """A run's folder: `add` adds a trial to a study, `row` a line to metrics.jsonl, `windows` losses of windows."""

    def __init__(self, path: Path, **manifest: Any) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        self.manifest = {**MANIFEST, **manifest}
        (path / "manifest.json").write_text(json.dumps(self.manifest))

    @functools.cached_property
    def storage(self) -> optuna.storages.RDBStorage:
        address = self.manifest["storage"] or f"sqlite:///{self.path}/study.db"

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(address.removeprefix("sqlite:///"))
            connection.execute("PRAGMA synchronous = OFF")  # the same file, without waiting for the disk
            return connection

        return optuna.storages.RDBStorage(address, engine_kwargs={"creator": connect})

    def study(self, size: str) -> optuna.Study:
        """The study whose trials' ids begin with `size`: `xs`, or `xs-tied-confirm`."""
        studies = self.manifest["studies"]
        name = studies[size] if isinstance(studies, dict) else {one["id"]: one["study"] for one in studies}[size]
        return optuna.create_study(study_name=name, storage=self.storage, load_if_exists=True)

    def add(self, size: str, ended: str | None, val_loss: float | None = None, **changes: Any) -> str:
        """Add a trial of `size` with this status, or a running one, and return its id.

        `changes` may be fields of its RunSpec (`optim__lr=1e-3`), counts, columns of its last report, or attributes.
        """
        study = self.study(size)
        name = f"{size}-{len(study.get_trials(deepcopy=False)):04d}"
        run = copy.deepcopy(BASE)
        for path, value in changes.items():
            if "__" in path:
                part, field = path.split("__")
                run[part][field] = value
        counts = {"params_estimate": 1000, "params_exact": 1100, "params_non_embedding": 800, "flops_per_token": 7000}
        last = {"step": 100, "tokens": 25_600, "train_loss": 4.0, "val_loss": val_loss, "val_loss_se": 0.01}
        last |= {"elapsed_s": 12.5, "tokens_per_s": 2048.0}
        attributes: dict[str, Any] = {"trial": name, "run": run, "counts": counts}
        if ended:
            attributes |= {"status": ended, "last": last}
        for key, value in changes.items():
            if "__" not in key:
                group = counts if key in col.COUNT_COLUMNS else last if key in col.LAST_COLUMNS else attributes
                group[key] = value
        if attributes.get("last") is None:  # the trial never reported
            attributes.pop("last", None)
        # In one transaction: ask, set_user_attr and tell would be fifteen.
        study.add_trial(
            optuna.trial.create_trial(
                state=STATES[ended],
                value={"complete": val_loss, "diverged": math.inf}.get(ended),
                params={"optim.lr": run["optim"]["lr"]},
                distributions={"optim.lr": FloatDistribution(1e-4, 1e-1, log=True)},
                intermediate_values={25: val_loss} if ended == "pruned" else {},
                user_attrs=attributes,
                system_attrs={"constraints": [float(ended == "diverged")]},
            )
        )
        return name

    def confirm(self, of: str, losses: dict[int, float | None], **changes: Any) -> list[str]:
        """Repeat the trial `of` under these seeds, with these losses (None: diverged), and return the ids."""
        study = of.rpartition("-")[0]
        (found,) = [one for one in self.study(study).trials if one.user_attrs["trial"] == of]
        fields = {f"{part}__{name}": v for part, run in found.user_attrs["run"].items() for name, v in run.items()}
        counts = found.user_attrs["counts"]
        return [
            self.add(
                f"{study}-confirm",
                "diverged" if loss is None else "complete",
                loss,
                **{**fields, **counts, "train__seed": seed, "data__seed": seed, "of": of, **changes},
            )
            for seed, loss in losses.items()
        ]

    def result(self, leader: str, **beaten: int) -> None:
        """Record the result of the confirmation of the leader's size and arm."""
        study = self.study(f"{leader.rpartition('-')[0]}-confirm")
        study.set_user_attr("result", {"leader": leader, "beaten": beaten})

    def windows(self, trial: str, losses: Any, evaluation: str = "last", **header: Any) -> None:
        """Append the losses of windows to window_losses.bin."""
        self._record({"trial": trial, "step": 100, "set": "final", "evaluation": evaluation, **header}, losses)

    def points(self, trial: str, points: Any) -> None:
        """Append points (step, train_loss, grad_norm, lr) of a trial to curves.arrow."""
        path = self.path / "curves.arrow"
        with path.open("ab") as file:
            file.write((b"" if path.stat().st_size else HEADER) + encode_batch(trial, points))

    def documents(self, numbers: Any, context_length: int = 32) -> None:
        """Append the documents of windows to window_losses.bin."""
        self._record({"context_length": context_length, "documents": True}, numbers)

    def _record(self, header: dict[str, Any], values: Any) -> None:
        with (self.path / "window_losses.bin").open("ab") as file:
            file.write(encode_record(header, np.asarray(values)))

    def row(self, trial: str, step: int, val_loss: float | None, **changes: Any) -> None:
        row = {"trial": trial, "size": trial.split("-")[0], "status": "running", "step": step, "tokens": 256 * step}
        row |= {"train_loss": 4.5, "val_loss": val_loss, "val_loss_se": 0.02, "grad_norm": 0.7, "lr": 1e-3}
        row |= {"tokens_per_s": 1000.0, "elapsed_s": step / 10, **changes}
        self.append(json.dumps(row) + "\n")

    def append(self, text: str) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(text)


@pytest.fixture(scope="session", autouse=True)
def _quiet_optuna():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def make_run(tmp_path):
    """`make_run(**manifest) -> RunFolder`, in tmp_path/quick."""
    return lambda **manifest: RunFolder(tmp_path / "quick", **manifest)


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """Two sizes, tied and untied, with trials of every status."""
    run = RunFolder(tmp_path_factory.mktemp("original"))
    run.add("xs", "complete", 4.20, optim__lr=1e-3)  # xs-0000, the best untied
    run.add("xs", "complete", 4.21, optim__lr=2e-3)  # inside the noise of xs-0000
    run.add("xs", "complete", 4.50, model__tie_embeddings=True)  # the best tied
    run.add("xs", "pruned", 4.00, step=25, tokens=6400)  # lower than any complete one, but not final
    run.add("xs", "diverged", None, message="loss is nan at step 3", optim__lr=0.09)
    run.add("xs", "failed", None, message="MemoryError: 3 GB | 2 GB", last=None)
    large = {"model__d_model": 128, "params_exact": 4000}
    run.add("s", "complete", 3.90, **large)
    run.add("s", "complete", 3.50, optim__beta1=0.8, **large)  # s-0001, ahead by far more than the noise
    run.add("s", "pruned", 4.10, **large, model__tie_embeddings=True, step=25, tokens=6400)
    running = run.add("s", None, **large, model__tie_embeddings=True)  # s-0003
    run.row(running, 25, 4.4)
    run.row(running, 50, 4.0)
    return run


@pytest.fixture
def folder(original, tmp_path):
    """A copy of `original` that the test may change, in tmp_path/quick."""
    shutil.copytree(original.path, tmp_path / "quick")
    return RunFolder(tmp_path / "quick")
