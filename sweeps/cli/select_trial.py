"""Finds the trial that `--trial` names, with its weights and its tokenizer. The run's folder is only read.

It works while the sweep runs: a checkpoint appears whole or not at all. Neither Ray nor the training data are needed.
`sweeps.cli.trial_names` says what a name means, `sweeps.cli.ranked_settings` what is best.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from lmcore import columns as col
from lmcore.checkpoint import CheckpointError
from lmcore.columns import Row
from lmcore.config import ModelConfig, RunSpec
from lmcore.corpus.tokenizer import end_of_text_token
from lmcore.corpus.tokens import load_tokens
from lmcore.errors import InputError
from lmcore.export.trained_model import TrainedModel, read_trained_model
from lmcore.params import count_parameters
from lmcore.run_folders import run_hint
from lmcore.trainer import with_runtime
from sweeps.cli.ranked_settings import RankedSetting, ranked_settings
from sweeps.cli.recorded_trials import RESTORE, RecordedTrial, Trials, read_trials
from sweeps.cli.trial_names import Scope, resolve
from sweeps.cli.trial_options import BEST
from sweeps.rundir.checkpoints import checkpoint_files, step_of
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import load_kept
from sweeps.spec.sweep_spec import SweepSpec

SHOWN = 3
"""Trials that were passed over and are named in a line; the others are counted."""


@dataclass(frozen=True)
class Purpose:
    """What a trial is selected for."""

    what: str = "with weights"
    """Completes "a complete trial ..." in messages."""
    remedy: str = "train one again with its config, run.yaml in its folder"
    refuses: Callable[[ModelConfig], str | None] = lambda config: None
    """Why a model of this config does not serve; None if it does."""


@dataclass(frozen=True, eq=False)
class SelectedTrial:
    """A trial and its model."""

    id: str
    recorded: RecordedTrial
    setting: RankedSetting | None
    """Its setting among all of the sweep; None if no trial of it is complete."""
    trained: TrainedModel
    tokenizer_json: str | None
    """None if the sweep was trained on token ids without a tokenizer."""
    end_of_text: int | None
    """Id of the token that ended documents in training."""
    notes: tuple[str, ...]
    """A line for each thing that the user might not expect: another trial, or another checkpoint, than the first."""

    @property
    def status(self) -> str:
        """As in the study: `running` also for a trial whose sweep was stopped."""
        return self.recorded.status

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


def select_trial(
    path: Path, name: str = BEST, storage: str | None = None, purpose: Purpose | None = None
) -> SelectedTrial:
    """The trial `name` of the sweep in the folder `path`.

    Args:
        name: `best`, `best:SIZE`, the name of an experiment, a size or an arm, or a trial's id such as xs-0003. All
            but an id mean the best complete trial that serves the purpose; `best` is of the size with the most
            parameters.
        storage: the address of the studies, if they are not in the folder's study.db.
        purpose: what the trial is for; by default anything that needs weights. An id is taken whatever it is for.

    >>> select_trial(Path("runs/quick"), "best:xs").trained.model  # doctest: +SKIP

    Raises InputError if `storage` is needed, there is no such folder or trial, it has no weights, or a file is damaged.
    """
    folder = RunFolder(path.absolute())
    if not folder.sweep_yaml.is_file():
        raise InputError(f"RUN: must be the folder of a sweep, with its sweep.yaml (got {path}); give {run_hint(path)}")
    spec = load_kept(folder.sweep_yaml)
    trials = read_trials(spec, folder, storage)
    if not trials:
        raise InputError(f"RUN: must have a trial, but none has started in {folder.display}; wait, or resume the sweep")
    meant, note = resolve(name, spec, trials, folder.display)
    if isinstance(meant, str):
        trial_id = meant
        trained, notes = _newest_model(trial_id, trials, folder)
    else:
        trial_id, trained, notes = _best_model(name, meant, spec, trials, folder, purpose or Purpose())
    setting = next((one for one in ranked_settings(trials) if trial_id in one.trials), None)
    tokenizer_json, end_of_text = _tokenizer(folder, trained)
    notes = [*([note] if note else []), *notes]
    return SelectedTrial(trial_id, trials[trial_id], setting, trained, tokenizer_json, end_of_text, tuple(notes))


class _NoModelError(InputError):
    """A trial has no model that can be used. `reason` says why in a few words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def _best_model(
    name: str, scope: Scope, spec: SweepSpec, trials: Trials, folder: RunFolder, purpose: Purpose
) -> tuple[str, TrainedModel, list[str]]:
    """The best trial of a scope that serves the purpose, its model, and notes."""
    settings = ranked_settings(trials, scope.trials(trials))
    if not settings:
        raise InputError(_nothing_complete(name, scope, spec, trials))
    passed: list[str] = []
    for setting in settings:
        named, before = f"{setting.experiment}: " if setting.experiment else "", len(passed)
        for trial_id in setting.trials:
            try:
                refusal = purpose.refuses(_run(trial_id, trials).model)
                if refusal is not None:  # of the setting, so of all its trials
                    passed.append(f"{trial_id} ({named}{refusal})")
                    break
                trained, notes = _newest_model(trial_id, trials, folder)
            except _NoModelError as error:
                passed.append(f"{trial_id} ({named}{error.reason})")
                continue
            if passed:
                notes.insert(0, f"{trial_id} was taken in place of {_listed(passed)}")
            if name != BEST:
                runs = f"{len(setting.losses)} runs, of mean loss" if len(setting.losses) > 1 else "one run, of loss"
                notes.append(
                    f"--trial {name} is {trial_id}: the best setting of {scope.label} ({runs} {setting.mean:.3f})"
                )
            return trial_id, trained, notes
        del passed[before + 1 :]  # a setting of which no trial served is named once
    raise InputError(
        f"--trial {name}: {scope.label} must have a complete trial {purpose.what} (got {_listed(passed)}); "
        f"{purpose.remedy}"
    )


def _listed(passed: Sequence[str]) -> str:
    more = f" and {len(passed) - SHOWN} more" if len(passed) > SHOWN else ""
    return f"{', '.join(passed[:SHOWN])}{more}"


def _nothing_complete(name: str, scope: Scope, spec: SweepSpec, trials: Trials) -> str:
    statuses = Counter(trials[one].status for one in scope.trials(trials))
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "no trial"
    groups = dict.fromkeys((*spec.size_names, *(plan.group for plan in spec.studies)))
    complete = {
        group for one in trials.values() if one.status == col.COMPLETE for group in (one.plan.size, one.plan.group)
    }
    others = [f"--trial {BEST}:{group}" for group in groups if group in complete]
    remedy = f"give {' or '.join(others)}" if others else "wait, resume the sweep, or give one that is running"
    return f"--trial {name}: {scope.label} must have a complete trial (got {counts}); {remedy}"


def _run(trial_id: str, trials: Trials) -> RunSpec:
    try:
        return RunSpec.model_validate(trials[trial_id].run)
    except ValueError as error:
        reason = " ".join(str(error).split())
        rule = f"{trial_id}: the study must hold its config, but does not ({reason}); {RESTORE}"
        raise _NoModelError(rule, "its config is damaged") from None


def _newest_model(trial_id: str, trials: Trials, folder: RunFolder) -> tuple[TrainedModel, list[str]]:
    """The model in the trial's newest valid checkpoint, and a line for each newer one that is not valid."""
    run, skipped = _run(trial_id, trials), list[str]()
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
        rule = f"{trial_id}: must have a valid checkpoint of its own, but has none; {skipped[0]}"
        raise _NoModelError(rule, "its checkpoints are damaged")
    remedy = f"train it again with its config, {folder.display}/trials/{trial_id}/run.yaml"
    of_size = [name for name, trial in trials.items() if trial.plan == trials[trial_id].plan]
    kept = [name for name in of_size if checkpoint_files(folder.trial(name))]
    if kept:
        remedy = f"only the best of a study keep theirs: give {' or '.join(kept[:3])}, or {remedy}"
    rule = f"{trial_id}: must have weights, but has none (it is {trials[trial_id].status})"
    raise _NoModelError(f"{rule}; {remedy}", "no weights")


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
