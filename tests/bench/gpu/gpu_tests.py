"""The tests of the suite that need a GPU, which other machines skip, run by pytest in a process beside the checks."""

import atexit
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile

from tests.bench.circumstances import ROOT
from tests.bench.gpu.record import Record

FILES = ("test_graph.py", "test_data.py", "test_dropout.py", "test_muon.py")
SENTENCE = "the tests of the suite that need a GPU pass"


class GpuTests:
    """The process, started at once."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- as long as the process
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-rs", "-m", "gpu"]
        self._process = subprocess.Popen(
            [*command, *(f"tests/core/{name}" for name in FILES)],
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        atexit.register(self._end)

    def finish(self, seconds: float, record: Record) -> None:
        """Wait, at most so long, and keep the outcome as a check."""
        try:
            code = self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self._end()
            record.skip("tests", SENTENCE, "they did not end in time")
            return
        self._log.seek(0)
        lines = self._log.read().splitlines()
        skipped = any(re.search("needs a GPU", line) for line in lines)
        record.check("tests", SENTENCE, float(code != 0 or skipped), 0.0, last_lines=lines[-30:])

    def _end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def start_gpu_tests(device: str, record: Record) -> GpuTests | None:
    """The process; None, and a check that is skipped, where there is no GPU or no pytest."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if device != "cuda" or missing:
        record.skip("tests", SENTENCE, "needs a GPU" if device != "cuda" else f"needs {' and '.join(missing)}")
        return None
    return GpuTests()
