"""Commands that are printed for the user to type are quoted for a shell, whatever the folder is called."""

import shlex
import sys

import pytest

from lmcore.errors import InputError
from sweeps.cli.final_tables import FinalTables
from sweeps.cli.options import parse, resume_command
from sweeps.cluster.joining import dashboard_address
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import load_spec

HOSTILE = "runs of $HOME/it's; a `date` & [more]"


def word_after(line, before):
    """The word that a shell reads after `before`, as far as the line is a command."""
    return shlex.split(line.partition(f"{before} ")[2].split(", or")[0])[0]


def test_the_command_that_resumes_is(in_tmp):
    url = "postgresql://me@h/d?x=1&y=2"
    line = resume_command(parse(["--address", "head:6379"]), HOSTILE, url)
    assert shlex.split(line)[-6:] == ["--resume", HOSTILE, "--address", "head:6379", "--storage", url]


def test_so_is_that_for_a_folder_that_holds_a_sweep_already(in_tmp):
    folder = RunFolder.named("x", in_tmp / HOSTILE)
    folder.path.mkdir(parents=True)
    folder.sweep_yaml.touch()
    with pytest.raises(InputError) as error, folder.claimed():
        pass
    assert word_after(str(error.value), "--resume") == folder.display


def test_so_is_that_for_a_table_that_could_not_be_made(in_tmp, capsys):
    folder = RunFolder(in_tmp / HOSTILE)
    with FinalTables(folder, "lmsweep run", None) as tables:
        tables.print()
    assert word_after(capsys.readouterr().err, "lmsweep report") == folder.display


def test_so_are_an_option_that_a_shell_would_take_for_a_pattern_and_a_tunnel(in_tmp):
    (in_tmp / "a.yaml").write_text("space: {optim.lr: [0.1, 0.2]}\nsizes: [{name: xs, model.d_ff: 64}]\n")
    with pytest.raises(InputError) as error:
        load_spec("a.yaml", ["model.d_ff=128"])
    assert "add --set 'sizes=[]', or" in str(error.value)
    line = dashboard_address("[::1]:8265", "10.0.0.7:6379")
    command = line.partition("`")[2].rstrip("`")
    assert shlex.split(command) == ["ssh", "-N", "-L", "8265:[::1]:8265", "10.0.0.7"]


def test_in_a_notebook_the_command_is_that_of_a_shell_and_not_the_notebooks(in_tmp, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/lib/python3/ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "kernel.json"])
    words = shlex.split(resume_command(parse([]), "runs/x", None))
    assert words[1].endswith("sweeps/run.py")
    assert words[2:] == ["--resume", "runs/x"]
    monkeypatch.setattr(sys, "argv", ["python", "-c"])
    assert shlex.split(resume_command(parse([]), "runs/x", None, "lmsweep run"))[-3:] == ["run", "--resume", "runs/x"]
