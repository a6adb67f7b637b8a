"""How far a sweep is: counts, the best setting of each study, slots, failures, time left, and the cost so far."""

import math
import time
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.driver import driver_of
from analysis.runs.load import EXCLUDED, Run, load
from analysis.runs.manifest import StudyEntry, studies_of
from analysis.tables.cost import DEVICE_S, PEAK_SHARE, cost_table
from analysis.tables.settings import HALF, MEAN, SEED_COUNT, SETTING, settings_table
from analysis.tables.time_left import seconds_left
from analysis.tables.trials import BEST_FIRST, complete_trials, failures
from lmcore import columns as col
from lmcore.errors import InputError
from lmcore.runfile.yaml_file import read_yaml

Record = dict[Hashable, Any]
STEPS = f"{col.PARAMS_PREFIX}train.steps"
TRIAL_COLUMNS = [col.TRIAL, col.STEP, STEPS, col.LOSS]


@dataclass(frozen=True)
class TrialStatus:
    """How far a trial is."""

    trial: str
    step: int | None  # updates at its last report; None before the first one
    steps: int | None  # updates of the whole trial; None if it failed before its config was recorded
    loss: float | None  # nats per token: the quoted loss so far; None before the first report, or if not finite


@dataclass(frozen=True)
class SettingStatus:
    """The best setting of a study so far: the one with the lowest mean over its seeds."""

    setting: str  # id of a trial of the search that has it
    loss: float  # mean over its seeds, nats per token
    half: float | None  # half of the 95 % interval of the mean, from its seeds; None for one seed
    seeds: int  # that were trained to the end


@dataclass(frozen=True)
class StudyStatus:
    """The trials of one study: of a model size, or of one arm of it; either its search or its confirmation."""

    study: str  # its id, which trial ids begin with: `xs`, `xs-tied` or `xs-tied-confirm`
    phase: str  # search or confirm
    trials: dict[str, int]  # number of trials by status
    best: TrialStatus | None  # the complete trial with the lowest quoted loss
    leader: SettingStatus | None  # the best setting; with one seed each it is that of `best`
    running: list[TrialStatus]  # not ended and not paused; they are training only while a driver runs


@dataclass(frozen=True)
class Failure:
    """Trials that diverged or failed for the same reason."""

    status: str
    message: str
    number: int
    trials: list[str]


@dataclass(frozen=True)
class Cost:
    """What all trials have cost so far. None where it is unknown."""

    device_hours: float | None  # hours of one device, a GPU or a CPU core
    flops: float | None  # of training
    peak_share: float | None  # FLOP/s over the FLOP/s of matrix products that the engines measured


@dataclass(frozen=True)
class SweepStatus:
    """How far a sweep is."""

    run: str  # the folder
    driver: bool  # whether a process runs the sweep now
    pid: int | None  # that process, on the machine that it runs on
    host: str | None  # that machine; as `pid`, also of a driver that was killed
    seen_s: float | None  # seconds since that process last showed that it is alive
    report_s: float | None  # seconds since the last report of a trial
    planned: int | None
    """Number of trials that the sweep will have; until it is over, runs that a race may save count. None while it is
    unknown, because the sweep makes as many as its time allows."""
    ended: int  # number of trials that are complete, pruned, diverged or failed
    slots: int | None  # how many trials can train at a time
    slots_in_use: int  # how many do; 0 without a driver
    queued: int  # trials that wait for a slot
    seconds_left: float | None  # estimated; None without a driver, or while too little is known
    cost: Cost
    failures: list[Failure]
    studies: list[StudyStatus]

    @property
    def over(self) -> bool:
        """Whether all trials have ended, so that there is nothing to resume."""
        return not self.driver and self.planned is not None and self.ended >= self.planned


def sweep_status(folder: str | Path, storage: str | None = None) -> SweepStatus:
    """Read the status of the sweep in `folder`.

        status = sweep_status("runs/quick")
        print(status.ended, "of", status.planned)

    `storage` is the address of the studies, if they are not in the folder's study.db.

    Raises RunError if the folder is not a sweep's, is damaged, or no trial has started yet.
    """
    return status_of(load(folder, storage), Path(folder))


def status_of(run: Run, folder: Path) -> SweepStatus:
    """The status of the sweep in `folder`, which `run` was just loaded from."""
    now = time.time()
    driver = driver_of(folder, now)
    trials, search = run.trials, run.manifest.get("search", {})
    search_config = _search_config(folder)
    running = int((trials[col.STATUS] == col.RUNNING).sum())
    slots = _slots(run.manifest, search_config.get("concurrent"))
    planned = search.get("most_trials", search.get("trials", len(trials)))
    if planned is not None:
        # Others take the place of excluded confirmation runs, which most_trials does not count.
        searches = {study.id for study in studies_of(run.manifest) if study.phase == col.SEARCH}
        planned -= sum(trial.rpartition("-")[0] in searches for trial in run.manifest.get(EXCLUDED, ()))
    in_use = 0 if not driver.alive else running if slots is None else min(running, slots)
    last = run.rows[col.DECIDED_AT].max()
    left = None
    if driver.alive:
        until = None
        if driver.started is not None and search_config.get("time") is not None:
            until = driver.started + float(search_config["time"]) - now
        left = seconds_left(run, planned, until)
    settings = settings_table(trials)
    return SweepStatus(
        run=str(folder),
        driver=driver.alive,
        pid=driver.pid,
        host=driver.host,
        seen_s=driver.seen_s,
        report_s=None if pd.isna(last) else max(0.0, now - last),
        planned=planned,
        ended=int((~trials[col.STATUS].isin(col.UNFINISHED)).sum()),
        slots=slots,
        slots_in_use=in_use,
        queued=running - in_use if driver.alive else 0,
        seconds_left=left,
        cost=_cost(run),
        failures=[Failure(**{str(name): value for name, value in one.items()}) for one in _records(failures(trials))],
        studies=[_study_status(study, _of(study, trials), _of(study, settings)) for study in studies_of(run.manifest)],
    )


def _of(study: StudyEntry, table: pd.DataFrame) -> pd.DataFrame:
    arm = table[col.ARM].isna() if study.arm is None else table[col.ARM] == study.arm
    return table[(table[col.SIZE] == study.size) & arm & (table[col.PHASE] == study.phase)]


def _study_status(study: StudyEntry, trials: pd.DataFrame, settings: pd.DataFrame) -> StudyStatus:
    counts = {status: int((trials[col.STATUS] == status).sum()) for status in BEST_FIRST}
    best = _records(complete_trials(trials).sort_values([col.LOSS, col.NUMBER])[TRIAL_COLUMNS].head(1))
    # A setting of which some seeds are missing is not ahead of one that has them all.
    done = settings[settings[SEED_COUNT] == settings[SEED_COUNT].max()] if len(settings) else settings
    leaders = [_setting_status(one) for one in _records(done.sort_values(MEAN).head(1)) if pd.notna(one[MEAN])]
    running = _records(trials.loc[trials[col.STATUS] == col.RUNNING, TRIAL_COLUMNS])
    return StudyStatus(
        study=study.id,
        phase=study.phase,
        trials=counts,
        best=_trial_status(best[0]) if best else None,
        leader=leaders[0] if leaders else None,
        running=[_trial_status(one) for one in running],
    )


def _trial_status(trial: Record) -> TrialStatus:
    step, steps, loss = (trial[name] for name in (col.STEP, STEPS, col.LOSS))
    return TrialStatus(
        trial=trial[col.TRIAL],
        step=int(step) if pd.notna(step) else None,
        steps=int(steps) if pd.notna(steps) else None,
        loss=loss if math.isfinite(loss) else None,
    )


def _setting_status(setting: Record) -> SettingStatus:
    half = _known(setting[HALF])
    return SettingStatus(setting[SETTING], float(setting[MEAN]), half, int(setting[SEED_COUNT]))


def _cost(run: Run) -> Cost:
    table = cost_table(run)
    if table.empty:
        return Cost(None, None, None)
    total = table.iloc[-1]
    seconds = _known(total[DEVICE_S])
    return Cost(None if seconds is None else seconds / 3600, _known(total[col.TRAIN_FLOPS]), _known(total[PEAK_SHARE]))


def _slots(manifest: dict[str, Any], concurrent: int | None) -> int | None:
    """How many trials can train at a time; None if the manifest does not say."""
    latest = (manifest.get("resumed") or [manifest])[-1]  # on resume there may be other engines
    engines = latest.get("hardware", {}).get("engines")
    per_engine = [one["per_engine"] for one in manifest.get("slots", {}).values()]
    if not engines or not per_engine:
        return None
    slots = int(engines) * int(max(per_engine))
    return slots if concurrent is None else min(slots, int(concurrent))


def _search_config(folder: Path) -> dict[str, Any]:
    """The section `search` of sweep.yaml, or nothing."""
    with suppress(InputError):
        search = read_yaml(folder / "sweep.yaml").values.get("search")
        return dict(search) if isinstance(search, dict) else {}
    return {}


def _records(table: pd.DataFrame) -> list[Record]:
    return list(table.to_dict("records"))


def _known(value: Any) -> float | None:
    return float(value) if pd.notna(value) and math.isfinite(value) else None
