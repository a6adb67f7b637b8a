"""Trackers log a sweep's report rows to a service such as wandb, each in a process of its own.

    python -m sweeps.callbacks.tracking wandb runs/quick --mode offline --config '{"project": "lmsweep"}'

The process follows metrics.jsonl, so a tracker that raises, hangs or is missing cannot affect a trial. It ends when its
standard input is closed: by the driver when the sweep ends, or by the system when the driver dies.

To add a tracker, write a `Tracker` in a file of its own, as in `sweeps.callbacks.wandb_tracker`, and add it to TRACKERS
below, and to EXTRAS if its package is not always installed. Give it a field in `TrackingConfig`
(`sweeps.spec.settings`) that its `mode` reads. What all trackers say about a trial is in
`sweeps.callbacks.tracked_trial`.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from lmcore.columns import Row
from lmcore.errors import InputError
from sweeps.callbacks.mlflow_tracker import MlflowTracker
from sweeps.callbacks.tensorboard_tracker import TensorboardTracker
from sweeps.callbacks.wandb_tracker import WandbTracker
from sweeps.cluster.checkout import python_path
from sweeps.rundir.folder import RunFolder
from sweeps.spec.settings import TrackingConfig

POLL_S = 1.0
WAIT_S = 25.0


class Tracker(Protocol):
    """Logs rows to one tracking service. It may raise or hang, which ends the tracker but never the sweep."""

    def __init__(self, folder: RunFolder, config: TrackingConfig, mode: str) -> None:
        """Start logging the sweep in `folder`. Import the service's package here."""

    @staticmethod
    def mode(config: TrackingConfig) -> str:
        """The mode to start the tracker in, offline or online; off if it should not be started."""

    @staticmethod
    def hint(folder: RunFolder, mode: str) -> str | None:
        """A line for the end of a sweep that says what to do with what was logged in this mode; None if nothing is."""

    def log(self, row: Row) -> None:
        """Log a row of metrics.jsonl; the last row of a trial has a status other than running or paused."""

    def close(self) -> None:
        """End the logging of trials whose last row never came."""


TRACKERS: dict[str, type[Tracker]] = {
    "wandb": WandbTracker,
    "tensorboard": TensorboardTracker,
    "mlflow": MlflowTracker,
}
EXTRAS = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
"""Package of each tracker that comes with an extra of lmsweep, which has the tracker's name."""


def check_installed(config: TrackingConfig) -> None:
    """Raise InputError if a tracker was asked for whose extra is not installed."""
    for name, package in EXTRAS.items():
        if TRACKERS[name].mode(config) != "off" and importlib.util.find_spec(package) is None:
            rule = f"needs the package {package}, which is not installed"
            raise InputError(f"tracking.{name}: {rule}; pip install 'lmsweep[{name}]', or turn it off")


class Tracking:
    """The tracker processes of a sweep; none if all trackers are off.

    Example:
        tracking = Tracking(folder, spec.tracking)
        print(tracking.finish() or "all rows are logged")
    """

    def __init__(self, folder: RunFolder, config: TrackingConfig, start: int = 0) -> None:
        """`start` is the first byte of metrics.jsonl to log: rows before it were logged before a resume."""
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._modes: dict[str, str] = {}
        for name, tracker in TRACKERS.items():
            mode = tracker.mode(config)
            if mode == "off":
                continue
            self._modes[name] = mode
            # -P: modules in the user's working directory, such as sweeps/ or wandb.py, are not imported.
            command = [sys.executable, "-P", "-m", "sweeps.callbacks.tracking", name, str(folder.path)]
            with (folder.path / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    [*command, "--mode", mode, "--start", str(start), "--config", config.model_dump_json()],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=os.environ | {"PYTHONPATH": python_path()},
                    start_new_session=True,  # Ctrl-C goes to the driver alone
                )

    def hints(self) -> list[str]:
        """What to do with what was logged, once `finish` has returned: a line per tracker that has something to say."""
        hints = (TRACKERS[name].hint(self._folder, mode) for name, mode in self._modes.items())
        return [hint for hint in hints if hint is not None]

    def finish(self, wait_s: float = WAIT_S) -> str | None:
        """Let the processes log what is left, for at most `wait_s` seconds. Returns what went wrong, for the user."""
        deadline = time.monotonic() + wait_s
        problems = []
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()
        try:
            for name, process in self._processes.items():
                log = f"{self._folder.display}/{name}.log"
                try:
                    problem = "failed" if process.wait(max(0.0, deadline - time.monotonic())) else None
                except subprocess.TimeoutExpired:
                    problem = f"did not finish in {wait_s:.0f} s and was stopped"
                if problem:
                    problems.append(f"{name} {problem}; no result is affected (see {log})")
        finally:
            # A process is still alive if it took too long, or if the user pressed Ctrl-C while waiting for it.
            for process in self._processes.values():
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with its children, such as wandb's service
                    process.wait()
        return "\n".join(problems) or None


def follow(path: Path, ended: threading.Event, start: int = 0) -> Iterator[Row]:
    """Rows of metrics.jsonl from byte `start` on, as they are written, until `ended` is set and all have been read.

    Rows of branches are left out: they are no part of a trial's curve.
    """
    rest = b""
    with path.open("rb") as file:
        file.seek(start)
        while True:
            # Read once more after `ended` was set: rows may have come before it.
            last = ended.is_set()
            rest += file.read()
            *lines, rest = rest.split(b"\n")
            rows = (json.loads(line) for line in lines if line)
            yield from (row for row in rows if row.get("branch") is None)
            if last:
                return
            time.sleep(POLL_S)


def main(argv: list[str] | None = None) -> int:
    """Follow a sweep until standard input is closed."""
    parser = argparse.ArgumentParser(description="Log a running sweep's rows to a tracker.")
    parser.add_argument("tracker", choices=TRACKERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", choices=("offline", "online"), required=True)
    parser.add_argument("--config", type=TrackingConfig.model_validate_json, default=TrackingConfig(), metavar="JSON")
    parser.add_argument("--start", type=int, default=0, help="first byte of metrics.jsonl to follow")
    args = parser.parse_args(argv)
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    folder = RunFolder(args.folder)
    tracker = TRACKERS[args.tracker](folder, args.config, args.mode)
    try:
        for row in follow(folder.metrics, ended, args.start):
            tracker.log(row)
    finally:
        tracker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
