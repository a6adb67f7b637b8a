"""How fast the core is beside its peers: `python tests/bench/core.py --nanogpt DIR [--rows step,loss,...]`.

Rows: `step` (training steps beside nanoGPT's model.py, read from DIR, with its own optimizer settings), `module` (K = 1
beside the same model as an ordinary nn.Module with torch's AdamW), `loss` (head and loss, forward and backward),
`update` (clip and AdamW of K models of 10M parameters), `compile` (seconds to the first compiled step, cold and in a
second process). Arms of a row take turns in one process; a ratio is the median over rounds of peer time over ours,
above 1 where ours is faster. results/core-<device>.json is written after each row, and keeps rows that are not run.
"""

import argparse
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.linear_loss import linear_cross_entropy
from lmcore.model import TransformerLM
from lmcore.optim import Coefficients, adamw_coefficients
from lmcore.params import count_parameters, flops_per_token
from lmcore.peak import matmul_flops_per_s
from lmcore.population import Population
from lmcore.tokens import Tokens
from lmcore.trainer import Trainer, cpu_threads

ROOT = Path(__file__).resolve().parents[2]
Arm = Callable[[], Any]

BETAS, DECAY, CLIP, LR = (0.9, 0.95), 0.1, 1.0, 1e-3


def sized(d: int, layers: int, heads: int, vocab: int, context: int) -> ModelConfig:
    """A model whose feed-forward network is as large as nanoGPT's (3 D F = 8 D^2, F a multiple of 16)."""
    d_ff = round(8 * d / 3 / 16) * 16
    return ModelConfig(
        d_model=d, num_layers=layers, num_heads=heads, d_ff=d_ff, vocab_size=vocab, context_length=context
    )


STEPS: dict[str, dict[str, tuple[ModelConfig, int]]] = {  # model, B
    "cpu": {"1.3M": (sized(128, 4, 4, 2048, 128), 16), "10M": (sized(256, 7, 8, 8192, 256), 4)},
    "cuda": {
        "10M": (sized(256, 7, 8, 8192, 256), 32),
        "30M": (sized(512, 6, 8, 8192, 512), 32),
        "124M": (sized(768, 12, 12, 50304, 1024), 16),
    },
}
MODULES = {str(d): (sized(d, 4, 4, 2048, 128), 8) for d in (32, 64, 128)}
LOSSES = {"V2048": (2048, 128, 2048), "V8192": (2048, 256, 8192), "V50304": (1024, 256, 50304)}  # N, D, V


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", metavar="DIR", type=Path, help="a checkout of nanoGPT; without it no `step` row")
    parser.add_argument("--rows", default="step,module,loss,update,compile")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads of every arm")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--first-step", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_step:
        print(json.dumps(first_step(options.device)))
        return
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    out = Path(__file__).parent / "results" / f"core-{options.device}.json"
    result: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    measures = {"step": steps, "module": modules, "loss": losses, "update": updates, "compile": compiles}
    for row in options.rows.split(","):
        if row == "step" and options.nanogpt is None:
            print("step: left out, needs --nanogpt DIR")
            continue
        result[row] = {"about": about(options), "measured": measures[row](options)}
        print(json.dumps({row: result[row]["measured"]}, indent=2), flush=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What a row was measured with."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    train = TrainConfig(device=options.device, dtype=_dtype(options.device), threads=options.threads)
    return {
        "command": f"python tests/bench/core.py --device {options.device} --threads {options.threads} --nanogpt DIR",
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None,
        "hardware": torch.cuda.get_device_name() if options.device == "cuda" else cpu,
        "cores": len(os.sched_getaffinity(0)),
        "threads": options.threads,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "matmul_flops_per_s": round(matmul_flops_per_s(train)),
    }


def race(arms: Mapping[str, Arm], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of one call of each arm, in `options.rounds` rounds in which they take turns."""
    for arm in arms.values():
        for _ in range(3):
            arm()
    repeats = {}
    for name, arm in arms.items():
        repeats[name] = max(1, round(0.3 / _seconds(arm, 1, options.device)))
    rounds: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for n in range(options.rounds):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            rounds[name].append(_seconds(arms[name], repeats[name], options.device))
    return rounds


def compared(rounds: Mapping[str, list[float]], ours: tuple[str, ...], peers: tuple[str, ...]) -> dict[str, Any]:
    """Median milliseconds, and the median ratio of the best peer to our best; which is best is decided by medians."""
    medians = {name: statistics.median(one) for name, one in rounds.items()}
    our, peer = (min(names, key=lambda name: medians[name]) for names in (ours, peers))
    ratios = [theirs / mine for theirs, mine in zip(rounds[peer], rounds[our], strict=True)]
    return {
        "ms": {name: round(1e3 * one, 3) for name, one in medians.items()},
        "ours": our,
        "peer": peer,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def _seconds(arm: Arm, repeats: int, device: str) -> float:
    _wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        arm()
    _wait(device)
    return (time.perf_counter() - began) / repeats


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _dtype(device: str) -> str:
    return "bfloat16" if device == "cuda" else "float32"


def our_step(model: ModelConfig, batch_size: int, compiled: bool, options: argparse.Namespace) -> Arm:
    """An update of a K = 1 trainer, batches, schedule and all."""
    train = TrainConfig(
        batch_size=batch_size, steps=10**9, eval_every=10**9, compile=compiled, threads=options.threads
    ).model_copy(update={"device": options.device, "dtype": _dtype(options.device)})
    generator = np.random.default_rng(0)
    ids = generator.integers(0, model.vocab_size, 2**18, dtype=np.uint16)
    trainer = Trainer([RunSpec(model=model, train=train)], Tokens.of(ids, ids[: 2**14], model.vocab_size))
    slot = trainer.slots[0]
    assert slot is not None

    def arm() -> None:
        trainer._update({0: slot}, 1, batched=True)
        slot.step += 1

    return arm


def windows(model: ModelConfig, batch_size: int, device: str) -> tuple[Tensor, Tensor]:
    """x, y [B, T]."""
    tokens = torch.randint(model.vocab_size, (batch_size, model.context_length + 1), device=device)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def autocast(device: str) -> torch.autocast:
    """bfloat16 products on a GPU, float32 on a CPU."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def nanogpt_step(folder: Path, model: ModelConfig, batch_size: int, compiled: bool, device: str) -> Arm:
    """As nanoGPT's train.py does: its model, its optimizer, clipping at 1."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shape = {"n_layer": model.num_layers, "n_head": model.num_heads, "n_embd": model.d_model}
    config = module.GPTConfig(
        block_size=model.context_length, vocab_size=model.vocab_size, dropout=0.0, bias=False, **shape
    )
    gpt = module.GPT(config).to(device)
    optimizer = gpt.configure_optimizers(DECAY, LR, BETAS, device)
    forward = torch.compile(gpt) if compiled else gpt
    x, y = windows(model, batch_size, device)

    def arm() -> None:
        with autocast(device):
            _, loss = forward(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return arm


def steps(options: argparse.Namespace) -> dict[str, Any]:
    """Training steps beside nanoGPT's."""
    table = {}
    for name, (model, batch_size) in STEPS[options.device].items():
        arms = {
            "ours": our_step(model, batch_size, False, options),
            "ours compiled": our_step(model, batch_size, True, options),
            "nanoGPT": nanogpt_step(options.nanogpt, model, batch_size, False, options.device),
            "nanoGPT compiled": nanogpt_step(options.nanogpt, model, batch_size, True, options.device),
        }
        found = compared(race(arms, options), ("ours", "ours compiled"), ("nanoGPT", "nanoGPT compiled"))
        flops = flops_per_token(model) * batch_size * model.context_length
        table[name] = found | {
            "parameters": int(count_parameters(model)),
            "flops_per_s": round(flops / (found["ms"][found["ours"]] / 1e3)),
        }
        _forget()
    return table


def modules(options: argparse.Namespace) -> dict[str, Any]:
    """K = 1 of our population beside an ordinary nn.Module with torch's fused AdamW."""
    from tests.bench.plain_model import PlainLM

    table = {}
    for name, (model, batch_size) in MODULES.items():
        for compiled in (False, True):
            plain = PlainLM(model).to(options.device)
            optimizer = torch.optim.AdamW(plain.parameters(), LR, BETAS, weight_decay=DECAY, fused=True)
            forward = torch.compile(plain) if compiled else plain
            x, y = windows(model, batch_size, options.device)

            def peer() -> None:
                with autocast(options.device):
                    loss = forward(x, y)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(plain.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            arms = {"ours": our_step(model, batch_size, compiled, options), "nn.Module": peer}
            table[f"d{name} {'compiled' if compiled else 'eager'}"] = compared(
                race(arms, options), ("ours",), ("nn.Module",)
            )
            _forget()
    return table


def losses(options: argparse.Namespace) -> dict[str, Any]:
    """Head and loss, forward and backward: time, and the most memory held beyond the inputs."""
    table = {}
    for name, (positions, width, vocabulary) in LOSSES.items():
        dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
        made = {"device": options.device, "dtype": dtype}
        hidden = torch.randn(positions, width, **made).requires_grad_()
        weight = (0.05 * torch.randn(vocabulary, width, **made)).requires_grad_()
        targets = torch.randint(vocabulary, (positions,), device=options.device)
        chunked = torch.nn.LinearCrossEntropyOptions() if hasattr(torch.nn, "LinearCrossEntropyOptions") else None
        losses_of: dict[str, Callable[[], Tensor]] = {
            "ours": lambda: linear_cross_entropy(hidden, weight, targets),
            "F.cross_entropy": lambda: F.cross_entropy(F.linear(hidden, weight), targets),
        }
        if chunked is not None:
            losses_of["F.linear_cross_entropy"] = lambda: F.linear_cross_entropy(
                hidden, weight, targets, options=chunked
            )
        if options.device == "cuda" and importlib.util.find_spec("liger_kernel"):
            from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

            liger = LigerFusedLinearCrossEntropyLoss()
            losses_of["Liger"] = lambda: liger(weight, hidden, targets)

        def both_ways(loss: Callable[[], Tensor]) -> Arm:
            def arm() -> None:
                hidden.grad = weight.grad = None
                loss().backward()

            return arm

        arms = {one: both_ways(loss) for one, loss in losses_of.items()}
        found = compared(race(arms, options), ("ours",), tuple(one for one in arms if one != "ours"))
        logits_bytes = positions * vocabulary * hidden.element_size()
        peaks = {one: peak_bytes(arm, options.device) for one, arm in arms.items()}
        table[name] = found | {"peak_over_logits": {one: round(peak / logits_bytes, 3) for one, peak in peaks.items()}}
        _forget()
    return table


def peak_bytes(arm: Arm, device: str) -> int:
    """The most that `arm` holds beyond what is there before, gradients included."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        arm()
        return torch.cuda.max_memory_allocated() - before
    arm()
    with torch.profiler.profile(profile_memory=True) as profile:
        arm()
    events = [one for one in profile.profiler.kineto_results.events() if one.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def updates(options: argparse.Namespace) -> dict[str, Any]:
    """Clip and AdamW of K models of 10M parameters."""
    table = {}
    model = STEPS[options.device]["10M"][0]
    for slots in (1, 2) if options.device == "cpu" else (1, 4, 8):
        population = Population.of(TransformerLM(model, slots).to(options.device))
        grads = {name: torch.randn_like(p) for name, p in population.model.named_parameters()}
        rows = [adamw_coefficients(LR, BETAS, 1e-8, DECAY, 10)] * slots
        c = Coefficients(*torch.tensor(rows, dtype=torch.float64).T)
        if options.device == "cuda":
            c = Coefficients(*(one.float().cuda() for one in map(torch.as_tensor, c)))
        max_norms = torch.full((slots,), CLIP, device=options.device)
        peers = []
        for k in range(slots):
            parameters = [torch.nn.Parameter(p.detach()[k].clone()) for p in population.model.parameters()]
            for parameter, grad in zip(parameters, grads.values(), strict=True):
                parameter.grad = grad[k].clone()
            peers.append((parameters, torch.optim.AdamW(parameters, LR, BETAS, weight_decay=DECAY, fused=True)))

        def ours() -> None:
            population.update(grads, c, max_norms)
            torch._foreach_mul_(list(grads.values()), 3.0)  # else the second call would have nothing to clip

        def theirs() -> None:
            for parameters, optimizer in peers:
                torch.nn.utils.clip_grad_norm_(parameters, CLIP, foreach=True)
                optimizer.step()
                torch._foreach_mul_([p.grad for p in parameters], 3.0)

        rounds = race({"ours": ours, "torch": theirs}, options)
        parameters_of_all = slots * int(count_parameters(model))
        median_s = statistics.median(rounds["ours"])
        table[f"K{slots}"] = compared(rounds, ("ours",), ("torch",)) | {
            "bytes_per_s_at_30_per_parameter": round(30 * parameters_of_all / median_s)
        }
        _forget()
    return table


def compiles(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds to the first compiled step: with an empty cache, and in processes that find it filled."""
    cold, warm = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
            command = [sys.executable, __file__, "--first-step", "--device", options.device]
            for times in (cold, warm):
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                times.append(json.loads(done.stdout.splitlines()[-1]))
    found = {"cold_s": statistics.median(cold), "second_process_s": statistics.median(warm)}
    return found | {"share": round(found["second_process_s"] / found["cold_s"], 3), "cold": cold, "second": warm}


def first_step(device: str) -> float:
    """Seconds from a trainer's making to the end of its first compiled step and the evaluation after it."""
    model, batch_size = STEPS["cpu"]["1.3M"]
    train = TrainConfig(batch_size=batch_size, steps=1, eval_windows=16, compile=True, device=device)
    ids = np.random.default_rng(0).integers(0, model.vocab_size, 2**16, dtype=np.uint16)
    began = time.perf_counter()
    list(Trainer([RunSpec(model=model, train=train)], Tokens.of(ids, ids[: 2**13], model.vocab_size)))
    return round(time.perf_counter() - began, 2)


def _forget() -> None:
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    if not __package__ and str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    main()
