import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmcore import program_cache
from lmcore.config import ModelConfig, TrainConfig
from lmcore.program_cache import compiled_once, is_compiled, note_compiled, program_name

TRAIN = TrainConfig(device="cpu", dtype="float32", compile=True, threads=1)
PROGRAM = {"slots": 2, "tying": "none", "windows": 8, "gradients": True}

HOLD = """
import sys, time
from lmcore.program_cache import compiled_once
with compiled_once("slow"):
    print("held", flush=True)
    time.sleep(60)
"""

COMPILE = """
import json, sys
import numpy as np
from torch._dynamo.utils import counters
from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens
from lmcore.trainer import Trainer
ids = np.arange(64 * 17) % 64
model = ModelConfig(vocab_size=64, d_model=16, num_layers=1, num_heads=1, d_ff=16, context_length=16)
train = TrainConfig(steps=2, eval_every=2, eval_windows=4, batch_size=4, device="cpu", dtype="float32", compile=True)
trainer = Trainer([RunSpec(model=model, train=train)], Tokens.of(ids, ids, 64))
print("ready", flush=True)
sys.stdin.readline()
rows = list(trainer)
print(json.dumps([rows[-1]["val_loss"], dict(counters["aot_autograd"])]))
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def python(code: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], **pipes, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_the_folder_is_the_one_that_torch_uses(cache, monkeypatch):
    from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

    assert str(program_cache.cache_folder()) == cache_dir()
    assert str(program_cache.cache_folder({})) == default_cache_dir()


@pytest.mark.parametrize(
    "other",
    [
        {"model": ModelConfig(d_model=64)},
        {"model": ModelConfig(dropout=0.1)},
        {"train": TRAIN.model_copy(update={"dtype": "bfloat16"})},
        {"train": TRAIN.model_copy(update={"threads": 2})},
        {"slots": 1},
        {"tying": "all"},
        {"windows": 4},
        {"gradients": False},
    ],
)
def test_the_name_of_a_program_tells_apart_what_is_compiled_anew(other):
    same = {"model": ModelConfig(), "train": TRAIN, **PROGRAM}
    alike = {"model": ModelConfig(tie_embeddings=True), "train": TRAIN.model_copy(update={"steps": 7}), **PROGRAM}
    assert program_name(**same) == program_name(**alike) != program_name(**same | other)


def test_a_program_is_there_once_it_was_noted_and_unless_the_cache_is_off(cache, monkeypatch):
    name = program_name(ModelConfig(), TRAIN, **PROGRAM)
    assert not is_compiled(name)
    note_compiled(name)
    assert is_compiled(name)
    assert is_compiled(program_name(ModelConfig(), TRAIN, **PROGRAM | {"slots": "*"}))
    assert not is_compiled(program_name(ModelConfig(), TRAIN, **PROGRAM | {"slots": 4}))
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    assert not is_compiled(name)


def test_a_process_that_dies_while_it_compiles_holds_nobody_up(cache):
    with python(HOLD) as holder:
        assert holder.stdout.readline() == "held\n"
        began = time.monotonic()
        with compiled_once("slow", wait_s=0.3):
            assert time.monotonic() - began >= 0.3  # the other one held it
        holder.send_signal(signal.SIGKILL)
        began = time.monotonic()
        with compiled_once("slow", wait_s=30.0):
            assert time.monotonic() - began < 5.0


def test_those_who_wait_go_on_together_once_the_program_is_there(cache):
    with python(HOLD) as holder:
        assert holder.stdout.readline() == "held\n"
        note_compiled("slow")
        began = time.monotonic()
        with compiled_once("slow", wait_s=30.0):
            assert time.monotonic() - began < 5.0
        holder.kill()


def test_who_waits_does_something_else_first_and_who_does_not_wait_does_not(cache):
    done = []
    with compiled_once("slow", meanwhile=lambda: done.append("alone")):
        assert done == []
    with python(HOLD) as holder:
        assert holder.stdout.readline() == "held\n"
        with compiled_once("slow", wait_s=0.2, meanwhile=lambda: done.append("waiting")):
            assert done == ["waiting"]
        holder.kill()


def test_a_cache_that_cannot_be_written_is_used_without_a_lock(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file"))
    with compiled_once("any"):
        note_compiled("any")
    assert not is_compiled("any")


def test_of_two_processes_at_once_one_compiles_and_the_other_loads(cache: Path):
    both = [python(COMPILE), python(COMPILE)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    (loss, first), (other_loss, second) = (json.loads(process.communicate()[0]) for process in both)
    assert loss == other_loss
    assert sorted(c.get("autograd_cache_saved", 0) for c in (first, second)) in ([0, 2], [1, 1])  # training, validation
    assert sum(c.get("autograd_cache_hit", 0) for c in (first, second)) == 2
    assert len([*cache.glob("lmsweep/*.done")]) == 2
