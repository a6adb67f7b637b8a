"""The fault suite. By default, and so in `make test`, only what starts no sweep runs.

`--faults all` runs everything (`make faults`). `--faults today` runs the sweeps marked smoke and a part of the others
that depends on the date, so that CI comes round to every test within FAULT_PARTS days (`make faults-today`). What was
survived is printed as a table.
"""

import datetime
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from sweeping import curves, run, sweep_command, sweep_without_ray, table_of, write_tokens

FAULT_PARTS = 6


def pytest_collection_modifyitems(config, items):
    """Select by --faults."""
    which, today, others, left_out = config.getoption("--faults"), datetime.date.today().toordinal(), 0, []
    for item in items:
        if item.path.parent != Path(__file__).parent or which == "all":
            continue
        smoke = item.get_closest_marker("smoke") is not None
        sweeps = item.get_closest_marker("ray") is not None or "control" in item.fixturenames
        due = not smoke and others % FAULT_PARTS == today % FAULT_PARTS
        others += not smoke
        if not (smoke and not sweeps if which == "files" else (smoke and sweeps) or due):
            left_out.append(item)
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
    """Counts what a test injects and what was survived, and times recoveries: one row of the table."""

    def __init__(self, record):
        self._record = record

    def injected(self, times=1):
        """Note that something is about to be broken; a test that fails then leaves it not survived."""
        self._record["injected"] += times

    def survived(self, times=1, seconds=None):
        """Note that what must hold afterwards has been shown, and how long it took to get there."""
        self._record["survived"] += times
        if seconds is not None:
            self._record["recovery_s"].append(seconds)


@pytest.fixture
def fault(request):
    """`fault("what happens")`: a `Fault` that the table has a row of.

    The counts travel with the test's report, so that they arrive from the processes of pytest-xdist as well.
    """

    def named(name):
        record = {"fault": name, "injected": 0, "survived": 0, "recovery_s": []}
        request.node.user_properties.append(("fault", record))
        return Fault(record)

    return named


@pytest.fixture(scope="session")
def control(tmp_path_factory):
    """What an unharmed sweep leaves, `Control(folder, curves, table)`."""
    folder = tmp_path_factory.mktemp("control")
    write_tokens(folder)
    run(sweep_command("whole"), folder, check=0)
    whole = folder / "runs" / "whole"
    return Control(whole, curves(whole), table_of(whole))


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The run's folder of the same sweep, trained in this process and without Ray."""
    return sweep_without_ray(tmp_path_factory.mktemp("whole"))


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
    records = _records(terminalreporter)
    if not records:
        return
    table = Table("fault", "injected", "survived", "seconds to recovery", title="Faults", title_justify="left")
    for record in records:
        seconds = record["recovery_s"]
        took = f"{statistics.median(seconds):.1f} (at most {max(seconds):.1f})" if seconds else "-"
        table.add_row(record["fault"], str(record["injected"]), str(record["survived"]), took)
    console = Console(file=terminalreporter._tw._file, width=120)
    console.print()
    console.print(table)
    if config.getoption("--faults-json"):
        from sweeping import measured_on

        text = json.dumps({**measured_on(), "faults": records}, indent=2)
        Path(config.getoption("--faults-json")).write_text(text + "\n")


def _records(terminalreporter):
    """One record per fault, summed over the tests that injected it."""
    by_name = {}
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if getattr(report, "when", None) == "teardown":
            for name, record in report.user_properties:
                if name == "fault":
                    total = by_name.setdefault(
                        record["fault"], record | {"injected": 0, "survived": 0, "recovery_s": []}
                    )
                    for column in ("injected", "survived", "recovery_s"):
                        total[column] = total[column] + record[column]
    return list(by_name.values())
