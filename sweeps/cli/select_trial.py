"""Finds the trial that `--trial` names, with its weights and its tokenizer. The run's folder is only read.

It works while the sweep runs: SQLite lets readers in between transactions, and a checkpoint appears whole or not at
all. Neither Ray nor the training data are needed.
"""

import difflib
import hashlib
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from tokenizers import Tokenizer

from lmcore import columns as col
from lmcore.checkpoint import CheckpointError
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.corpus.tokenizer import end_of_text_token
from lmcore.corpus.tokens import load_tokens
from lmcore.errors import InputError
from lmcore.export.trained_model import TrainedModel, read_trained_model
from lmcore.params import count_parameters
from lmcore.printable import printable
from lmcore.run_folders import run_hint
from lmcore.study_database import confirmed_storage, sqlite_file, sqlite_reader
from lmcore.trainer import with_runtime
from sweeps.cli.trial_options import BEST
from sweeps.rundir.checkpoints import checkpoint_files, step_of
from sweeps.rundir.folder import RunFolder
from sweeps.spec.arms import StudyPlan
from sweeps.spec.load import load_kept
from sweeps.spec.settings import mask_password
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.excluded import excluded_in, is_excluded
from sweeps.study.storage import quiet_optuna

RESTORE = "restore it from a copy"


@dataclass(frozen=True, eq=False)
class SelectedTrial:
    """A trial and its model."""

    id: str
    status: str
    """As in the study: `running` also for a trial whose sweep was stopped."""
    trained: TrainedModel
    tokenizer_json: str | None
    """None if the sweep was trained on token ids without a tokenizer."""
    end_of_text: int | None
    """Id of the token that ended documents in training."""
    skipped: tuple[str, ...]
    """One line for each newer checkpoint that could not be used."""

    @property
    def title(self) -> str:
        """One line that describes the model."""
        run = self.trained.run
        row: Row = self.trained.last_row or {}
        reported = row.get(col.STEP) == self.trained.step and row.get(col.VAL_LOSS) is not None
        loss = f", {col.quoted_column(row)} {col.quoted_loss(row):.3f}" if reported else ""
        tied = "tied" if run.model.tie_embeddings else "untied"
        steps = f"{self.trained.step} of {run.steps} updates"
        parameters = count_parameters(run.model).total
        return f"{self.id} ({self.status}): {parameters:,} parameters, {tied}, after {steps}{loss}"


def select_trial(path: Path, name: str = BEST, storage: str | None = None) -> SelectedTrial:
    """The trial `name` of the sweep in the folder `path`: `best`, `best:SIZE`, or an id such as xs-0003.

    `best` is the best complete trial of the size with the most parameters. `storage` is the address of the studies, if
    they are not in the folder's study.db.

    Raises:
        InputError: `storage` is needed, there is no such folder or trial, it has no weights, or a file is damaged.

    >>> select_trial(Path("runs/quick"), "best:xs").trained.model  # doctest: +SKIP
    """
    folder = RunFolder(path.absolute())
    if not folder.sweep_yaml.is_file():
        raise InputError(f"RUN: must be the folder of a sweep, with its sweep.yaml (got {path}); give {run_hint(path)}")
    spec = load_kept(folder.sweep_yaml)
    trials = _read_trials(spec, folder, storage)
    trial_id = _find(name, spec, trials, folder)
    try:
        run = RunSpec.model_validate(trials[trial_id].run)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{trial_id}: the study must hold its config, but does not ({reason}); {RESTORE}") from None
    trained, skipped = _newest_model(trial_id, run, trials, folder)
    return SelectedTrial(trial_id, trials[trial_id].status, trained, *_tokenizer(folder, trained), tuple(skipped))


class _Trial(NamedTuple):
    plan: StudyPlan
    status: str
    loss: float
    run: dict[str, Any]
    confirmed: float | None = None
    """Mean loss of its confirmation runs, if its setting is the confirmed result of its size and arm."""


Trials = dict[str, _Trial]
"""By id."""


def _read_trials(spec: SweepSpec, folder: RunFolder, given: str | None) -> Trials:
    """Every trial that has started."""
    url = confirmed_storage(spec.search.storage, given, f"{folder.display}/sweep.yaml")
    label = f"{folder.display}/study.db" if url is None else mask_password(url)
    file = sqlite_file(url) if url else folder.study_db
    quiet_optuna()
    try:
        with _opened_file(file) if file else _opened(str(url)) as storage:
            return _trials_in(storage, spec)
    except InputError:
        raise
    except Exception as error:  # Optuna's, SQLAlchemy's, a driver's: for the user they all mean the same
        reason = printable(str(error.__cause__ or error).strip().split("\n")[0].replace(url or label, label))
        remedy = RESTORE if url is None else "start it, or set PGPASSWORD or the like: sweep.yaml keeps no password"
        raise InputError(f"{label}: must be an Optuna database that can be read ({reason}); {remedy}") from None


def _trials_in(storage: optuna.storages.RDBStorage, spec: SweepSpec) -> Trials:
    trials: Trials = {}
    studies = optuna.get_all_study_names(storage)
    for plan in (*spec.studies, *spec.confirmations):
        if (name := spec.study_name(plan)) in studies:
            study = optuna.load_study(study_name=name, storage=storage)
            excluded = excluded_in(study.user_attrs)
            leader = (study.user_attrs.get(col.RESULT) or {}).get("leader")
            runs = [t.value for t in study.get_trials(deepcopy=False) if t.user_attrs.get(col.OF) == leader]
            if leader in trials and (losses := [loss for loss in runs if loss is not None]):
                trials[leader] = trials[leader]._replace(confirmed=statistics.fmean(losses))
            for trial in study.get_trials(deepcopy=False):
                attributes = trial.user_attrs
                if col.RUN in attributes:
                    # The status is recorded before Optuna is told; only then has the trial ended.
                    unfinished = col.RUNNING if attributes.get(col.PAUSED_AT) is None else col.PAUSED
                    status = attributes.get(col.STATUS, col.RUNNING) if trial.state.is_finished() else unfinished
                    status = col.EXCLUDED if is_excluded(trial, excluded) else status
                    loss = math.inf if trial.value is None else trial.value
                    # The id becomes part of a path, so it is not read from the database.
                    one = _Trial(plan, printable(str(status)), loss, attributes[col.RUN])
                    trials[col.trial_id(plan.id, trial.number)] = one
    return trials


@contextmanager
def _opened_file(path: Path) -> Iterator[optuna.storages.RDBStorage]:
    """The storage in a SQLite file, which is neither created nor changed."""
    with sqlite_reader(path) as connect, _opened("sqlite://", creator=connect) as storage:
        yield storage


@contextmanager
def _opened(url: str, **engine: Any) -> Iterator[optuna.storages.RDBStorage]:
    storage = optuna.storages.RDBStorage(url, engine_kwargs=engine, skip_table_creation=True)
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _find(name: str, spec: SweepSpec, trials: Trials, folder: RunFolder) -> str:
    """The id of the trial that the user means by `name`."""
    if not trials:
        raise InputError(f"RUN: must have a trial, but none has started in {folder.display}; wait, or resume the sweep")
    if name in trials:
        return name
    largest = max(spec.size_names, key=lambda size: count_parameters(spec.run_for(size, {}).model).total)
    names = dict.fromkeys((*spec.size_names, *(plan.group for plan in spec.studies)))
    sizes = {BEST: largest, **{f"{BEST}:{size}": size for size in names}}
    if name not in sizes:
        nearest = difflib.get_close_matches(name, [*sizes, *trials], 3, cutoff=0)
        rule = f"must be best, best:SIZE or a trial of {folder.display} (got {name!r})"
        raise InputError(f"--trial: {rule}; the nearest are {', '.join(nearest)}")
    found = _best(trials, sizes[name])
    if found is None:
        statuses = Counter(
            trial.status for trial in trials.values() if sizes[name] in (trial.plan.size, trial.plan.group)
        )
        counts = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "no trial"
        others = [f"--trial {BEST}:{size}" for size in names if _best(trials, size) is not None]
        remedy = f"give {' or '.join(others)}" if others else "wait, resume the sweep, or give one that is running"
        what = f"{'size ' if sizes[name] in spec.size_names else ''}{sizes[name]}"
        raise InputError(f"--trial {name}: {what} must have a complete trial (got {counts}); {remedy}")
    return found


def _best(trials: Trials, size: str) -> str | None:
    """The best complete trial of the search of a size, or of a size and arm; the first on a tie.

    Where results are confirmed they are compared by their confirmed losses, else trials by their own.
    """
    searched = {name: trial for name, trial in trials.items() if trial.plan.phase == col.SEARCH}
    of_size = {name: trial for name, trial in searched.items() if size in (trial.plan.size, trial.plan.group)}
    complete = [name for name, trial in of_size.items() if trial.status == col.COMPLETE]
    confirmed = {name: loss for name in complete if (loss := trials[name].confirmed) is not None}
    losses = confirmed or {name: trials[name].loss for name in complete}
    return min(losses, key=losses.__getitem__, default=None)


def _newest_model(trial_id: str, run: RunSpec, trials: Trials, folder: RunFolder) -> tuple[TrainedModel, list[str]]:
    """The model in the trial's newest valid checkpoint, and a line for each newer one that is not valid."""
    skipped: list[str] = []
    for file in reversed(checkpoint_files(folder.trial(trial_id))):
        try:
            trained = read_trained_model(file)
            if trained.step != step_of(file) or with_runtime(trained.run, run.train) != run:
                raise CheckpointError(f"{file}: is a checkpoint of another step or trial; delete it")
        except (CheckpointError, OSError) as error:
            skipped.append(f"{trial_id}: a checkpoint was skipped ({error})")
        else:
            return trained, skipped
    if skipped:
        raise InputError(f"{trial_id}: must have a valid checkpoint of its own, but has none; {skipped[0]}")
    remedy = f"train it again with its config, {folder.display}/trials/{trial_id}/run.yaml"
    of_size = [name for name, trial in trials.items() if trial.plan == trials[trial_id].plan]
    kept = [name for name in of_size if checkpoint_files(folder.trial(name))]
    if kept:
        remedy = f"only the best three of a study keep theirs: give {' or '.join(kept[:3])}, or {remedy}"
    raise InputError(f"{trial_id}: must have weights, but has none (it is {trials[trial_id].status}); {remedy}")


def _tokenizer(folder: RunFolder, trained: TrainedModel) -> tuple[str | None, int | None]:
    """The sweep's tokenizer.json, checked by its digest, and its end of text. The tokens themselves are not read."""
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
    end_of_text = tokens.end_of_text
    if end_of_text is None and tokens.tokenizer_json is not None:  # earlier versions did not record it
        end = end_of_text_token(Tokenizer.from_str(tokens.tokenizer_json))
        end_of_text = None if end is None else end[1]
    return tokens.tokenizer_json, end_of_text
