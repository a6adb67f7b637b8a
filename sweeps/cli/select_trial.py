"""The trial of a sweep that a user means by `--trial`, with its weights and its tokenizer; what exists is only read.

Works while the sweep goes on: SQLite lets readers in between two transactions, and a checkpoint is whole or not there.
Neither Ray nor the sweep's data are needed. What is done with the model is the business of lmcore.
"""

import difflib
import hashlib
import json
import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from lmcore.checkpoint import CheckpointError
from lmcore.config import RunSpec
from lmcore.corpus.tokens import load_tokens
from lmcore.errors import InputError
from lmcore.export.trained_model import TrainedModel, read_trained_model
from lmcore.params import count_parameters
from lmcore.trainer import with_runtime
from sweeps.cli.trial_options import BEST
from sweeps.rundir.checkpoints import checkpoint_files, step_of
from sweeps.rundir.folder import RUNS, RunFolder
from sweeps.spec.load import load_spec
from sweeps.spec.settings import without_password
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.storage import quiet_optuna

LISTED = 3  # names that a message suggests
TRIES = 3  # at checkpoints of a trial that is training: each is deleted when two newer ones are there
RESTORE = "restore it from a copy"
Trials = Mapping[str, FrozenTrial]


@dataclass(frozen=True, eq=False)
class SelectedTrial:
    """A trial that has weights."""

    id: str
    status: str
    """As the study has it now; `running` also where nobody is at it any more."""
    trained: TrainedModel
    tokenizer_json: str | None
    """None where the sweep was trained on token ids alone."""
    skipped: tuple[str, ...]
    """Why newer checkpoints of it were not taken, a line each."""

    @property
    def title(self) -> str:
        """What it is, in one line."""
        run, row = self.trained.run, self.trained.last_row or {}
        count = count_parameters(run.model).total
        loss = row.get(col.VAL_LOSS)
        known = "" if loss is None or row.get(col.STEP) != self.trained.step else f", {col.VAL_LOSS} {loss:.3f}"
        tied = "tied" if run.model.tie_embeddings else "untied"
        steps = f"{self.trained.step} of {run.train.steps} updates"
        return f"{self.id} ({self.status}): {count:,} parameters, {tied}, after {steps}{known}"


def select_trial(path: Path, wanted: str = BEST) -> SelectedTrial:
    """The trial `wanted` of the sweep in the folder `path`: `best`, `best:SIZE`, or an id such as xs-0003.

    `best` is that of the largest size, by the exact parameter count of the size's base run.

    Raises:
        InputError: there is no such folder, no such trial, or it has no weights; or what is read is damaged.
    """
    folder = _folder_of(path)
    spec = load_spec(folder.sweep_yaml)
    trials = _trials(spec, folder)
    trial_id = _named(wanted, spec, trials, folder)
    try:
        run = RunSpec.model_validate(trials[trial_id].user_attrs[col.RUN])
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{trial_id}: the study must hold its run, but does not ({reason}); {RESTORE}") from None
    status = _status(trials[trial_id])
    trained, skipped = _weights(trial_id, status, run, trials, folder)
    return SelectedTrial(trial_id, status, trained, _tokenizer_json(folder, trained), skipped)


def _folder_of(path: Path) -> RunFolder:
    folder = RunFolder(path.absolute())
    if not folder.sweep_yaml.is_file():
        meant = RUNS / path if (RUNS / path / "sweep.yaml").is_file() else "runs/<name>"
        raise InputError(f"RUN: must be the folder of a sweep, with its sweep.yaml (got {path}); give {meant}")
    return folder


def _trials(spec: SweepSpec, folder: RunFolder) -> Trials:
    """Every trial that has begun, by id, in the order of the sizes and then of their numbers."""
    url = spec.search.storage
    label = f"{folder.display}/study.db" if url is None else without_password(url)
    if url is None and not (folder.study_db.is_file() and folder.study_db.stat().st_size):
        state = "empty" if folder.study_db.is_file() else "missing"
        raise InputError(f"{label}: must hold the sweep's trials, but is {state}; {RESTORE}, or run the sweep first")
    quiet_optuna()
    trials = {}
    # Whatever an Optuna storage raises (its own errors, SQLAlchemy's, JSON's, a missing driver's) means one thing here.
    try:
        storage = _sqlite(folder.study_db) if url is None else optuna.storages.RDBStorage(url, skip_table_creation=True)
        for size in spec.size_names:
            try:
                study = storage.get_study_id_from_name(spec.study_name(size))
            except KeyError:
                continue
            for trial in storage.get_all_trials(study, deepcopy=False):
                name = col.trial_id(size, trial.number)  # not what the study says: it becomes the name of a folder
                if trial.state is not TrialState.WAITING and col.RUN in trial.user_attrs:
                    trials[name] = trial
        storage.engine.dispose()
    except Exception as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        reason = reason if url is None else reason.replace(url, label)
        remedy = RESTORE if url is None else "start it, or set PGPASSWORD or the like: sweep.yaml keeps no password"
        raise InputError(f"{label}: must be a database of Optuna's that can be read ({reason}); {remedy}") from None
    return trials


def _sqlite(path: Path) -> optuna.storages.RDBStorage:
    """The database at `path`, opened so that none is made.

    mode=rw and not ro: a sweep that was killed in mid-write leaves a journal, which SQLite rolls back when it next
    opens the file. Where the file is write-protected, SQLite reads it all the same.
    """
    uri = f"{path.resolve().as_uri()}?mode=rw"
    engine = {"creator": lambda: sqlite3.connect(uri, uri=True)}
    return optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs=engine, skip_table_creation=True)


def _named(wanted: str, spec: SweepSpec, trials: Trials, folder: RunFolder) -> str:
    """The id of the trial that is meant."""
    if not trials:
        raise InputError(f"RUN: must have a trial, but none has begun in {folder.display}; wait, or resume the sweep")
    if wanted in trials:
        return wanted
    kind, colon, size = wanted.partition(":")
    if kind != BEST:
        near = difflib.get_close_matches(wanted, list(trials), LISTED, cutoff=0)
        raise InputError(
            f"--trial: must be best, best:SIZE or a trial of {folder.display} (got {wanted!r}); "
            f"the nearest are {', '.join(near)}"
        )
    if not colon:
        size = max(spec.size_names, key=lambda name: count_parameters(spec.run_for(name, {}).model).total)
    elif size not in spec.size_names:
        near = difflib.get_close_matches(size, spec.size_names, LISTED, cutoff=0)
        raise InputError(
            f"--trial best:SIZE: must name a size of {folder.display} (got {size!r}); the nearest are {', '.join(near)}"
        )
    best = _best(trials, size)
    if best is None:
        of_size = [_status(trial) for name, trial in trials.items() if _size(name) == size]
        found = ", ".join(f"{of_size.count(status)} {status}" for status in col.STATUSES if status in of_size)
        others = [f"--trial best:{other}" for other in spec.size_names if _best(trials, other) is not None]
        remedy = f"give {' or '.join(others)}" if others else "wait, resume the sweep, or give one that is running"
        largest = ", the largest size," if not colon and len(spec.size_names) > 1 else ""
        raise InputError(f"--trial: {size}{largest} must have a complete trial (got {found or 'no trial'}); {remedy}")
    return best


def _best(trials: Trials, size: str) -> str | None:
    """The complete trial of a size with the lowest loss, and of equal ones the first."""
    complete = [name for name, t in trials.items() if _size(name) == size and _status(t) == col.COMPLETE]
    return min(complete, key=lambda name: _loss(trials[name]), default=None)


def _size(trial_id: str) -> str:
    return trial_id.rpartition("-")[0]


def _status(trial: FrozenTrial) -> str:
    """As the study has it; a trial is complete when Optuna has been told so too."""
    status = trial.user_attrs.get(col.STATUS, col.RUNNING)
    return str(status) if trial.state.is_finished() else col.RUNNING


def _loss(trial: FrozenTrial) -> float:
    return trial.value if trial.value is not None else math.inf


def _weights(
    trial_id: str, status: str, run: RunSpec, trials: Trials, folder: RunFolder
) -> tuple[TrainedModel, tuple[str, ...]]:
    """The newest checkpoint of the trial that is whole and its own, and why newer ones are not."""
    skipped: list[str] = []
    for _ in range(TRIES):
        files, gone = checkpoint_files(folder.trial(trial_id)), False
        skipped = []
        for file in reversed(files):
            try:
                trained = read_trained_model(file)
                if trained.step != step_of(file) or with_runtime(trained.run, run.train) != run:
                    raise CheckpointError(f"{file}: is a checkpoint of another step or run; delete it")
            except FileNotFoundError:
                gone = True
            except (CheckpointError, OSError) as error:
                skipped.append(f"{trial_id}: a checkpoint was skipped ({error})")
            else:
                return trained, tuple(skipped)
        if not gone:
            break
    if skipped:
        raise InputError(f"{trial_id}: must have a checkpoint that is whole and its own, but has none; {skipped[0]}")
    again = f"train it again: python sweeps/run.py --config {folder.display}/trials/{trial_id}/run.yaml"
    kept = [name for name in trials if _size(name) == _size(trial_id) and checkpoint_files(folder.trial(name))]
    if kept:
        again = f"the best three of a size keep theirs: give {' or '.join(kept[:LISTED])}, or {again}"
    raise InputError(f"{trial_id}: must have weights, but has none (it is {status}); {again}")


def _tokenizer_json(folder: RunFolder, trained: TrainedModel) -> str | None:
    """The text of the sweep's tokenizer.json; the tokens beside it, which may be many, are not read."""
    tokens = load_tokens(folder.tokens, verify=False)
    label = f"{folder.display}/tokens"
    if tokens.fingerprint != trained.data_fingerprint:
        raise InputError(
            f"{label}: must have the fingerprint of the tokens that the trial was trained on, "
            f"{trained.data_fingerprint[:12]} (got {tokens.fingerprint[:12]}); restore them from a copy"
        )
    if tokens.tokenizer_json is not None:
        recorded = json.loads((folder.tokens / "meta.json").read_bytes())["tokenizer_sha256"]
        if hashlib.sha256(tokens.tokenizer_json.encode("utf-8")).hexdigest() != recorded:
            raise InputError(f"{label}/tokenizer.json: must have the digest that meta.json records; {RESTORE}")
    return tokens.tokenizer_json
