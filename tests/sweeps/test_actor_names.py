"""Ray's log and dashboard show which engine an actor is."""

import time
from pathlib import Path

import pytest
import ray

from sweeps.engine.worker import SlotWorker
from sweeps.tune.trainable import TrialTrainable


@pytest.mark.parametrize(
    ("slots", "device", "visible", "name"),
    [
        (4, "cpu", None, "Engine(0, cpu, 4 slots)"),
        (1, "cuda", "3", "Engine(0, cuda:3, 1 slot)"),
        (None, "cuda", None, "Engine(0, cuda)"),
    ],
)
def test_an_engine_is_called_by_its_number_device_and_slots(slots, device, visible, name, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert repr(SlotWorker(0, str(tmp_path), slots, 2**30, device=device)) == name


def test_a_proxy_names_no_trial_because_it_serves_many():
    assert repr(TrialTrainable.__new__(TrialTrainable)) == "trial proxy"


@pytest.mark.ray
def test_rays_log_has_the_name_before_the_engines_lines(cluster, tmp_path):
    worker = ray.remote(SlotWorker).options(num_cpus=0).remote(7, str(tmp_path), 4, 2**30)
    ray.get(worker.ping.remote())
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    end = time.monotonic() + 20
    while not (found := [path for path in logs.glob("worker-*.out") if "Engine(7, cpu, 4 slots)" in path.read_text()]):
        assert time.monotonic() < end, "no log has it"
        time.sleep(0.1)
    assert len(found) == 1
    ray.kill(worker)
