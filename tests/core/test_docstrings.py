"""The examples in the docstrings of the core give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    [
        *(ROOT / "lmcore").glob("[a-z]*.py"),
        *(ROOT / "lmcore" / "population").glob("[a-z]*.py"),
        *(ROOT / "lmcore" / "corpus" / f"{name}.py" for name in ("windows", "documents")),
    ]
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_examples_are_right(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an example may write files
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    assert doctest.testmod(module).failed == 0
