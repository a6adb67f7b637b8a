"""wandb, fed from the report rows by one process for the whole sweep.

    python -m sweeps.callbacks.tracking runs/quick --project lmsweep --mode offline

The process follows metrics.jsonl and reads nothing else but each trial's run.yaml, so nothing that wandb does (raise,
hang, be missing) can reach a trial. It ends when its standard input ends: with the sweep, or with a driver that died.
`Tracking` is the driver's side: start the process, wait for it, say how it went.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmcore import columns as col
from lmcore.runfile.yaml_file import read_yaml
from sweeps.rundir.folder import RunFolder

POLL_S = 1.0
WAIT_S = 25.0
LOGGED = {
    col.TRAIN_LOSS: "train/loss",
    col.GRAD_NORM: "train/grad_norm",
    col.VAL_LOSS: "val/loss",
    col.LR: "lr",
    col.TOKENS: "tokens",
    col.TOKENS_PER_S: "tokens_per_s",
}


def mode_of(setting: str) -> str:
    """off, offline or online for a setting that may be `auto`: online where there is a key, else offline files."""
    if setting != "auto":
        return setting
    asked = os.environ.get("WANDB_MODE")
    if asked in ("offline", "online"):
        return asked
    if asked in ("disabled", "dryrun"):
        return "off" if asked == "disabled" else "offline"
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    has_key = bool(os.environ.get("WANDB_API_KEY")) or (
        netrc.is_file() and "api.wandb.ai" in netrc.read_text(errors="replace")
    )
    return "online" if has_key else "offline"


class Tracking:
    """The tracking process of a sweep, or none where the mode is off."""

    def __init__(self, folder: RunFolder, project: str, mode: str, start: int = 0) -> None:
        """`start` is the first byte of metrics.jsonl to log: an earlier driver had the rest logged."""
        self._mode = mode
        self._process: subprocess.Popen[bytes] | None = None
        if mode == "off":
            return
        log = (folder.path / "wandb.log").open("ab")
        self._log = f"{folder.display}/wandb.log"
        path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
        # -P: a sweeps/ or a wandb.py of the user's in the working directory is not ours.
        python = [sys.executable, "-P", "-m", "sweeps.callbacks.tracking"]
        command = [*python, str(folder.path), "--project", project, "--mode", mode, "--start", str(start)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | {"WANDB_MODE": mode, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            start_new_session=True,  # Ctrl-C is for the driver; this process ends when its input does
        )
        log.close()

    def finish(self, wait_s: float = WAIT_S) -> str | None:
        """Let the process write what is left, for `wait_s` at most; a line for the user where something went wrong."""
        if self._process is None:
            return None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(wait_s)
        except BaseException as stop:  # it took too long, or the user will not wait for it
            os.killpg(self._process.pid, signal.SIGKILL)  # with the service that wandb starts
            self._process.wait()
            if not isinstance(stop, subprocess.TimeoutExpired):
                raise
            return f"wandb did not finish in {wait_s:.0f} s and was stopped; no result is affected (see {self._log})"
        if code:
            return f"wandb failed; no result is affected (see {self._log})"
        return None


def follow(path: Path, ended: threading.Event, start: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of metrics.jsonl from byte `start` on, as they come, until `ended` is set and all is read."""
    rest = b""
    with path.open("rb") as file:
        file.seek(start)
        while True:
            last = ended.is_set()
            rest += file.read()
            *lines, rest = rest.split(b"\n")
            yield from (json.loads(line) for line in lines if line)
            if last:
                return
            time.sleep(POLL_S)


class WandbRuns:
    """One wandb run per trial, all in this process."""

    def __init__(self, folder: RunFolder, project: str, mode: str) -> None:
        import wandb

        self._wandb = wandb
        self._settings = {"dir": str(folder.path), "project": project, "mode": mode, "group": folder.path.name}
        self._folder = folder
        self._runs: dict[str, Any] = {}

    def log(self, row: dict[str, Any]) -> None:
        """Log a row; the first one of a trial opens its run, the last one closes it."""
        trial = row[col.TRIAL]
        if trial not in self._runs:
            self._runs[trial] = self._open(trial, row[col.SIZE])
        run = self._runs[trial]
        run.log({name: row[column] for column, name in LOGGED.items() if row[column] is not None}, step=row[col.STEP])
        if row[col.STATUS] != col.RUNNING:
            run.summary[col.STATUS] = row[col.STATUS]
            self._runs.pop(trial).finish()

    def _open(self, trial: str, size: str) -> Any:
        config = read_yaml(self._folder.trial(trial) / "run.yaml").values
        return self._wandb.init(
            name=config["name"],
            config={part: config[part] for part in ("data", "model", "train", "optim")} | {col.TRIAL: trial},
            tags=[size],
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
            **self._settings,
        )

    def close(self) -> None:
        """Close the runs of trials that never reached a last row, as failed: they failed, or were interrupted."""
        for run in self._runs.values():
            run.finish(exit_code=1)


def main(argv: list[str] | None = None) -> int:
    """Follow a sweep until standard input ends."""
    parser = argparse.ArgumentParser(description="Feed a running sweep's rows to wandb.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--project", required=True)
    parser.add_argument("--mode", choices=("offline", "online"), required=True)
    parser.add_argument("--start", type=int, default=0, help="first byte of metrics.jsonl to follow")
    args = parser.parse_args(argv)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), ended.set()), daemon=True).start()
    folder = RunFolder(args.folder)
    runs = WandbRuns(folder, args.project, args.mode)
    try:
        for row in follow(folder.metrics, ended, args.start):
            runs.log(row)
    finally:
        runs.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
