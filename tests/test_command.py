"""The command `lmsweep`, and the wheel that installs it."""

import configparser
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import lmsweep

ROOT = Path(__file__).resolve().parent.parent


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "lmsweep.py"), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_commands_are_listed_in_80_columns_without_loading_anything(arguments):
    done = command(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    for name, (_, summary) in lmsweep.COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert summary in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "ray", "optuna", "pandas", "numpy", "rich", "sweeps", "analysis"}


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("rnu", "run"), ("stats", "status"), ("exprot", "export"), ("gen", "generate")]
)
def test_an_unknown_command_is_one_line_with_the_nearest_one(wrong, nearest, capsys):
    assert lmsweep.main([wrong, "runs/quick"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error == f"lmsweep: {wrong!r} is not a command; did you mean {nearest}? see lmsweep --help\n"


@pytest.mark.parametrize("name", lmsweep.COMMANDS)
def test_help_and_mistakes_name_the_command_as_it_was_typed(name):
    done = command(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: lmsweep {name} [-h]")
    assert "python " not in done.stdout
    assert command(name, "--absent").returncode == 2


def test_a_shipped_sweep_is_planned_by_its_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lmsweep.main(["run", "--config", "grid", "--dry-run"]) == 0
    assert "name: grid" in capsys.readouterr().out


def test_the_wheel_has_every_module_the_configs_the_template_and_the_command(tmp_path):
    if find_spec("setuptools") is None:
        pytest.skip("building a wheel needs setuptools")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    source = tmp_path / "source"
    for name in filter(None, files.split("\0")):  # setuptools writes build/ and *.egg-info beside what it reads
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*pip, "--wheel-dir", str(tmp_path), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("lmsweep-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        [entry_points] = (archive.read(name).decode() for name in archive.namelist() if "entry_points" in name)
    expected = {"lmsweep.py", "lmcore/py.typed"}
    for suffix in ("jinja", "css", "js"):
        expected |= {str(path.relative_to(source)) for path in (source / "analysis").rglob(f"*.{suffix}")}
    for part in ("lmcore", "sweeps", "analysis"):
        expected |= {str(path.relative_to(source)) for path in (source / part).rglob("*.py")}
    configs = [path for path in (source / "configs").rglob("*") if path.is_file()]
    assert len(configs) > 10
    expected |= {f"lmsweep_configs/{path.relative_to(source / 'configs')}" for path in configs}
    assert names == expected
    parsed = configparser.ConfigParser()
    parsed.read_string(entry_points)
    assert dict(parsed["console_scripts"]) == {"lmsweep": "lmsweep:main"}
