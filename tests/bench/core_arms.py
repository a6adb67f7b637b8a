"""The arms that `tests/bench/core.py` races: each function returns one, which does its work once when called."""

import functools
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import lmcore.init
from lmcore.config import ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens
from lmcore.loss import linear_cross_entropy
from lmcore.model import TransformerLM
from lmcore.optim import adamw_coefficients
from lmcore.population.population import Population
from lmcore.trainer import Trainer
from tests.bench.nanogpt import nanogpt
from tests.bench.plain_model import PlainLM
from tests.bench.race import Arm

BETAS, DECAY, CLIP, LR = (0.9, 0.95), 0.1, 1.0, 1e-3
GROWTH = 3.0  # of gradients that have been clipped, so that the next call has something to clip

Dtype = Literal["float32", "bfloat16"]
Optimizer = Literal["adamw", "muon"]


def dtype_on(device: str) -> Dtype:
    """Type of matrix products: bfloat16 on a GPU, float32 on a CPU."""
    return "bfloat16" if device == "cuda" else "float32"


def sized(d: int, layers: int, heads: int, vocab: int, context: int) -> ModelConfig:
    """A model whose feed-forward network is as large as nanoGPT's (3 D F = 8 D^2, F a multiple of 16)."""
    d_ff = round(8 * d / 3 / 16) * 16
    return ModelConfig(
        d_model=d, num_layers=layers, num_heads=heads, d_ff=d_ff, vocab_size=vocab, context_length=context
    )


def step_trainer(
    model: ModelConfig,
    batch_size: int,
    compiled: bool,
    device: str,
    threads: int,
    dtype: Dtype | None = None,
    slots: int = 1,
    graphs: bool = True,
    optimizer: Optimizer = "adamw",
) -> Trainer:
    """A trainer of runs that never end; by default in the dtype of the device. `graphs` matters on a GPU only."""
    train = TrainConfig(
        batch_size=batch_size, steps=10**9, eval_every=10**9, compile=compiled, threads=threads
    ).model_copy(
        update={"device": device, "dtype": dtype or dtype_on(device), "cuda_graphs": graphs and device == "cuda"}
    )
    ids = np.random.default_rng(0).integers(0, model.vocab_size, 2**18, dtype=np.uint16)
    run = RunSpec(model=model, train=train, optim=OptimConfig(name=optimizer))
    return Trainer([run] * slots, Tokens.of(ids, ids[: 2**14], model.vocab_size))


@contextmanager
def weights_made_once() -> Iterator[None]:
    """Slots of one seed are drawn once: 64 times 10M weights take a CPU longer than it takes a GPU to time them."""
    before = lmcore.init.init_tensor
    lmcore.init.init_tensor = functools.cache(before)
    try:
        yield
    finally:
        lmcore.init.init_tensor = before


def trainer_step(trainer: Trainer, updates: int = 1) -> Arm:
    """Updates of all slots of `trainer`, including their batches and schedules; a GPU is waited for after the last."""
    slots = {k: slot for k, slot in enumerate(trainer.slots) if slot is not None}

    def arm() -> None:
        trainer._update(slots, updates, batched=True)
        for slot in slots.values():
            slot.step += updates

    return arm


def adamw_steps(model: ModelConfig, batch_size: int, compiled: bool, threads: int, dtype: Dtype) -> dict[str, Arm]:
    """Our step on a CPU with either form of AdamW."""
    arms = {}
    for name, fused in (("textbook", False), ("fused", True)):
        trainer = step_trainer(model, batch_size, compiled, "cpu", threads, dtype)
        trainer._all.fused = fused
        arms[name] = trainer_step(trainer)
    return arms


def muon_steps(model: ModelConfig, batch_size: int, compiled: bool, threads: int) -> dict[str, Arm]:
    """Our step on a CPU with Muon and with AdamW."""
    shape = model, batch_size, compiled, "cpu", threads
    return {
        "Muon": trainer_step(step_trainer(*shape, optimizer="muon")),
        "AdamW": trainer_step(step_trainer(*shape, optimizer="adamw")),
    }


def our_step(
    model: ModelConfig, batch_size: int, compiled: bool, device: str, threads: int, dtype: Dtype | None = None
) -> Arm:
    """An update of a trainer with K = 1; by default in the dtype of the device."""
    return trainer_step(step_trainer(model, batch_size, compiled, device, threads, dtype))


def repeated(arm: Arm, times: int) -> Arm:
    """`arm`, called so many times."""

    def several() -> None:
        for _ in range(times):
            arm()

    return several


def windows(model: ModelConfig, batch_size: int, device: str) -> tuple[Tensor, Tensor]:
    """x, y [B, T]."""
    tokens = torch.randint(model.vocab_size, (batch_size, model.context_length + 1), device=device)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def autocast(device: str) -> torch.autocast:
    """bfloat16 products on a GPU, float32 on a CPU."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def nanogpt_step(folder: Path, model: ModelConfig, batch_size: int, compiled: bool, device: str) -> Arm:
    """A step as in nanoGPT's train.py: its model, its optimizer, clipping at 1."""
    gpt = nanogpt(
        folder,
        layers=model.num_layers,
        heads=model.num_heads,
        width=model.d_model,
        context=model.context_length,
        vocabulary=model.vocab_size,
    ).to(device)
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


def module_step(model: ModelConfig, batch_size: int, compiled: bool, device: str) -> Arm:
    """The same model as an ordinary nn.Module, with torch's fused AdamW."""
    plain = PlainLM(model).to(device)
    forward = torch.compile(plain) if compiled else plain
    x, y = windows(model, batch_size, device)
    return _torch_step(plain, lambda: forward(x, y), device)


def llama_step(model: ModelConfig, batch_size: int, compiled: bool, device: str) -> Arm:
    """The same model as Hugging Face's Llama, with its own loss and torch's fused AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(  # type: ignore[call-arg]
        vocab_size=model.vocab_size,
        hidden_size=model.d_model,
        intermediate_size=model.d_ff,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.kv_heads,
        max_position_embeddings=model.context_length,
        rms_norm_eps=model.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        tie_word_embeddings=model.tie_embeddings,
        attn_implementation="sdpa",
        use_cache=False,
    )
    llama: torch.nn.Module = LlamaForCausalLM(config)
    llama = llama.to(device)
    forward = torch.compile(llama) if compiled else llama
    x, _ = windows(model, batch_size, device)

    # The loss shifts the labels itself, so these are T - 1 targets a window rather than T.
    return _torch_step(llama, lambda: forward(input_ids=x, labels=x).loss, device)


def _torch_step(module: torch.nn.Module, loss: Callable[[], Tensor], device: str) -> Arm:
    """A step with torch's clipping and fused AdamW."""
    optimizer = torch.optim.AdamW(module.parameters(), LR, BETAS, weight_decay=DECAY, fused=True)

    def arm() -> None:
        with autocast(device):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return arm


def loss_arms(positions: int, width: int, vocabulary: int, device: str) -> dict[str, Arm]:
    """Head and loss, forward and backward, by whose code it is."""
    made = {"device": device, "dtype": getattr(torch, dtype_on(device))}
    hidden = torch.randn(positions, width, **made).requires_grad_()
    weight = (0.05 * torch.randn(vocabulary, width, **made)).requires_grad_()
    targets = torch.randint(vocabulary, (positions,), device=device)
    losses: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: linear_cross_entropy(hidden, weight, targets),
        "F.cross_entropy": lambda: F.cross_entropy(F.linear(hidden, weight), targets),
    }
    if device == "cuda":
        losses["ours fused"] = lambda: linear_cross_entropy(hidden, weight, targets, fused=True)
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):  # since torch 2.13
        chunked = torch.nn.LinearCrossEntropyOptions()
        losses["F.linear_cross_entropy"] = lambda: F.linear_cross_entropy(hidden, weight, targets, options=chunked)
    if device == "cuda" and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # type: ignore[import-not-found]

        liger = LigerFusedLinearCrossEntropyLoss()
        losses["Liger"] = lambda: liger(weight, hidden, targets)

    def both_ways(loss: Callable[[], Tensor]) -> Arm:
        def arm() -> None:
            hidden.grad = weight.grad = None
            loss().backward()  # type: ignore[no-untyped-call]

        return arm

    return {name: both_ways(loss) for name, loss in losses.items()}


def peak_bytes(arm: Arm, device: str) -> int:
    """Peak memory of `arm` beyond what is allocated before, gradients included."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        arm()
        return torch.cuda.max_memory_allocated() - before
    arm()
    with torch.profiler.profile(profile_memory=True) as profile:
        arm()
    events = [one for one in profile.profiler.kineto_results.events() if one.name() == "[memory]"]
    held = lowest = highest = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        lowest = min(lowest, held)  # the gradients of the call before may or may not be seen to be freed
        highest = max(highest, held - lowest)
    return highest


def our_update(model: ModelConfig, slots: int, device: str, compiled: bool = False) -> Arm:
    """Clipping and AdamW of K models; `compiled` matters on a GPU only."""
    population = Population(TransformerLM(model, slots).to(device), compiled=compiled)
    grads = {name: torch.randn_like(p) for name, p in population.model.named_parameters()}
    coefficients: Any = [adamw_coefficients(LR, BETAS, 1e-8, DECAY, 10)] * slots
    if device != "cpu":
        coefficients = torch.tensor(coefficients).T.to(device)
    max_norms = torch.full((slots,), CLIP, device=device)

    def arm() -> None:
        population.update(grads, coefficients, max_norms)
        for grad in grads.values():
            grad.mul_(GROWTH)

    return arm


def torch_update(model: ModelConfig, slots: int, device: str) -> Arm:
    """The same by torch, model after model."""
    several = []
    for _ in range(slots):
        parameters = list(TransformerLM(model).to(device).parameters())
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        several.append((parameters, torch.optim.AdamW(parameters, LR, BETAS, weight_decay=DECAY, fused=True)))

    def arm() -> None:
        for parameters, optimizer in several:
            torch.nn.utils.clip_grad_norm_(parameters, CLIP, foreach=True)
            optimizer.step()
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad.mul_(GROWTH)

    return arm
