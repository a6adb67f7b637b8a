"""The parts of an update sum to its time, its FLOPs match torch's count, and mistakes are reported in one line."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import lmcore.measure.peak
import lmcore.profile.breakdown
from lmcore.config import ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens
from lmcore.device import Machine, resolve_run
from lmcore.kernels.swiglu import plain_swiglu
from lmcore.model import TransformerLM
from lmcore.muon import MUON, muon_update_
from lmcore.optimizers import is_hidden_matrix
from lmcore.params import count_parameters
from lmcore.profile.__main__ import main
from lmcore.profile.breakdown import (
    AUTOGRAD,
    DROPOUT,
    HEAD_AND_LOSS,
    OVERHEAD,
    PARTS,
    REST,
    Category,
    Probe,
    attribute_time,
)
from lmcore.profile.roofline import KINDS, Operation, update_operations

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
data: {vocab_size: 97}
model: {d_model: 32, num_layers: 1, num_heads: 2, d_ff: 64, context_length: 16}
train: {batch_size: 4, eval_every: 20, eval_windows: 4, device: cpu, steps: 1e3}
optim: {lr: 1e-3}
space: {optim.lr: {low: 1e-4, high: 1e-2, log: true}}
sizes:
  - {name: xs, model.d_model: 16}
  - {name: s, model.d_ff: 96}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


def tiny_run(model=None, **train):
    tiny = {"vocab_size": 97, "d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "context_length": 16}
    run = RunSpec(model=ModelConfig(**tiny | (model or {})), train=TrainConfig(batch_size=4, device="cpu", **train))
    return resolve_run(run, Machine(cuda=False))


@pytest.fixture(scope="module")
def breakdown():
    torch.set_num_threads(1)
    ids = np.arange(20_000) % 97
    with pytest.MonkeyPatch.context() as monkeypatch:
        # Reading the profiler's events takes most of the time, so profile a single update.
        monkeypatch.setattr(lmcore.profile.breakdown, "PROFILED_UPDATES", 1)
        return Probe(
            tiny_run({"dropout": 0.1}, eval_windows=4), 1, Tokens.of(ids[:10_000], ids[10_000:], 97)
        ).break_down()


def test_parts_and_kinds_each_sum_to_the_time_of_an_update(breakdown):
    assert sum(map(breakdown.total_s, PARTS)) == pytest.approx(breakdown.update_s)
    assert sum(breakdown.total_s(kind=kind) for kind in (*KINDS, OVERHEAD)) == pytest.approx(breakdown.update_s)


def test_every_part_of_an_uncompiled_update_takes_time(breakdown):
    ran = {part for part in PARTS if breakdown.total_s(part) > 0}
    assert ran == {*PARTS} - {"compiled model"}
    assert 0 < breakdown.total_s(REST) < breakdown.update_s


def test_only_differentiated_parts_take_time_in_the_backward_pass(breakdown):
    differentiated = {
        "embedding",
        "norms",
        "attention",
        "feed-forward",
        "residual sums",
        DROPOUT,
        HEAD_AND_LOSS,
        AUTOGRAD,
    }
    assert {part for part in PARTS if breakdown.total_s(part, backward=True)} == differentiated


def test_matrix_products_and_attention_are_attributed_to_their_parts(breakdown):
    assert {share.part for share in breakdown.seconds if share.kind == "matrix products"} == {
        "attention",
        "feed-forward",
        HEAD_AND_LOSS,
    }
    assert {share.part for share in breakdown.seconds if share.kind == "attention"} == {"attention"}


def event(name, parent=None, start=0.0, own_us=0.0, kernel_us=0.0, number=-1, device=DeviceType.CPU):
    return SimpleNamespace(
        name=name,
        cpu_parent=parent,
        time_range=SimpleNamespace(start=start, end=start + 1),
        self_cpu_time_total=own_us,
        self_device_time_total=kernel_us,
        sequence_nr=number,
        device_type=device,
    )


def test_a_kernel_counts_with_its_operator_and_a_backward_operator_with_its_forward_operator():
    advance = event("lmcore/trainer.py(103): advance", start=0)
    norm = event("nn.Module: SlotRMSNorm_3", advance, start=1)
    forward = event("aten::mul", norm, start=2, own_us=100, kernel_us=3, number=7)
    kernel = event("vectorized_elementwise_kernel", None, start=3, kernel_us=3, device=DeviceType.CUDA)
    node = event("autograd::engine::evaluate_function: MulBackward0", None, start=4, own_us=50, number=7)
    backward = event("aten::mul", node, start=5, own_us=100, kernel_us=5)
    assert attribute_time([backward, node, kernel, forward, norm, advance], on_gpu=True) == {
        Category("norms", False, "elementwise"): pytest.approx(3e-6),
        Category("norms", True, "elementwise"): pytest.approx(5e-6),
    }


def test_evaluation_and_loading_a_slot_are_left_out():
    load = event("lmcore/trainer.py(139): load_slot", start=0)
    drawn = event("aten::normal_", load, start=1, own_us=10)
    advance = event("lmcore/trainer.py(103): advance", start=2)
    stacked = event("aten::stack", advance, start=3, own_us=20)
    windows = event("lmcore/population/evaluate.py(28): window_losses", advance, start=4)
    block = event("nn.Module: Block_0", windows, start=5)
    added = event("aten::add", block, start=6, own_us=30)
    seconds = attribute_time([load, drawn, advance, stacked, windows, block, added])
    assert seconds == {Category("batches, coefficients", False, OVERHEAD): pytest.approx(20e-6)}


def test_a_compiled_program_is_one_part_with_products_and_cpu_kernels():
    advance = event("lmcore/trainer.py(103): advance", start=0)
    region = event("Torch-Compiled Region: 0/0", advance, start=1)
    call = event("torchinductor/ab/cab.py(585): call", region, start=2, own_us=9)
    kernel = event("<built-in function kernel>", call, start=3, own_us=20)
    product = event("aten::bmm", call, start=4, own_us=30)
    seconds = attribute_time([advance, region, call, kernel, product])
    assert seconds.pop(Category("compiled model", False, "elementwise")) == pytest.approx(20e-6)
    assert seconds == {Category("compiled model", False, "matrix products"): pytest.approx(30e-6)}


@pytest.mark.parametrize("ffn", ["swiglu", "relu"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("slots", "kv_heads"), [(1, 2), (3, 2), (3, 1)])
def test_flops_of_products_and_attention_match_torchs_count(ffn, tied, slots, kv_heads, monkeypatch):
    """torch counts attention as products without causality: T^2 pairs instead of our T (T + 1) / 2."""
    monkeypatch.setattr("lmcore.model.swiglu", plain_swiglu)  # torch does not count products that are added in place
    sizes = {"vocab_size": 37, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24, "context_length": 8}
    config = ModelConfig(**sizes, ffn=ffn, tie_embeddings=tied, num_kv_heads=kv_heads)
    model = TransformerLM(config, slots)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(slots, 5, 8, dtype=torch.int64)).sum().backward()
    operations = update_operations(RunSpec(model=config, train=TrainConfig(batch_size=5)), slots)
    products, attention = (
        sum(operation.flops for operation in operations if operation.kind == kind)
        for kind in ("matrix products", "attention")
    )
    assert products + attention * 2 * 8 / (8 + 1) == counter.get_total_flops()


def test_bytes_of_norms_rotary_positions_and_optimizer_depend_on_the_architecture():
    for norm, norms in (("pre", 7), ("post", 6), ("none", 0)):
        run = tiny_run(model={"num_layers": 3, "norm": norm, "positions": "none"}, dtype="float32")
        bytes_of = {operation.name: operation.bytes for operation in update_operations(run, 2)}
        assert bytes_of["norms"] == 2 * norms * 5 * run.tokens_per_step * run.model.d_model * 4
        assert bytes_of["rotary positions"] == 0
        assert bytes_of["norm, clip and update"] == 2 * 32 * count_parameters(run.model).total


def test_bytes_of_shared_keys_norms_of_heads_and_dropout_are_those_of_their_channels():
    run = tiny_run(model={"num_kv_heads": 1, "qk_norm": True, "dropout": 0.1}, dtype="float32")
    bytes_of = {operation.name: operation.bytes for operation in update_operations(run, 1)}
    n = run.tokens_per_step
    assert bytes_of["k, v"] == 3 * 2 * 4 * (n * 32 + 32 * 16 + n * 16)
    assert bytes_of["norms of heads"] == 4 * 5 * n * (32 + 16)
    assert bytes_of["rotary positions"] == 4 * 4 * n * (32 + 16)
    assert bytes_of["dropout"] == 3 * 4 * 4 * n * 32
    assert bytes_of["sum of gradients"] == 0


def test_micro_batches_cost_the_same_flops_and_read_the_weights_once_each():
    whole, parts = (update_operations(tiny_run(micro_batch_size=size, dtype="float32"), 2) for size in (None, 1))
    assert sum(operation.flops for operation in whole) == sum(operation.flops for operation in parts)
    head, head_of_four = (next(o for o in operations if o.name == "head") for operations in (whole, parts))
    assert head_of_four.bytes - head.bytes == 2 * 3 * 4 * 3 * (32 * 97)
    summed = next(o for o in parts if o.name == "sum of gradients")
    assert summed.bytes == 2 * 3 * 12 * count_parameters(tiny_run().model).total


def test_a_bound_is_the_larger_of_compute_and_memory_time():
    assert Operation("elementwise", "x", flops=300, bytes=30).bound_s(flops_per_s=10, bytes_per_s=10) == 30
    assert Operation("elementwise", "x", flops=300, bytes=30).bound_s(flops_per_s=1000, bytes_per_s=10) == 3


def test_bfloat16_halves_the_bytes_of_all_operations_but_the_optimizer():
    full, half = (update_operations(tiny_run(dtype=dtype), 1) for dtype in ("float32", "bfloat16"))
    for wide, narrow in zip(full, half, strict=True):
        assert wide.bytes == narrow.bytes * (1 if wide.kind == "optimizer" else 2)


def test_the_command_prints_all_of_its_tables_and_writes_no_file(config, capsys, monkeypatch):
    monkeypatch.setattr(lmcore.measure.peak, "CPU_COPY_BYTES", 2**20)
    monkeypatch.setattr(lmcore.measure.peak, "MIN_SECONDS", 0.01)
    monkeypatch.setattr(lmcore.profile.breakdown, "PROFILED_UPDATES", 1)
    before = sorted(config.parent.iterdir())
    assert main(["--config", str(config), "--slots", "2", "--seconds", "0.05"]) == 0
    printed = capsys.readouterr().out
    for heading in ("What is measured", "Where an update's time goes", "Rates", "Roofline"):
        assert f"{heading}" in printed.split("\n\n") or heading in [line.split(":")[0] for line in printed.splitlines()]
    expected = [
        "size s: ",
        "slots K = 2, batch B = 4, time T = 16: 128 tokens per update",
        "cpu, float32, not compiled, CPU threads: 1",
    ]
    for text in (*expected, "random tokens", "After every 20 updates", "times its bound of"):
        assert text in printed
    assert sorted(config.parent.iterdir()) == before


def test_the_last_size_is_the_default(config):
    from lmcore.runfile.run_file import load_run

    run, name = load_run(config)
    assert (name, run.model.d_model, run.model.d_ff, run.train.steps) == ("s", 32, 96, 1000)
    assert run.optim.lr == 1e-3
    assert load_run(config, "xs")[0].model.d_model == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slots", "0"], "argument --slots: must be a whole number >= 1 (got '0'); see --help"),
        (["--slots", "two"], "argument --slots: must be a whole number >= 1 (got 'two'); see --help"),
        (["--slots", "1" + 400 * "0"], "argument --slots: must be a whole number >= 1 (got '1000"),
        (["--seconds", "nan"], "argument --seconds: must be a number > 0 (got 'nan'); see --help"),
        (["--size", "m"], "--size: must be one of xs, s (got 'm'); choose one of them"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read (No such file or directory); give the path of a"),
        (["--verbose"], "unrecognized arguments: --verbose; see --help"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line_with_exit_code_2(config, capsys, arguments, message):
    assert exit_code(["--config", str(config), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "changed", "message"),
    [
        ("optim: {lr", "optim: {lrr", ":4: optim.lrr: is not a field; did you mean optim.lr?"),
        ("model: {", "modle: {", ":2: modle: is not a field; did you mean model?"),
        ("num_heads: 2", "num_heads: 5", ":2: model.num_heads: must divide d_model, but 5 does not divide 32"),
        ("model.d_ff: 96", "model.d_ff: big", ":8: sizes.s.model.d_ff: must be an integer (got 'big')"),
        ("{name: xs, model.d_model: 16}", "16", ":7: sizes.0: must be a mapping with a name"),
        ("data: {", "data: {source: a.npy, x", ":1: data.xvocab_size: is not a field; did you mean data.vocab_size?"),
        ("vocab_size: 97", "source: a.npy", ":2: model.vocab_size: must be given, as the data are not read here"),
        ("lr: 1e-3}", "lr: [1e-3}", ":4: malformed YAML: "),
    ],
)
def test_a_mistake_in_the_file_is_reported_in_one_line_with_exit_code_2(config, capsys, text, changed, message):
    config.write_text(CONFIG.replace(text, changed))
    assert exit_code(["--config", str(config)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{config}{message}")
    assert printed.err.count("\n") == 1


def test_a_missing_device_is_reported_in_one_line_with_exit_code_2(config, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config.write_text(CONFIG.replace("device: cpu", "device: cuda"))
    assert exit_code(["--config", str(config)]) == 2
    assert capsys.readouterr().err.startswith("train.device: cuda needs a GPU and there is none")


def test_the_command_line_reports_a_mistake_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "lmcore.profile", "--config", str(tmp_path / "a.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"{tmp_path / 'a.yaml'}: cannot be read (No such file or directory); give the path of a YAML file\n"
    )


def exit_code(arguments):
    try:
        return main(arguments)
    except SystemExit as error:
        return error.code


@pytest.mark.parametrize("ffn", ["swiglu", "relu"])
def test_flops_of_muons_orthogonalization_match_torchs_count(ffn):
    run = tiny_run(model={"num_kv_heads": 1, "ffn": ffn}, dtype="float32")
    run = run.model_copy(update={"optim": OptimConfig(name="muon")})
    named = TransformerLM(run.model, 1).named_parameters()
    hidden = [parameter[0].detach() for name, parameter in named if is_hidden_matrix(name)]
    with FlopCounterMode(display=False) as counter:
        tensors = [[torch.ones_like(one) for one in hidden] for _ in range(3)]
        muon_update_(tensors, MUON.coefficients(run.optim, 1e-3, 1), 1.0)
    ours = [operation for operation in update_operations(run, 2) if operation.name == "orthogonalization"]
    assert sum(operation.flops for operation in ours) == 2 * counter.get_total_flops()
