"""Which run somebody meant who gave another path."""

import os
from pathlib import Path

import pytest

from lmcore.run_folders import run_hint


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("quick", "tying", "grid", "my run")):
        folder = Path("runs") / name
        (folder / "report").mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        os.utime(folder, (1e9 - age, 1e9 - age))
    return tmp_path


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("runs/quick/report", "runs/quick"),
        ("runs/quick/report/report.html", "runs/quick"),
        ("runs/my run/trials/xs-0003", "'runs/my run'"),
        ("runs/quik", "runs/quick"),
        ("quick", "runs/quick"),
        ("tyin", "runs/tying"),
        ("runs", "runs/quick or runs/tying or runs/grid or one of 1 more there"),
        ("elsewhere/zzz", "runs/<name>"),
    ],
)
def test_the_nearest_run_is_named_as_one_would_type_it(runs, path, hint):
    assert run_hint(Path(path)) == hint


def test_an_absolute_path_stays_absolute(runs):
    assert run_hint(runs / "runs" / "quick" / "report") == str(runs / "runs" / "quick")


def test_a_name_with_control_characters_is_shown_with_escapes(runs):
    (runs / "runs" / "a\x1b[2Jb").mkdir()
    (runs / "runs" / "a\x1b[2Jb" / "manifest.json").write_text("{}")
    assert "\x1b" not in run_hint(Path("runs/a[2Jb"))
