"""How fast the core is on a CPU, compared with its peers: `python tests/bench/core.py --nanogpt DIR [--rows step,...]`.

Rows:
    engines    training steps as a sweep runs them, one process of one thread per core, against nanoGPT's model, the
               same model as an ordinary nn.Module, and Hugging Face's Llama
    step       training steps, against nanoGPT's model.py (read from DIR) with its own optimizer settings
    module     training steps with K = 1, against the same model as an ordinary nn.Module with torch's AdamW
    kernels    parts of the model by hand, forward and backward, against their plain forms; with --threads 1
    loss       head and loss, forward and backward, against torch's
    update     clipping and AdamW of K models of 10M parameters, against torch's
    compile    seconds to the first compiled step, with an empty cache and in a second process
    shares     the shares of a run's time that are evaluation and batches

and forms of the update, and designs that were not chosen:
    optimizer  training steps with the textbook AdamW, against its fused form; with --threads 1, as in a sweep
    muon       training steps with Muon, against the same steps with AdamW; with --threads 1, as in a sweep
    program    training steps, against the whole step as one compiled program
    layout     training steps and updates of K slots, against arenas [K, P] in place of tensors [K, ...]

The arms of a row take turns in one process. A ratio is the median over rounds of the peer's time over ours: above 1,
ours is faster. results/core-cpu.json is written after each row, and keeps rows that are not run. GPUs: gpu.sh.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout is enough, nothing need be installed

import numpy as np
import torch

from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.cores import cores, processor
from lmcore.corpus.tokens import Tokens
from lmcore.device import cpu_bfloat16, resolve_run, this_machine
from lmcore.measure.peak import matmul_flops_per_s
from lmcore.params import count_parameters, flops_per_token
from lmcore.profile.breakdown import BATCHES, Probe
from lmcore.runfile.run_file import load_run
from lmcore.trainer import Trainer
from tests.bench.alternative_arms import layout_steps, layout_updates, whole_step
from tests.bench.core_arms import (
    Dtype,
    adamw_steps,
    loss_arms,
    module_step,
    muon_steps,
    nanogpt_step,
    our_step,
    our_update,
    peak_bytes,
    sized,
    torch_update,
)
from tests.bench.kernel_arms import kernel_arms
from tests.bench.per_core import race_per_core
from tests.bench.race import compared, forget, race

ROOT = Path(__file__).resolve().parents[2]


STEPS: dict[str, tuple[ModelConfig, int]] = {  # model, B
    "1.3M": (sized(128, 4, 4, 2048, 128), 16),
    "10M": (sized(256, 7, 8, 8192, 256), 4),
}
ENGINES = {"1.3M": STEPS["1.3M"]}
MODULES = {str(d): (sized(d, 4, 4, 2048, 128), 8) for d in (32, 64, 128)}
MUONS = {f"d{d}": (sized(d, 4, 4, 2048, 128), 16) for d in (64, 128)}
LOSSES = {  # N, D, V
    "V2048": (2048, 128, 2048),
    "V8192": (2048, 256, 8192),
    "V50304": (1024, 256, 50304),
    "V50304, 4096 positions": (4096, 256, 50304),
}


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", metavar="DIR", type=Path, help="a checkout of nanoGPT; without it no `step` row")
    parser.add_argument(
        "--rows", default="engines,step,module,kernels,loss,update,compile,shares,optimizer,muon,program,layout"
    )
    parser.add_argument("--threads", type=int, default=cores(), help="CPU threads of every arm")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--first-step", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_step:
        print(json.dumps(first_step()))
        return
    torch.set_num_threads(options.threads)
    out = Path(__file__).parent / "results" / "core-cpu.json"
    result: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    measures = {
        "engines": engines,
        "step": steps,
        "module": modules,
        "kernels": kernels,
        "loss": losses,
        "update": updates,
        "compile": compiles,
        "shares": shares,
        "optimizer": optimizers,
        "muon": muons,
        "program": programs,
        "layout": layouts,
    }
    for row in options.rows.split(",") if options.rows else measures:
        if row == "step" and options.nanogpt is None:
            print("step: skipped, it needs --nanogpt DIR")
            continue
        measured = {row: {"about": about(options), "measured": measures[row](options)}}
        result = {name: (result | measured)[name] for name in measures if name in result or name == row}
        print(json.dumps({row: result[row]["measured"]}, indent=2), flush=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions and command of a row."""
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    # The results themselves change as rows are written.
    changed = ["git", "-C", str(ROOT), "diff", "--quiet", "HEAD", "--", "lmcore", "tests/bench/*.py"]
    changes = "+changes" if subprocess.run(changed, check=False).returncode else ""
    train = TrainConfig(device="cpu", dtype="float32", threads=options.threads)
    return {
        "command": f"python tests/bench/core.py --threads {options.threads} --nanogpt DIR",
        "commit": (head.stdout.strip() or "unknown") + changes,
        "hardware": processor() or "unknown",
        "cores": cores(),
        "threads": options.threads,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "matmul_flops_per_s": round(matmul_flops_per_s(train)),
    }


def engines(options: argparse.Namespace) -> dict[str, Any]:
    """Training steps of one process per core with one thread each."""
    table = {}
    for name, (model, batch_size) in ENGINES.items():
        found = race_per_core(model, batch_size, options.nanogpt, cores(), options.rounds)
        table[name] = found | {"parameters": int(count_parameters(model))}
    return table


def steps(options: argparse.Namespace) -> dict[str, Any]:
    """Training steps, against nanoGPT's."""
    table = {}
    for name, (model, batch_size) in STEPS.items():
        arms = {
            "ours": our_step(model, batch_size, False, "cpu", options.threads),
            "ours compiled": our_step(model, batch_size, True, "cpu", options.threads),
            "nanoGPT": nanogpt_step(options.nanogpt, model, batch_size, False, "cpu"),
            "nanoGPT compiled": nanogpt_step(options.nanogpt, model, batch_size, True, "cpu"),
        }
        found = compared(race(arms, options.rounds, "cpu"), ("ours", "ours compiled"), ("nanoGPT", "nanoGPT compiled"))
        flops = flops_per_token(model) * batch_size * model.context_length
        table[name] = found | {
            "parameters": int(count_parameters(model)),
            "flops_per_s": round(flops / (found["ms"][found["ours"]] / 1e3)),
        }
        if cpu_bfloat16():
            half = {
                "ours": our_step(model, batch_size, False, "cpu", options.threads, "bfloat16"),
                "ours compiled": our_step(model, batch_size, True, "cpu", options.threads, "bfloat16"),
            }
            peers = {arm: arms[arm] for arm in ("nanoGPT", "nanoGPT compiled")}
            table[f"{name}, ours in bfloat16"] = compared(
                race(half | peers, options.rounds, "cpu"), tuple(half), tuple(peers)
            )
        forget()
    return table


def modules(options: argparse.Namespace) -> dict[str, Any]:
    """A population of K = 1, against an ordinary nn.Module."""
    table = {}
    for name, (model, batch_size) in MODULES.items():
        for compiled in (False, True):
            arms = {
                "ours": our_step(model, batch_size, compiled, "cpu", options.threads),
                "nn.Module": module_step(model, batch_size, compiled, "cpu"),
            }
            times = race(arms, options.rounds, "cpu")
            table[f"d{name} {'compiled' if compiled else 'eager'}"] = compared(times, ("ours",), ("nn.Module",))
            forget()
    return table


def kernels(options: argparse.Namespace) -> dict[str, Any]:
    """Parts of the model by hand, forward and backward, against their plain forms."""
    table = {}
    for model, batch_size in (*MODULES.values(), STEPS["1.3M"]):
        shape = f"d = {model.d_model}, {batch_size} windows of {model.context_length}"
        table[shape] = {
            name: compared(race(arms, options.rounds, "cpu"), ("by hand",), ("plain",))
            for name, arms in kernel_arms(model, batch_size).items()
        }
    return table


def losses(options: argparse.Namespace) -> dict[str, Any]:
    """Head and loss, forward and backward: time, and peak memory beyond the inputs, gradients included."""
    table = {}
    for name, (positions, width, vocabulary) in LOSSES.items():
        arms = loss_arms(positions, width, vocabulary, "cpu")
        ours = tuple(arm for arm in arms if arm.startswith("ours"))
        found = compared(race(arms, options.rounds, "cpu"), ours, tuple(arm for arm in arms if arm not in ours))
        size = torch.float32.itemsize
        peaks = {arm: peak_bytes(arms[arm], "cpu") / (positions * vocabulary * size) for arm in arms}
        gradients = (positions + vocabulary) * width / (positions * vocabulary)
        table[name] = found | {
            "shape": {"positions": positions, "width": width, "vocabulary": vocabulary},
            "peak_over_logits": {arm: round(peak, 3) for arm, peak in peaks.items()},
            "peak_without_gradients_over_logits": {arm: round(peak - gradients, 3) for arm, peak in peaks.items()},
        }
        forget()
    return table


def updates(options: argparse.Namespace) -> dict[str, Any]:
    """Clipping and AdamW of K models of 10M parameters, against torch's."""
    table = {}
    model = STEPS["10M"][0]
    for slots in (1, 2):
        arms = {
            "ours": our_update(model, slots, "cpu"),
            "torch": torch_update(model, slots, "cpu"),
        }
        found = compared(race(arms, options.rounds, "cpu"), ("ours",), ("torch",))
        rate = 30 * slots * int(count_parameters(model)) / (found["ms"][found["ours"]] / 1e3)
        table[f"K{slots}"] = found | {"bytes_per_s_at_30_per_parameter": round(rate)}
        forget()
    return table


def compiles(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds to the first compiled step: with an empty cache, and in a second process that finds it filled."""
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
            command = [sys.executable, __file__, "--first-step"]
            for times in (cold, warm):
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                times.append(json.loads(done.stdout.splitlines()[-1]))
    found = {"cold_s": statistics.median(cold), "second_process_s": statistics.median(warm)}
    return found | {"share": round(found["second_process_s"] / found["cold_s"], 3), "cold": cold, "second": warm}


def first_step() -> float:
    """Seconds from the construction of a trainer to the end of its first compiled step and the evaluation after it."""
    model, batch_size = STEPS["1.3M"]
    train = TrainConfig(batch_size=batch_size, steps=1, eval_windows=16, compile=True, device="cpu")
    ids = np.random.default_rng(0).integers(0, model.vocab_size, 2**16, dtype=np.uint16)
    began = time.perf_counter()
    list(Trainer([RunSpec(model=model, train=train)], Tokens.of(ids, ids[: 2**13], model.vocab_size)))
    return round(time.perf_counter() - began, 2)


def shares(options: argparse.Namespace) -> dict[str, Any]:
    """Shares of the time of a run of configs/quick.yaml that are evaluation and batches, by size."""
    table = {}
    for size in ("xs", "s"):
        run, _ = load_run(str(ROOT / "configs" / "quick.yaml"), size)
        run = run.model_copy(update={"train": run.train.model_copy(update={"device": "cpu"})})
        run = resolve_run(run, this_machine())
        ids = np.random.default_rng(0).integers(0, run.model.vocab_size, 2**18, dtype=np.uint16)
        probe = Probe(run, 1, Tokens.of(ids, ids[: 2**14], run.model.vocab_size))
        evaluation = [probe.time_updates(3.0).evaluation_share(run.train.eval_every) for _ in range(options.rounds)]
        breakdown = probe.break_down()
        table[size] = {
            "evaluation": round(statistics.median(evaluation), 4),
            "evaluation_range": [round(min(evaluation), 4), round(max(evaluation), 4)],
            "batches": round(breakdown.total_s(BATCHES) / breakdown.update_s, 4),
            "eval_every": run.train.eval_every,
            "eval_windows": run.train.eval_windows,
        }
    return table


def optimizers(options: argparse.Namespace) -> dict[str, Any]:
    """Steps with the textbook AdamW of lmcore.optim, against the same steps with its fused form."""
    table = {}
    for name, (model, batch_size) in {"d64": MODULES["64"], **STEPS}.items():
        variants: list[tuple[str, bool, Dtype]] = [("eager", False, "float32"), ("compiled", True, "float32")]
        if cpu_bfloat16():
            variants.append(("bfloat16", False, "bfloat16"))
        for variant, compiled, dtype in variants:
            arms = adamw_steps(model, batch_size, compiled, options.threads, dtype)
            table[f"{name} {variant}"] = compared(race(arms, options.rounds, "cpu"), ("textbook",), ("fused",))
            forget()
    return table


def muons(options: argparse.Namespace) -> dict[str, Any]:
    """Steps with Muon, against the same steps with AdamW: the ratio is below 1 by what Muon costs."""
    table = {}
    for name, (model, batch_size) in MUONS.items():
        for compiled in (False, True):
            arms = muon_steps(model, batch_size, compiled, options.threads)
            found = compared(race(arms, options.rounds, "cpu"), ("Muon",), ("AdamW",))
            table[f"{name} {'compiled' if compiled else 'eager'}"] = found
            forget()
    return table


def programs(options: argparse.Namespace) -> dict[str, Any]:
    """K = 1, compiled as in training, against the whole step as one program."""
    table = {}
    for name, (model, batch_size) in MODULES.items():
        arms = {
            "ours": our_step(model, batch_size, True, "cpu", options.threads),
            "one program": whole_step(model, batch_size),
        }
        times = race(arms, options.rounds, "cpu")
        table[f"d{name}"] = compared(times, ("ours",), ("one program",))
        forget()
    return table


def layouts(options: argparse.Namespace) -> dict[str, Any]:
    """Steps of K slots, and updates alone: tensors [K, ...] against arenas [K, P]."""
    table = {}
    small, batch_size = MODULES["64"]
    for slots in (1, 2, 4):
        for name, arms in (
            (f"step d64 K{slots}", layout_steps(small, batch_size, slots)),
            (f"update d64 K{slots}", layout_updates(small, slots)),
            (f"update 10M K{slots}", layout_updates(STEPS["10M"][0], slots)),
        ):
            table[name] = compared(race(arms, options.rounds, "cpu"), ("tensors",), ("arenas",))
        forget()
    return table


if __name__ == "__main__":
    main()
