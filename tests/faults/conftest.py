"""The fault suite: `make faults` runs all of it, `make test` what is marked smoke. Prints what was survived."""

import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from sweeping import curves, run, sweep_command, table_of, write_tokens

_RECORDS = pytest.StashKey[dict[str, "Record"]]()


@dataclass
class Record:
    """One row of the table."""

    injected: int = 0
    survived: int = 0
    recovery_s: list[float] = field(default_factory=list)


def pytest_configure(config):
    config.stash[_RECORDS] = {}


def pytest_collection_modifyitems(config, items):
    """Without --faults, only those marked smoke."""
    if config.getoption("--faults"):
        return
    left_out = [item for item in items if item.path.parent.name == "faults" and not item.get_closest_marker("smoke")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@dataclass(frozen=True)
class Control:
    """A sweep that nothing happened to."""

    folder: Path
    curves: dict[str, list[dict[str, object]]]
    table: str


class Fault:
    """Counts what a test injects and what was survived, and times recoveries."""

    def __init__(self, record):
        self._record = record

    def injected(self, times=1):
        """Note that something is about to be broken; a test that fails then leaves it not survived."""
        self._record.injected += times

    def survived(self, times=1, seconds=None):
        """Note that what must hold afterwards has been shown, and how long it took to get there."""
        self._record.survived += times
        if seconds is not None:
            self._record.recovery_s.append(seconds)


@pytest.fixture
def fault(request):
    """`fault("what happens")`: a `Fault` that the table has a row of."""

    def named(name):
        return Fault(request.config.stash[_RECORDS].setdefault(name, Record()))

    return named


@pytest.fixture(scope="session")
def control(tmp_path_factory):
    """What an unharmed sweep leaves, `Control(folder, curves, table)`."""
    folder = tmp_path_factory.mktemp("control")
    write_tokens(folder)
    run(sweep_command("whole"), folder, check=0)
    whole = folder / "runs" / "whole"
    return Control(whole, curves(whole), table_of(whole))


@pytest.fixture
def tiny(tmp_path):
    """A folder with tokens.npy, in which `sweeping.sweep_command` runs."""
    write_tokens(tmp_path)
    return tmp_path


@pytest.fixture
def stopwatch():
    """Seconds since the last time it was read, or since the test began."""
    last = [time.monotonic()]

    def read():
        now = time.monotonic()
        seconds, last[0] = now - last[0], now
        return seconds

    return read


def pytest_terminal_summary(terminalreporter, config):
    """The table of faults injected, survived and seconds to recovery."""
    records = config.stash[_RECORDS]
    if not records:
        return
    table = Table("fault", "injected", "survived", "seconds to recovery", title="Faults", title_justify="left")
    for name, record in records.items():
        seconds = record.recovery_s
        took = f"{statistics.median(seconds):.1f} (at most {max(seconds):.1f})" if seconds else "-"
        table.add_row(name, str(record.injected), str(record.survived), took)
    console = Console(file=terminalreporter._tw._file, width=120)
    console.print()
    console.print(table)
    if config.getoption("--faults-json"):
        _write_json(config.getoption("--faults-json"), records)


def _write_json(path, records):
    from sweeping import measured_on

    table = [
        {"fault": name, "injected": r.injected, "survived": r.survived, "recovery_s": r.recovery_s}
        for name, r in records.items()
    ]
    with open(path, "w") as file:
        json.dump({**measured_on(), "faults": table}, file, indent=2)
        file.write("\n")
