"""Where the seconds go before a sweep trains and after it has trained: `--timings`.

The stages are always recorded, in manifest.json under `timings`; the option prints them.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

PROGRAMS = ("lmsweep", "run")
"""What the script of this process is called if the process is the command, rather than a program that calls `main`."""


class Timings:
    """When the stages of a command were reached, in seconds since it was started.

    >>> timings = Timings(age_s=0.5)
    >>> timings.mark("config_read")
    >>> print(timings.table())
    seconds  since the stage before
        0.5     0.5  config read
    """

    def __init__(self, age_s: float = 0.0) -> None:
        """`age_s`: how long ago the command was started."""
        self._began = time.monotonic() - age_s
        self._stages: dict[str, float] = {}

    @classmethod
    def of_command(cls) -> "Timings":
        """Timings that count from the start of this process, or from now if it was started for something else."""
        return cls(process_age_s() if Path(sys.argv[0]).stem in PROGRAMS else 0.0)

    def mark(self, stage: str, unix_s: float | None = None) -> None:
        """Record that a stage is reached now, or was at a Unix time."""
        ago = 0.0 if unix_s is None else time.time() - unix_s
        self._stages[stage] = time.monotonic() - ago - self._began

    @property
    def stages(self) -> Mapping[str, float]:
        """Seconds from the start of the command to each stage, in order of time."""
        return {stage: round(at, 3) for stage, at in sorted(self._stages.items(), key=lambda item: item[1])}

    def table(self) -> str:
        """The stages, a line each: seconds from the start of the command, and from the stage before."""
        lines, before = ["seconds  since the stage before"], 0.0
        for stage, at in self.stages.items():
            lines.append(f"{at:7.1f} {at - before:7.1f}  {stage.replace('_', ' ')}")
            before = at
        return "\n".join(lines)


def process_age_s() -> float:
    """Seconds since this process was started, to a hundredth; 0 where the system does not tell (all but Linux)."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0
