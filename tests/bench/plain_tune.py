"""The same sweep as people write it with Ray Tune alone; `tests/bench/sweep.py` runs it beside ours.

An ordinary script of its own, which imports nothing of this project: a model of plain torch modules, a function
trainable, OptunaSearch, ASHAScheduler, and Tune's defaults (result files on, a fresh actor for every trial). Each trial
has one CPU and one thread. Model, batch, schedule, clipping, validation windows and space are those of the sweep it is
compared with; that one's AdamW and initial values differ a little, at the same cost.

Shapes: B batch, T time, D width, H heads, F ffn width, V vocabulary, E validation windows.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.nn.functional as F
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor, nn

V, D, LAYERS, H, FFN, T, B, E = 2048, 128, 4, 4, 352, 128, 16, 64
STD = 0.02
SPACE = {
    "lr": tune.loguniform(3e-4, 3e-2),
    "beta1": tune.uniform(0.8, 0.98),
    "beta2": tune.choice([0.9, 0.95, 0.99, 0.999]),
    "warmup_fraction": tune.uniform(0.0, 0.2),
}


class Block(nn.Module):
    """Causal attention with rotary positions and SwiGLU, both pre-norm: [B, T, D] -> [B, T, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.RMSNorm(D, eps=1e-5), nn.RMSNorm(D, eps=1e-5)
        self.q, self.k, self.v, self.out = (nn.Linear(D, D, bias=False) for _ in range(4))
        self.w1, self.w3 = nn.Linear(D, FFN, bias=False), nn.Linear(D, FFN, bias=False)
        self.w2 = nn.Linear(FFN, D, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        h = self.ln1(x)
        q, k, v = (proj(h).view(*h.shape[:2], H, D // H).transpose(1, 2) for proj in (self.q, self.k, self.v))
        heads = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).reshape(x.shape))
        h = self.ln2(x)
        return torch.add(x, self.w2(F.silu(self.w1(h)) * self.w3(h)))


class Model(nn.Module):
    """Decoder-only Transformer of 1.33M parameters, head untied: tokens [B, T] -> logits [B, T, V]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_final = nn.RMSNorm(D, eps=1e-5)
        self.head = nn.Linear(D, V, bias=False)
        angles = torch.arange(T)[:, None] * 10_000.0 ** (-torch.arange(0, D // H, 2) / (D // H))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                residual = name.endswith(("out.weight", "w2.weight"))
                nn.init.normal_(weight, std=STD / math.sqrt(2 * LAYERS) if residual else STD)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits: Tensor = self.head(self.ln_final(x))
        return logits


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on x [B, H, T, D/H], in pairs (i, i + half)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def windows(tokens: np.ndarray, starts: np.ndarray) -> tuple[Tensor, Tensor]:
    """Windows x and the next tokens y at these starts, both [len(starts), T]."""
    block = torch.from_numpy(tokens[starts[:, None] + np.arange(T + 1)].astype(np.int64))
    return block[:, :-1], block[:, 1:]


def mean_loss(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy in nats of y [B, T] given x [B, T]."""
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


@torch.no_grad()
def evaluate(model: Model, x: Tensor, y: Tensor) -> float:
    """Mean loss over the windows x, y [E, T], B at a time."""
    parts = [mean_loss(model, *some) for some in zip(torch.split(x, B), torch.split(y, B), strict=True)]
    return torch.stack(parts).mean().item()


def learning_rate(step: int, steps: int, lr: float, warmup_fraction: float) -> float:
    """Of update `step`, counted from 1: linear warm-up, then a cosine down to lr / 10."""
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return lr * step / warmup
    return lr * (0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))


def train(
    config: dict[str, Any], train_tokens: np.ndarray, val_tokens: np.ndarray, steps: int, report_every: int
) -> None:
    """One trial; every report says where its time went: Unix seconds, and seconds of training and of evaluation."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batches = np.random.default_rng(0)
    val = windows(val_tokens, np.arange(E) * ((len(val_tokens) - 1) // E))
    model = Model()
    betas = (config["beta1"], config["beta2"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], betas=betas, weight_decay=0.1)
    train_s = eval_s = 0.0
    began_at, began = time.time(), time.perf_counter()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, config["lr"], config["warmup_fraction"])
        loss = mean_loss(model, *windows(train_tokens, batches.integers(len(train_tokens) - T, size=B)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % report_every == 0 or step == steps:
            trained = time.perf_counter()
            val_loss = evaluate(model, *val)
            evaluated = time.perf_counter()
            train_s += trained - began
            eval_s += evaluated - trained
            times = {"train_s": train_s, "eval_s": eval_s, "began_at": began_at, "ended_at": time.time()}
            tune.report({"step": step, "val_loss": val_loss, **times})
            began = time.perf_counter()  # how long Tune took over the report is not training


def main() -> None:
    """Run the sweep and write one JSON line per trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("trials", "steps", "report-every", "grace-steps", "reduction-factor", "seed", "cpus"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("train", "val", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    # local: never a cluster that somebody else started on this machine
    ray.init(address="local", num_cpus=options.cpus, include_dashboard=False)
    trainable = tune.with_parameters(
        train,
        train_tokens=np.load(options.train),
        val_tokens=np.load(options.val),
        steps=options.steps,
        report_every=options.report_every,
    )
    asha = ASHAScheduler(
        time_attr="step",
        max_t=options.steps,
        grace_period=options.grace_steps,
        reduction_factor=options.reduction_factor,
    )
    results = tune.Tuner(
        trainable,
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            num_samples=options.trials,
            search_alg=OptunaSearch(seed=options.seed),
            scheduler=asha,
        ),
        run_config=tune.RunConfig(name="plain", storage_path=str(Path("ray_results").resolve())),
    ).fit()
    if results.errors:
        raise results.errors[0]
    names = ("step", "val_loss", "train_s", "eval_s", "began_at", "ended_at")
    last_rows = [results[n].metrics or {} for n in range(len(results))]
    options.out.write_text("".join(json.dumps({name: row[name] for name in names}) + "\n" for row in last_rows))


if __name__ == "__main__":
    main()
