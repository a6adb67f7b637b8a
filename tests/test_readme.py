"""What the README says of the code is so."""

import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^ {4}python sweeps/run\.py (.*?)(?: {2,}#.*)?$", README, flags=re.MULTILINE)


def test_the_map_names_every_file_once_and_none_that_is_not_there():
    named = re.findall(r"^\| \[`\w+\.py`\]\((\w+/\w+\.py)\)", README, flags=re.MULTILINE)
    files = [str(p.relative_to(ROOT)) for part in ("lmcore", "sweeps", "analysis") for p in (ROOT / part).glob("*.py")]
    assert sorted(named) == sorted(f for f in files if not f.endswith("__init__.py"))


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README + (ROOT / "CONTRIBUTING.md").read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_parses(command, tmp_path):
    from sweeps.options import parse
    from sweeps.spec_file import load_spec

    options = parse(shlex.split(command))
    config = options.config
    if not (ROOT / config).exists():  # my.yaml and runs/... are the reader's
        config = ROOT / "configs" / "quick.yaml"
    assert load_spec(ROOT / config, options.set, **options.flags).name


def test_the_quoted_sweep_is_the_committed_one():
    measured = json.loads((ROOT / "tests" / "bench" / "results" / "quick.json").read_text())
    assert f"{measured['median_seconds'] / 60:.1f} minutes" in README
    for row in measured["runs"][0]["table"]:
        assert f"{float(row['val_loss']):.3f}" in README
        assert row["trial"] in README
