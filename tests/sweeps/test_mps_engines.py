"""A sweep on the GPU of a Mac: one engine, no GPU that Ray counts, and never on a cluster."""

import pytest
import torch

from lmcore.config import TrainConfig
from lmcore.device import Machine, resolve
from sweeps.cli.rates import engines_here
from sweeps.cluster.nodes import Node
from sweeps.cluster.proof import device_fault
from sweeps.cluster.ray_cluster import Cluster, engine_options, engines_of
from sweeps.run import main

MAC = Machine(cuda=False, mps=True)


def test_a_sweep_has_one_engine_on_it_and_reserves_no_gpu_of_rays():
    train = resolve(TrainConfig(device="mps"), MAC)
    here = Node("a", "mac", "127.0.0.1", 1, cpus=256, gpus=0, cores=8, memory_bytes=2**33)
    assert Cluster((here,), mps=True).machine == MAC
    assert engines_of(here, train) == Cluster((here,), mps=True).engines(train) == engines_here(train) == 1
    assert engine_options(train, 1) == {"num_cpus": 1, "max_restarts": -1}


def test_an_engine_says_so_if_torch_cannot_use_it(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_fault("mps") == "torch has no Apple GPU here; use train.device: cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_fault("mps") is None


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        (
            [],
            "mps needs the GPU of a Mac and a torch that can use it, and there is none; use device: auto or "
            "device: cpu",
        ),
        (
            ["--address", "head:6379"],
            "mps is the GPU of this Mac, and the sweep is to run on a cluster (got head:6379); use device: auto",
        ),
    ],
)
def test_where_it_cannot_be_used_a_sweep_is_refused_before_ray_starts(in_tmp, capsys, monkeypatch, address, rule):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert main(["--config", "quick", "--set", "train.device=mps", *address]) == 2
    assert capsys.readouterr().err == f"train.device: {rule}\n"


def test_a_space_that_holds_a_dtype_which_it_cannot_have_is_refused_by_its_entry(in_tmp, capsys):
    (in_tmp / "mac.yaml").write_text(
        "train: {device: mps}\nspace: {train.dtype: [float32, bfloat16], model.num_heads: [2, 4]}\n"
    )
    assert main(["--config", "mac.yaml", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mac.yaml:2: space.train.dtype.choices: ")
    assert "must not be bfloat16 on an Apple GPU (got device: mps)" in error
