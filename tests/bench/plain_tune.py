"""The same sweep as people write it with Ray Tune alone; `tests/bench/sweep.py` runs it beside ours.

An ordinary script: a model of plain torch modules, torch's AdamW in its fastest form, a function trainable,
OptunaSearch, ASHAScheduler, and Tune's defaults (result files on, a fresh actor for every trial). Each trial has one
CPU and one thread. Its trials are those of the sweep that it is compared with: the same space, initial values, batches,
schedule and validation windows, which it takes from lmcore, so that two trials of one setting differ by
rounding alone. With --nanogpt the model is nanoGPT's, with its own initial values and its tied head.

Shapes: B batch, T time, D width, H heads, F ffn width, V vocabulary, E validation windows.
"""

import argparse
import json
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

from lmcore.data import get_batch, validation_windows
from lmcore.init import init_tensor
from lmcore.schedule import cosine_lr
from tests.bench.nanogpt import nanogpt

V, D, LAYERS, H, FFN, T, B, E = 2048, 128, 4, 4, 352, 128, 16, 64
SEED = 0
NAMES = {"embedding": "token_embeddings", "head": "lm_head", "blocks": "layers", "out": "attn.output_proj"}
NAMES |= {name: f"attn.{name}_proj" for name in "qkv"} | {name: f"ffn.{name}" for name in ("w1", "w2", "w3")}
"""lmcore's names of the modules, of which those of the initial values are made."""
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
        with torch.no_grad():
            for name, weight in self.named_parameters():
                known_as = ".".join(NAMES.get(part, part) for part in name.split("."))
                weight.copy_(init_tensor(known_as, weight.shape, SEED, LAYERS))

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


def mean_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy in nats of y [B, T] given x [B, T]."""
    if isinstance(model, Model):
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    loss: Tensor = model(x, y)[1]
    return loss


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean loss over the windows x, y [E, T], B at a time."""
    parts = [mean_loss(model, *some) for some in zip(torch.split(x, B), torch.split(y, B), strict=True)]
    return torch.stack(parts).mean().item()


def train(
    config: dict[str, Any],
    train_tokens: np.ndarray,
    val_tokens: np.ndarray,
    steps: int,
    report_every: int,
    folder: Path | None = None,
) -> None:
    """One trial; every report says where its time went: Unix seconds, and seconds of training and of evaluation.

    `folder` is that of nanoGPT's model.py; without it the model is `Model`.
    """
    torch.set_num_threads(1)
    val = validation_windows(val_tokens, T, E)
    torch.manual_seed(SEED)
    shape = {"layers": LAYERS, "heads": H, "width": D, "context": T, "vocabulary": V}
    model: nn.Module = Model() if folder is None else nanogpt(folder, **shape)
    betas = (config["beta1"], config["beta2"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], betas=betas, weight_decay=0.1, fused=True)
    warmup = round(config["warmup_fraction"] * steps)
    train_s = eval_s = 0.0
    began_at, began = time.time(), time.perf_counter()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(step, config["lr"], config["lr"] / 10, warmup, steps)
        loss = mean_loss(model, *get_batch(train_tokens, B, T, "cpu", SEED, step - 1))
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
    parser.add_argument("--nanogpt", metavar="DIR", type=Path, help="a checkout of nanoGPT, whose model to train")
    options = parser.parse_args()
    # local: never a cluster that somebody else started on this machine
    ray.init(address="local", num_cpus=options.cpus, include_dashboard=False)
    trainable = tune.with_parameters(
        train,
        train_tokens=np.load(options.train),
        val_tokens=np.load(options.val),
        steps=options.steps,
        report_every=options.report_every,
        folder=options.nanogpt,
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
