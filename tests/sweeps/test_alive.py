"""While something takes long, the user sees that it goes on: a line that changes, or plain lines."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from lmcore.device import Machine
from sweeps.cli import alive as module
from sweeps.cli.alive import Alive, progress
from sweeps.run import main
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.sweep import save_tokens, write_inputs

ROOT = Path(__file__).resolve().parents[2]
PATH = {"PYTHONPATH": str(ROOT)}
FIRST = """
import os, sys
from sweeps.run import main

class Out:
    encoding, isatty, flush = "utf-8", lambda self: False, lambda self: None

    def write(self, text):
        os.write(2, f"{text}\\n{' '.join(sys.modules)}".encode())
        os._exit(0)

sys.stdout = Out()
main(["--name", "first"])
"""


def plain():
    return Console(file=io.StringIO(), width=120)


def test_without_a_terminal_there_is_a_line_every_few_seconds_with_the_newest_text(monkeypatch):
    monkeypatch.setattr(module, "EVERY_S", 0.05)
    console = plain()
    with Alive(console, "preparing the data") as alive:
        time.sleep(0.12)
        alive.text = "starting Ray"
        time.sleep(0.12)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "preparing the data (0 s)"
    assert lines[-1] == "starting Ray (0 s)"
    time.sleep(0.1)
    assert console.file.getvalue().splitlines() == lines


def test_where_nothing_was_said_before_the_first_line_comes_sooner(monkeypatch):
    console = plain()
    with Alive(console, "reading the sweep", first_s=0.05):
        time.sleep(0.2)
    assert console.file.getvalue() == "reading the sweep (0 s)\n"


def test_a_sweep_says_its_first_line_before_it_imports_what_takes_seconds(in_tmp):
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, env=os.environ | PATH)
    line, *_, modules = done.stderr.splitlines()
    assert (
        line
        == "lmsweep first: 24 trials, proposed by optuna, weak ones end early (asha), then up to 36 confirmation runs"
    )
    assert not {"ray", "torch", "optuna", "pandas", "pyarrow"} & set(modules.split())


def test_a_sweep_on_a_gpu_says_its_first_line_before_it_imports_torch(in_tmp, monkeypatch, capsys):
    def machine():
        assert capsys.readouterr().out.startswith("lmsweep first: 24 trials, ")
        return Machine(cuda=False)

    monkeypatch.setattr("sweeps.sweep.this_machine", machine)
    assert main(["--name", "first", "--set", "train.device=cuda"]) == 2
    assert "there is none" in capsys.readouterr().err


def test_while_tokens_are_written_to_the_folder_a_line_says_so(in_tmp, small_tokens, monkeypatch):
    def slow(*arguments):
        time.sleep(0.2)
        return save_tokens(*arguments)

    monkeypatch.setattr(module, "EVERY_S", 0.05)
    monkeypatch.setattr("sweeps.sweep.save_tokens", slow)
    console, folder = plain(), RunFolder(in_tmp / "quick")
    folder.path.mkdir()
    write_inputs(SweepSpec(name="quick", search={"trials": 1}), small_tokens, folder, console)
    assert console.file.getvalue().startswith("writing the tokens to the folder (0 s)\n")


def test_what_takes_less_than_that_says_nothing():
    console = plain()
    with Alive(console, "preparing the data"):
        pass
    assert console.file.getvalue() == ""


def test_on_a_terminal_the_line_is_there_at_once_and_goes_away():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Alive(console, "starting Ray"):
        time.sleep(0.2)
        assert "starting Ray (0 s)" in console.file.getvalue()
    assert console.file.getvalue().endswith("\x1b[2K")


def test_it_ends_with_its_block_also_by_an_interrupt(monkeypatch):
    alive = Alive(plain(), "starting Ray")
    with pytest.raises(KeyboardInterrupt), alive:
        raise KeyboardInterrupt
    assert not alive._thread.is_alive()


def test_progress_is_told_in_megabytes_with_speed_and_time_left():
    assert progress(120e6, 800e6, 8.5) == "120 of 800 MB, 14 MB/s, about 48 s left"
    assert progress(0, 800e6, 0.0) == "0 of 800 MB"
    assert progress(800e6, 800e6, 80.0) == "800 of 800 MB, 10 MB/s, about 0 s left"
    assert progress(220e6, 0, 2.0) == "220 MB, 110 MB/s"
    assert progress(0.2e6, 1e6, 1.0) == "0 of 1 MB, 0.2 MB/s, about 4 s left"


def test_what_is_reported_replaces_the_text(monkeypatch):
    monkeypatch.setattr(module, "EVERY_S", 0.05)
    console = plain()
    with Alive(console, "preparing the data") as alive:
        alive.report("reading text", 2e6, 2e6)
        alive.report("tokenizing", 0, 2e6)
        time.sleep(0.001)
        alive.report("tokenizing", 1e6, 2e6)
        time.sleep(0.1)
    assert console.file.getvalue().startswith("tokenizing: 1 of 2 MB, ")


def test_on_a_terminal_there_is_a_bar_where_the_total_is_known_and_nothing_wraps():
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    with Alive(console, "reading the data") as alive:
        alive.report("tokenizing", 400e6, 800e6)
        time.sleep(0.3)
        alive.report("tokenizing", 0.0, 0.0)
        time.sleep(0.3)
    frames = console.file.getvalue().replace("\r", "\n").replace("\x1b[2K", "\n").splitlines()
    shown = [frame for frame in frames if "tokenizing: 400 of 800 MB" in frame]
    assert "━━━━━━━━━━" in shown[0]
    assert max(map(len, shown)) <= 60
    assert "━" not in next(frame for frame in frames if "tokenizing: 0 MB" in frame)


def test_a_new_text_starts_the_clock_again(monkeypatch):
    monkeypatch.setattr(module, "EVERY_S", 1.2)
    console = plain()
    with Alive(console, "starting Ray") as alive:
        time.sleep(1.1)
        alive.text = "measuring"
        time.sleep(0.3)
    assert console.file.getvalue() == "measuring (0 s)\n"
