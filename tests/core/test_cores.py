"""Cores and memory in containers: the smallest limit of all groups that a process is in, of either version."""

import os

import pytest

from lmcore.cgroup import cpu_quota, memory_left, memory_limit
from lmcore.cores import available_memory, cores

MB = 2**20
NO_LIMIT = 9223372036854771712  # as version 1 writes it


@pytest.fixture
def machine(tmp_path):
    """Writes a fake machine: its control groups, and what /proc/self says about them; returns that folder."""

    def write(groups, cgroup, root="/", version=2, mounted="mnt"):
        proc, point = tmp_path / "proc", tmp_path / mounted
        proc.mkdir(exist_ok=True)
        (proc / "cgroup").write_text(cgroup)
        kind = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,cpu,cpuacct,memory"
        escaped = str(point).replace(" ", "\\040")
        lines = f"24 1 0:22 / /proc rw - proc proc rw\n31 23 0:28 {root} {escaped} rw,relatime shared:9 - {kind}\n"
        (proc / "mountinfo").write_text(lines)
        for folder, files in groups.items():
            (point / folder).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (point / folder / name).write_text(f"{text}\n")
        return proc

    return write


@pytest.fixture(autouse=True)
def _affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000", 16), ("400000 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 16)],
)
def test_cores_are_the_smaller_of_affinity_and_quota_rounded_down_and_at_least_one(machine, text, expected):
    assert cores(machine({"": {"cpu.max": text}}, "0::/\n")) == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"), [(-1, 100000, 16), (300000, 100000, 3), (25000, 50000, 1), (150000, 50000, 3)]
)
def test_version_1_has_its_quota_in_two_files(machine, quota, period, expected):
    files = {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": period}
    assert cores(machine({"": files}, "4:memory:/\n2:cpu,cpuacct:/\n", version=1)) == expected


def test_of_nested_groups_the_tightest_one_counts_whichever_it_is(machine):
    groups = {
        "": {"cpu.max": "max 100000"},
        "slurm": {"cpu.max": "600000 100000"},
        "slurm/job_7": {"cpu.max": "250000 100000"},
        "slurm/job_7/step": {"cpu.max": "800000 100000"},
        "other": {"cpu.max": "100000 100000"},
    }
    assert cpu_quota(machine(groups, "0::/slurm/job_7/step\n")) == 2.5
    assert cpu_quota(machine(groups, "0::/slurm\n")) == 6.0
    assert cpu_quota(machine(groups, "0::/\n")) is None


def test_a_container_that_sees_its_group_as_the_root_of_its_mount_is_limited_by_it(machine):
    files = {"cpu.cfs_quota_us": 200000, "cpu.cfs_period_us": 100000}
    on_host = "3:cpu,cpuacct:/docker/8f1c\n"
    assert cores(machine({"": files}, on_host, root="/docker/8f1c", version=1)) == 2
    assert cores(machine({"": files}, "3:cpu,cpuacct:/../elsewhere\n", root="/docker/8f1c", version=1)) == 2
    inner = {"": files, "inner": {"cpu.cfs_quota_us": 100000, "cpu.cfs_period_us": 100000}}
    assert cores(machine(inner, "3:cpu,cpuacct:/docker/8f1c/inner\n", root="/docker/8f1c", version=1)) == 1


def test_a_mount_with_a_space_in_its_path_is_found(machine):
    assert cores(machine({"": {"cpu.max": "300000 100000"}}, "0::/\n", mounted="a b")) == 3


def test_without_affinity_as_on_macos_all_cores_count(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert cores(tmp_path / "none") == 10
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores(tmp_path / "none") == 1


def test_this_machine_has_at_least_one_core_and_some_memory():
    assert cores() >= 1
    assert available_memory() > MB


def test_memory_is_limited_by_every_group_and_files_that_can_be_dropped_are_free(machine, tmp_path):
    groups = {
        "": {"memory.max": "max", "memory.current": 900 * MB},
        "pod": {"memory.max": 800 * MB, "memory.current": 500 * MB, "memory.stat": f"anon 1\ninactive_file {100 * MB}"},
        "pod/app": {"memory.max": 600 * MB, "memory.current": 500 * MB, "memory.stat": "anon 1"},
    }
    proc = machine(groups, "0::/pod/app\n")
    assert memory_limit(proc) == 600 * MB
    assert memory_left(proc) == 100 * MB
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 9 kB\nMemAvailable: {50 * 1024} kB\n")
    assert available_memory(meminfo, proc) == 50 * MB
    meminfo.write_text(f"MemAvailable: {5000 * 1024} kB\n")
    assert available_memory(meminfo, proc) == 100 * MB


def test_version_1_writes_a_huge_number_for_no_limit_of_memory(machine, tmp_path):
    groups = {"": {"memory.limit_in_bytes": NO_LIMIT, "memory.usage_in_bytes": 7}}
    cgroup = "4:memory:/\n"
    assert memory_limit(machine(groups, cgroup, version=1)) is None
    groups[""] |= {"memory.limit_in_bytes": 64 * MB, "memory.stat": "cache 3\ntotal_inactive_file 7"}
    assert memory_left(machine(groups, cgroup, version=1)) == 64 * MB
    assert available_memory(tmp_path / "no meminfo", machine(groups, cgroup, version=1)) == 64 * MB


@pytest.mark.parametrize("text", ["", "garbage", "1:2", "0::\n"])
def test_a_group_file_that_says_nothing_limits_nothing(machine, text):
    proc = machine({"": {"cpu.max": "what", "memory.max": "ever"}}, text)
    assert cpu_quota(proc) is None
    assert memory_limit(proc) is None
