"""How far a sweep is: `lmsweep status RUN`, or `python analysis/status.py RUN`. With `--json`, the same as JSON.

The folder is only read, so this works while the sweep runs. Exit codes: 0; 2 with one line on stderr when the folder is
not a sweep's, or no trial has started yet.
"""

import fcntl
import json
import math
import shlex
import signal
import sys
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: see report.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from analysis.runs.load import RunError, load
from analysis.runs.manifest import StudyEntry, studies_of
from analysis.tables.trials import BEST_FIRST, complete_trials
from lmcore import columns as col
from lmcore.errors import OneLineParser
from lmcore.study_database import STORAGE_HELP

SCRIPT = "python analysis/status.py"
WIDTH = 80  # characters


@dataclass(frozen=True)
class TrialStatus:
    """How far a trial is."""

    trial: str
    step: int | None  # updates at its last report; None before the first one
    steps: int | None  # updates of the whole trial; None if it failed before its config was recorded
    loss: float | None  # nats per token: the quoted loss so far; None before the first report, or if not finite


@dataclass(frozen=True)
class StudyStatus:
    """The trials of one study: of a model size, or of one arm of it; either its search or its confirmation."""

    study: str  # its id, which trial ids begin with: `xs`, `xs-tied` or `xs-tied-confirm`
    trials: dict[str, int]  # number of trials by status
    best: TrialStatus | None  # the complete trial with the lowest quoted loss
    running: list[TrialStatus]  # the unfinished trials; they are training only while a driver runs


@dataclass(frozen=True)
class SweepStatus:
    """How far a sweep is."""

    run: str  # the folder
    driver: bool  # whether a process holds the folder's lock, that is, runs the sweep now
    pid: int | None  # that process, on the machine that it runs on
    planned: int | None
    """Number of trials that the sweep will have; until it is over, runs that a race may save count. None while it is
    unknown, because the sweep makes as many as its time allows."""
    ended: int  # number of trials that are complete, pruned, diverged or failed
    studies: list[StudyStatus]


def sweep_status(folder: str | Path, storage: str | None = None) -> SweepStatus:
    """Read the status of the sweep in `folder`.

        status = sweep_status("runs/quick")
        print(status.ended, "of", status.planned)

    `storage` is the address of the studies, if they are not in the folder's study.db.

    Raises RunError if the folder is not a sweep's, is damaged, or no trial has started yet.
    """
    folder = Path(folder)
    trials, _, manifest = load(folder, storage)
    studies = [_study_status(study.id, _trials_of(study, trials)) for study in studies_of(manifest)]
    ended = int((trials[col.STATUS] != col.RUNNING).sum())
    driver = _is_locked(folder / ".lock")
    pid = None
    with suppress(OSError, ValueError):
        pid = int((folder / ".lock-holder").read_text()) if driver else None
    search = manifest.get("search", {})
    planned = search.get("most_trials", search.get("trials", len(trials)))
    return SweepStatus(str(folder), driver, pid, planned, ended, studies)


def _trials_of(study: StudyEntry, trials: pd.DataFrame) -> pd.DataFrame:
    arm = trials[col.ARM].isna() if study.arm is None else trials[col.ARM] == study.arm
    return trials[(trials[col.SIZE] == study.size) & arm & (trials[col.PHASE] == study.phase)]


def _study_status(study: str, trials: pd.DataFrame) -> StudyStatus:
    counts = {status: int((trials[col.STATUS] == status).sum()) for status in BEST_FIRST}
    best = complete_trials(trials).sort_values([col.LOSS, col.NUMBER]).head(1).to_dict("records")
    running = trials[trials[col.STATUS] == col.RUNNING].to_dict("records")
    return StudyStatus(study, counts, _trial_status(best[0]) if best else None, [_trial_status(one) for one in running])


def _trial_status(trial: dict[Hashable, Any]) -> TrialStatus:
    step, steps, loss = (trial[name] for name in (col.STEP, f"{col.PARAMS_PREFIX}train.steps", col.LOSS))
    return TrialStatus(
        trial=trial[col.TRIAL],
        step=int(step) if pd.notna(step) else None,
        steps=int(steps) if pd.notna(steps) else None,
        loss=loss if math.isfinite(loss) else None,
    )


def _is_locked(path: Path) -> bool:
    """Whether another process holds the lock. A shared lock, held for an instant, leaves the file as it is."""
    try:
        with suppress(FileNotFoundError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def print_status(status: SweepStatus, console: Console, resume: str) -> None:
    """Print the status as tables; `resume` is the command that resumes a sweep."""
    of = "" if status.planned is None else f" of {status.planned}"
    console.print(f"{status.run}: {status.ended}{of} trials have ended; {_activity(status, resume)}")
    table = Table(box=SIMPLE_HEAD)
    for heading in ("study", *BEST_FIRST, "best", col.LOSS):
        table.add_column(heading, overflow="fold", justify="left" if heading in ("study", "best") else "right")
    for study in status.studies:
        best = ("none", "") if study.best is None else (study.best.trial, _loss(study.best))
        table.add_row(study.study, *map(str, study.trials.values()), *best)
    console.print(table)
    running = [trial for study in status.studies for trial in study.running]
    if running:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("running trial" if status.driver else "unfinished trial", overflow="fold")
        for heading in ("step", col.LOSS):
            table.add_column(heading, justify="right")
        for trial in running:
            table.add_row(trial.trial, f"{trial.step or 0} of {trial.steps or '?'}", _loss(trial))
        console.print(table)


def _activity(status: SweepStatus, resume: str) -> str:
    if status.driver:
        return "the sweep is running" + (f" (process {status.pid})" if status.pid is not None else "")
    unfinished = status.planned is None or status.ended < status.planned
    return "no process runs the sweep" + (f"; resume it with {resume} {shlex.quote(status.run)}" if unfinished else "")


def _loss(trial: TrialStatus) -> str:
    return "" if trial.loss is None else f"{trial.loss:.4f}"


def main(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> int:
    """Print the status of a sweep, and return the exit code. `prog` is the command as the user typed it."""
    parser = OneLineParser(prog=prog, description="Show how far a sweep is, while it runs or afterwards.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the sweep's folder: runs/<name>")
    parser.add_argument("--storage", metavar="URL", help=STORAGE_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(argv)
    try:
        status = sweep_status(options.run, options.storage)
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(asdict(status), indent=2, allow_nan=False))
        return 0
    console = Console(highlight=False, markup=False, soft_wrap=False)
    console.width = min(console.width, WIDTH)
    print_status(status, console, "python sweeps/run.py --resume" if prog == SCRIPT else "lmsweep run --resume")
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `status.py RUN | head` ends quietly
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
