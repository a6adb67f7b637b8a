"""The JSON of a run of this benchmark, written whole after every check and row: an interrupted run keeps them."""

import math
import os
import platform
import time
from pathlib import Path
from typing import Any, Literal

import torch

from lmcore.cores import cores, processor
from tests.bench.circumstances import commit, package_version, write_json

Kind = Literal["check", "row"]


class Record:
    """Checks, rows and what was left out, with the circumstances of the run.

    >>> record = Record(Path("gpu.json"), "cpu", "gpu.sh --device cpu --quick", None)
    >>> record.check("packed", "Slots are as they are alone", figure=0.0, tolerance=0.0)
    """

    def __init__(self, out: Path, device: str, command: str, at_commit: str | None) -> None:
        self._out, self._began = out, time.perf_counter()
        packages = ("torch", "triton", "numpy", "pydantic", "safetensors")
        self.document: dict[str, Any] = {
            "command": command,
            "commit": at_commit or commit(),
            "device": device,
            "hardware": {
                "machine": platform.machine(),
                "processor": processor(),
                "cores": cores(),
                "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
                "gpu_bytes": torch.cuda.mem_get_info()[1] if device == "cuda" else None,
            },
            "versions": {
                "python": platform.python_version(),
                "cuda": torch.version.cuda if device == "cuda" else None,
                **{name: package_version(name) for name in packages},
            },
            "ended": False,
            "seconds": 0.0,
            "checks": {},
            "rows": {},
            "goals": [],
            "errors": {},
            "left_out": {},
        }
        self.write()

    @property
    def checks(self) -> dict[str, Any]:
        """Checks by name: sentence, figure, tolerance, passed (None if skipped), note."""
        found: dict[str, Any] = self.document["checks"]
        return found

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Rows by group and name."""
        found: dict[str, dict[str, Any]] = self.document["rows"]
        return found

    def check(self, name: str, sentence: str, figure: float, tolerance: float, **others: Any) -> None:
        """Keep and print a check; it passes if `figure` <= `tolerance`. `others` are kept beside them."""
        passed = figure <= tolerance  # false for nan
        self.checks[name] = {
            "sentence": sentence,
            "figure": _finite(figure),
            "tolerance": _finite(tolerance),
            "passed": passed,
            **{key: _finite(value) if isinstance(value, float) else value for key, value in others.items()},
        }
        verdict = "pass" if passed else "FAIL"
        print(f"{self._clock()} {verdict}  {name}: {sentence} ({figure:.3g}, at most {tolerance:.3g})", flush=True)
        self.write()

    def skip(self, name: str, sentence: str, why: str) -> None:
        """Keep a check that could not be made here."""
        self.checks[name] = {"sentence": sentence, "figure": None, "tolerance": None, "passed": None, "note": why}
        print(f"{self._clock()} skip  {name}: {why}", flush=True)
        self.write()

    def row(self, group: str, name: str, row: dict[str, Any], done: bool = True) -> None:
        """Keep a row of measurements, and print it when it is done."""
        self.rows.setdefault(group, {})[name] = row
        if done:
            shown = {key: value for key, value in row.items() if not isinstance(value, dict | list)}
            print(f"{self._clock()} {group} {name}: {shown}", flush=True)
        self.write()

    def left_out(self, what: str, why: str) -> None:
        """Keep what was not measured, and why."""
        self.document["left_out"][what] = why
        print(f"{self._clock()} left out  {what}: {why}", flush=True)
        self.write()

    def error(self, what: str, text: str) -> None:
        """Keep an error of the code under test that ended a group of checks or rows."""
        self.document["errors"][what] = text
        print(f"{self._clock()} ERROR  {what}\n{text}", flush=True)
        self.write()

    def write(self) -> None:
        """Write the file."""
        self.document["seconds"] = round(time.perf_counter() - self._began, 1)
        write_json(self._out, self.document)

    def _clock(self) -> str:
        return f"{time.perf_counter() - self._began:6.1f} s"


def _finite(number: float) -> float | None:
    """JSON has no infinities and no NaN."""
    return number if math.isfinite(number) else None


def exit_code(record: Record) -> int:
    """1 if a check failed or a group ended in an error; goals that are missed are no failures."""
    failed = any(check["passed"] is False for check in record.checks.values())
    return int(failed or bool(record.document["errors"]))


def shown_path(out: Path) -> str:
    """The path as a user would write it."""
    return os.path.relpath(out) if out.is_relative_to(Path.cwd()) else str(out)
