"""`tests/bench/gpu.sh` on a CPU with tiny models, so that it works on the day when there is a GPU."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lmcore.clip import slot_grad_norms
from tests.bench.gpu import tables
from tests.bench.gpu.cases import GPU, QUICK
from tests.bench.gpu.clock import Clock, OutOfTime
from tests.bench.gpu.goals import goals
from tests.bench.gpu.gpu_tests import FILES, GpuTests
from tests.bench.gpu.packing_rows import settings
from tests.bench.gpu.record import Record, exit_code
from tests.bench.gpu.slot_checks import SlotChecks
from tests.bench.gpu.warm_cache import LANES, jobs

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "bench" / "gpu.sh"
NEEDS_A_GPU = {"tests", "graphs", "float32"}
CHECKS = {
    *NEEDS_A_GPU,
    *("packed", "visible", "refill neighbours", "refill newcomer", "nan", "restored", "resumed"),
    *("compiled", "compiled, packed", "update of slots", "compiled update"),
    *(f"{form} loss, {dtype}" for form in ("chunked", "fused") for dtype in ("float32", "bfloat16")),
}


def run_script(folder, *arguments, **environment):
    """From another directory, with this interpreter."""
    return subprocess.run(
        ["bash", SCRIPT, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_on_a_cpu_no_check_fails_and_every_row_is_measured(tmp_path):
    done = run_script(tmp_path, "--device", "cpu", "--quick", "--out", "gpu.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["checks"].keys() == CHECKS
    assert {name for name, check in found["checks"].items() if check["passed"] is None} == NEEDS_A_GPU
    assert {name for name, check in found["checks"].items() if check["passed"] is False} == set()
    for name in ("packed", "refill neighbours", "refill newcomer", "nan", "resumed", "compiled, packed"):
        assert found["checks"][name]["tolerance"] == 0  # bit for bit
    assert {group: set(rows) for group, rows in found["rows"].items()} == {
        "peak": {"device"},
        "packing": {"tiny"},
        "step": {"tiny"},
        "refill": {"tiny"},
        "loss": {"V128"},
        "update": {"K1", "K2"},
    }
    assert set(found["rows"]["packing"]["tiny"]["arms"]) == {"graphed", "eager", "compiled", "packed 2", "packed 4"}
    assert set(found["rows"]["step"]["tiny"]["ms"]) == {"ours", "ours compiled"}
    assert (found["ended"], found["errors"], set(found["left_out"])) == (True, {}, {"nanoGPT"})
    assert len(found["goals"]) == 4
    found["hardware"] |= {"gpu": "NVIDIA Test", "gpu_bytes": 80 * 2**30}
    section = tables.section(found)
    assert "One NVIDIA Test (80 GiB)" in section
    assert section.count("| passed |") == 15
    assert re.search(r"^\| tiny \| \d+\.\d+x \| \d+\.\d+x \| packed [24] \|", section, flags=re.MULTILINE)
    assert re.search(
        r"with CUDA graphs \([0-9.]+ if those are compiled\); 15 of 15 checks pass", tables.sentence(found)
    )
    assert set(tables.core_rows(found)) == {"loss", "update"}
    assert {row["about"]["rounds"] for row in tables.core_rows(found).values()} == {2}
    assert done.stdout.splitlines()[-1].startswith("15 checks passed, 0 failed, 3 skipped; 0 errors; ")


def test_a_check_fails_if_slots_mix(tmp_path, monkeypatch):
    def mixed(grads):
        norms = slot_grad_norms(grads)
        return norms.mean().expand_as(norms)

    monkeypatch.setattr("lmcore.population.population.slot_grad_norms", mixed)
    record = Record(tmp_path / "gpu.json", "cpu", "", None)
    SlotChecks(QUICK, "cpu", record)._packing()
    assert {name: check["passed"] for name, check in record.checks.items()} == {"packed": False, "visible": True}
    assert exit_code(record) == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["checks"]["packed"]["figure"] > 0


def test_a_goal_that_is_missed_or_not_measured_fails_nothing(tmp_path):
    rows = {
        "packing": {"1M": {"vs_graphed": 2.9, "vs_eager": 8.0}},
        "step": {"1M": {"ratio": None, "share_of_bound": 1}},
    }
    assert [goal["met"] for goal in goals(rows)] == [False, True, None, True]
    record = Record(tmp_path / "gpu.json", "cpu", "", None)
    record.document["goals"] = goals(rows)
    assert exit_code(record) == 0


def test_a_gpu_gets_every_row_that_a_cpu_gets_and_all_slot_counts():
    assert set(vars(GPU)) == set(vars(QUICK))
    assert list(GPU.steps) == ["1.3M", "10M", "30M", "124M"]
    assert list(GPU.packing) == ["0.5M", "1.3M", "5M", "10M"]
    for size in GPU.packing:
        arms = settings(GPU, size).values()
        assert {setting.slots for setting in arms} == {1, 2, 4, 8, 16, 32, 64}
        assert any(setting.compiled and setting.slots > 1 for setting in arms)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cpu"], "needs --quick"),
        (["--device", "cpu", "--quick"], "--out: must be given"),
        (["--device", "cpu", "--quick", "--out", "x.json", "--nanogpt", "nowhere"], "must be a folder with nanoGPT's"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(tmp_path, arguments, said):
    done = run_script(tmp_path, *arguments)
    assert (done.returncode, said in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_group_that_overruns_is_interrupted_and_the_next_one_has_its_time():
    clock = Clock(100.0)
    with pytest.raises(OutOfTime), clock.limit(1.0):
        time.sleep(30)
    assert 0.9 < 100.0 - clock.left_s < 5
    with clock.limit(1.0):
        pass
    time.sleep(1.2)  # nothing interrupts what is not in a group


def test_the_tests_that_need_a_gpu_are_those_of_the_files_that_it_runs():
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = {file.name for file in files if "pytest.mark.gpu\n" in file.read_text()}
    assert marked == set(FILES)


def test_where_tests_are_skipped_for_want_of_a_gpu_the_check_of_them_fails(tmp_path):
    record = Record(tmp_path / "gpu.json", "cpu", "", None)
    GpuTests().finish(120.0, record)
    check = record.checks["tests"]
    assert check["passed"] is torch.cuda.is_available()
    assert torch.cuda.is_available() or re.search("[1-9] skipped", check["last_lines"][-1])


def test_what_is_compiled_ahead_are_arms_of_every_kind():
    lanes = jobs(dataclasses.replace(QUICK, compiled_slots={"tiny": (2,)}), "cpu", None)
    assert lanes.keys() == LANES.keys()
    assert sum(LANES.values()) < 0.9  # of the GPU's memory
    arms = [job() for lane in lanes.values() for job in lane]
    assert len(arms) == 8  # checks packed and alone, step, packing at K = 1 and 2, loss, update at K = 1 and 2
    assert all(map(callable, arms))


def test_without_a_result_the_documentation_says_that_nothing_was_run_on_a_gpu():
    assert "It has not been run on a GPU yet" in tables.section(None)
    assert tables.sentence(None).startswith("Nothing has been run on a GPU yet")
    assert tables.core_rows(None) == {}


NEEDED = """
import sys
import torch
before = {name.split(".")[0] for name in sys.modules}
sys.path.insert(0, sys.argv[1])
import tests.bench.gpu.__main__
after = {name.split(".")[0] for name in sys.modules} - before - set(sys.stdlib_module_names)
print(*sorted(name for name in after if "site-packages" in (getattr(sys.modules[name], "__file__", None) or "")))
"""


def test_it_imports_no_package_but_torch_and_those_that_it_can_carry():
    """A machine with a GPU may have nothing else."""
    command = [sys.executable, "-c", NEEDED, str(ROOT)]
    found = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    lines = [line.strip() for line in SCRIPT.read_text().splitlines() if line.strip().startswith("[")]
    carried = {name for line in lines for name in line.split("=", 1)[1].strip('"').split()}
    assert {"pydantic", "safetensors"} <= found <= carried | {"torch", "torchgen"}
