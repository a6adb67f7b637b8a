"""`TrialIndex`: what the page knows about each trial, for hover texts and for the panel of a selected trial."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.load import Run
from analysis.tables.formatting import number
from analysis.tables.trials import LR_PATH, short_names, varying_params
from lmcore import columns as col

REMARKABLE = 50
"""Trials whose lines keep all their points: those with the lowest losses."""


@dataclass(frozen=True)
class TrialIndex:
    """The trials of a run, or of several that were combined, and where their folders are.

    >>> TrialIndex(run.trials, {"": "runs/quick"}).command("xs-0003")
    'lmsweep run --config runs/quick/trials/xs-0003/run.yaml'
    """

    trials: pd.DataFrame
    """As `analysis.load` gives them."""
    folders: Mapping[str, str]
    """The folder of each run by its name, which combined runs put before an id; of a single one by ""."""
    trained: bool = True
    """False for a replay, whose trials have no configs and no weights."""

    @classmethod
    def of_run(cls, run: Run, folders: Sequence[Path] = ()) -> "TrialIndex":
        """The trials of `run`, which was loaded from `folders`; without them, runs are taken to be in runs/."""
        name = str(run.manifest.get("name", "run"))
        names = [name] if len(folders) == 1 else name.split(" + ")
        places = folders if len(folders) == len(names) else [Path("runs", one) for one in names]
        keys = names if len(names) > 1 else [""]
        return cls(run.trials, dict(zip(keys, map(str, places), strict=True)), col.REPLAY not in run.manifest)

    @cached_property
    def ids(self) -> frozenset[str]:
        """The ids of all trials."""
        return frozenset(self.trials[col.TRIAL])

    @property
    def remarkable(self) -> frozenset[str]:
        """The trials with the lowest losses."""
        known = self.trials[np.isfinite(self.trials[col.LOSS])]
        return frozenset(known.nsmallest(REMARKABLE, col.LOSS)[col.TRIAL])

    def command(self, trial: str) -> str:
        """The command that trains a trial again, with its settings, seeds and data."""
        folder, own = self._place(trial)
        return shlex.join(["lmsweep", "run", "--config", f"{folder}/trials/{own}/run.yaml"])

    def as_json(self) -> dict[str, Any]:
        """`settings` and `fields` name what the row of each trial in `trials` holds; texts are not escaped."""
        paths = list(dict.fromkeys([LR_PATH, *varying_params(self.trials)]))
        paths = [path for path in paths if path in self.trials]
        names = {**short_names(paths), LR_PATH: "peak lr"}
        rows = {}
        for one in self.trials.to_dict("records"):
            values = [one[path] for path in paths]
            known = [(path, value) for path, value in zip(paths, values, strict=True) if _is_known(value)]
            where = [_text(one.get(name)) for name in (col.STATUS, col.SIZE, col.ARM, col.EXPERIMENT, col.OF)]
            loss = f"{one[col.LOSS]:.4f}" if _is_known(one[col.LOSS]) and np.isfinite(one[col.LOSS]) else ""
            options = " ".join(_option(path.removeprefix(col.PARAMS_PREFIX), value) for path, value in known)
            progress = [_text(one.get(col.STEP)), _text(one.get(col.MESSAGE)), self._commands(one)]
            rows[one[col.TRIAL]] = [*where, loss, *progress, options, [number(value) for value in values]]
        fields = [
            "status",
            "size",
            "arm",
            "experiment",
            "of",
            "loss",
            "step",
            "message",
            "commands",
            "options",
            "values",
        ]
        return {"settings": [names[path] for path in paths], "fields": fields, "trials": rows}

    def _commands(self, trial: Mapping[str, Any]) -> list[str]:
        """To train a trial again, to sample from its model and to export it; a trial may share the run of another."""
        if not self.trained:
            return []
        name = _text(trial.get(col.SAME_AS)) or trial[col.TRIAL]
        folder, own = self._place(name)
        sample = shlex.join(["lmsweep", "generate", folder, "def ", "--trial", own])
        export = shlex.join(["lmsweep", "export", folder, "--trial", own, "--out", own])
        return [self.command(name), sample, export]

    def _place(self, trial: str) -> tuple[str, str]:
        """The run's folder of a trial, and its id there."""
        if "" in self.folders:
            return self.folders[""], trial
        run, _, own = trial.partition("/")
        return self.folders.get(run, f"runs/{run}"), own


def _is_known(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict)) or not pd.isna(value)


def _text(value: Any) -> str:
    return "" if value is None or not _is_known(value) else str(value)


def _option(path: str, value: Any) -> str:
    """The value of a field as an option of `lmsweep run`, in full precision.

    >>> _option("optim.lr", 0.0031), _option("model.tie_embeddings", True)
    ('--set optim.lr=0.0031', '--set model.tie_embeddings=true')
    """
    plain = value.item() if isinstance(value, np.generic) else value
    text = str(plain).lower() if isinstance(plain, bool) else repr(plain) if isinstance(plain, float) else str(plain)
    return shlex.join(["--set", f"{path}={text}"])
