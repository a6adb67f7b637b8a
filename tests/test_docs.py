"""What the README and the documentation say is so: links, commands, code, and every number that they quote."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = r"^(?: {4})?(?:RAY_\w+=\w+ .*-- )?(?:python sweeps/run\.py|lmsweep run) ?(.*?)(?: {2,}#.*)?$"
TEXTS = [re.sub(r" *\\\n *", " ", page.read_text()) for page in PAGES]  # a command may go on in the next line
COMMANDS = sorted({found for text in TEXTS for found in re.findall(RUN, text, flags=re.MULTILINE)})


def test_the_readme_can_be_read_in_a_few_minutes():
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command):
    from sweeps.cli.options import parse
    from sweeps.spec.load import load_spec

    options = parse(shlex.split(command))
    config = options.config
    if not (ROOT / config).exists():  # my.yaml and runs/... are the reader's
        config = ROOT / "configs" / "quick.yaml"
    assert load_spec(ROOT / config, options.set, **options.flags).name


def test_the_help_of_lmcore_profile_names_a_size_that_is_there():
    from lmcore.profile.__main__ import parser
    from lmcore.runfile.run_file import load_run

    options = parser().parse_args(["--config", "configs/quick.yaml", "--size", "s"])
    assert load_run(ROOT / options.config, options.size)[1] == options.size


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_code_parses_and_imports_names_that_exist(page):
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("lmcore", "sweeps", "analysis"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "analysis":
                assert hasattr(importlib.import_module("analysis"), node.attr), node.attr


def test_pages_made_from_code_and_measurements_are_up_to_date():
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_fault_in_the_published_table_was_survived():
    faults = json.loads((ROOT / "tests" / "bench" / "results" / "faults.json").read_text())["faults"]
    assert faults
    assert all(fault["survived"] == fault["injected"] for fault in faults)


def test_the_quoted_sweep_is_the_committed_one():
    measured = json.loads((ROOT / "tests" / "bench" / "results" / "quick.json").read_text())
    text = README.read_text()
    assert f"took {measured['median_seconds'] / 60:.1f} minutes" in " ".join(text.split())
    assert measured["same_verdicts"]
    for row in measured["runs"][0]["table"]:
        assert f"{float(row['loss']):.3f} +- {float(row['half']):.3f}" in text
        assert row["trial"] in text


def test_the_walk_of_the_design_names_files_and_functions_that_exist():
    walk = (ROOT / "docs" / "design.md").read_text().split("<!-- walk -->")[1]
    steps = re.findall(r"^\d+\. `([\w./]+\.\w+)`(?:, `([\w.]+)`)?", walk, flags=re.MULTILINE)
    assert steps
    for file, name in steps:
        text = (ROOT / file).read_text()
        last = name.split(".")[-1]
        assert not last or re.search(rf"\b(?:def|class) {last}\b|^{last}\b", text, flags=re.MULTILINE), (file, name)
