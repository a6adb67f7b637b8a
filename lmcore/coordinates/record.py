"""The sizes of a model's activations while it makes its first updates, at one width.

The coordinate check of Tensor Programs V (Yang et al., 2022, appendix D.1): the mean absolute value of what each kind
of layer puts out, and of its change since initialization, on the same validation windows after every update. Seeds are
the slots of one population. Nothing is judged here: see `lmcore.coordinates.slopes`.

Shapes: K slots, one for each seed; B batch, T time.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lmcore.config import BUDGET_FIELDS, RunSpec
from lmcore.coordinates.slopes import Coordinate
from lmcore.corpus.tokens import Tokens
from lmcore.data import validation_windows
from lmcore.errors import InputError
from lmcore.model import Block, TransformerLM
from lmcore.runfile.paths import apply
from lmcore.trainer import Trainer

KINDS = ("embedding", "attention", "feed-forward", "residual stream", "logits")
"""What is measured: of attention and feed-forward networks the mean over layers, of the residual stream its end."""


def at_width(run: RunSpec, width: int) -> RunSpec:
    """The run with d_model = `width`, as many more heads of the same width, and a feed-forward network in proportion.

    >>> at_width(RunSpec(), 256).model.num_heads  # 4 at width 128
    8

    Raises InputError if whole heads do not make up the width, or the result is no valid model.
    """
    model = run.model
    values = {"num_heads": model.num_heads, "num_kv_heads": model.num_kv_heads, "d_ff": model.d_ff}
    scaled = {name: value * width / model.d_model for name, value in values.items() if value is not None}
    if not all(scaled[name].is_integer() for name in ("num_heads", "num_kv_heads") if name in scaled):
        group = model.d_model // model.kv_heads
        raise InputError(f"--widths: must be multiples of {group}, so that heads are whole (got {width}); change it")
    whole = {f"model.{name}": max(1, round(value)) for name, value in scaled.items()}
    return apply(run, {"model.d_model": width, **whole})


def coordinates(run: RunSpec, tokens: Tokens, steps: int, seeds: int) -> Iterator[Coordinate]:
    """Train `run` for `steps` updates at its constant learning rate under each of `seeds` seeds, and measure.

    >>> rows = list(coordinates(at_width(run, 256), tokens, steps=10, seeds=2))  # doctest: +SKIP
    """
    short = apply(
        run,
        {
            **{f"train.{name}": None for name in BUDGET_FIELDS},
            **{"train.steps": steps, "train.eval_every": 1, "train.eval_tokens": None, "train.eval_windows": 1},
            **{"train.final_eval_windows": 1, "train.compile": False, "train.cuda_graphs": False},
            **{"optim.schedule": "constant", "optim.warmup_fraction": 0.0, "train.branches": None},
        },
    )
    runs = [apply(short, {"train.seed": seed, "data.seed": seed}) for seed in range(seeds)]
    trainer = Trainer(runs, tokens)
    x, _ = validation_windows(tokens.val, run.model.context_length, run.train.windows_per_pass)
    device = next(trainer.model.parameters()).device
    x = x.to(device).expand(seeds, -1, -1)  # [K, B, T]
    first = _activations(trainer.model, x)
    for step in range(steps + 1):
        if step:
            trainer.advance()
        now = _activations(trainer.model, x)
        for kind in KINDS:
            sizes = _mean_abs(now[kind])
            changes = _mean_abs([a - b for a, b in zip(now[kind], first[kind], strict=True)])
            for seed in range(seeds):
                yield Coordinate(run.model.d_model, seed, step, kind, sizes[seed], changes[seed])


@torch.no_grad()
def _activations(model: TransformerLM, x: Tensor) -> dict[str, list[Tensor]]:
    """By kind, a tensor [K, ...] for each layer that has such an activation."""
    with _recorded(model) as found:
        found["logits"].append(model(x).float())
    return found


@contextmanager
def _recorded(model: TransformerLM) -> Iterator[dict[str, list[Tensor]]]:
    """Outputs of the forward passes in the block, by kind."""
    found: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    modules: list[tuple[str, nn.Module]] = [
        ("embedding", model.token_embeddings),
        ("residual stream", model.layers[-1]),
    ]
    for layer in model.layers:
        assert isinstance(layer, Block)
        modules += [("attention", layer.attn), ("feed-forward", layer.ffn)]
    handles = [
        module.register_forward_hook(lambda *call, kind=kind: found[kind].append(call[-1].float()))
        for kind, module in modules
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _mean_abs(layers: list[Tensor]) -> list[float]:
    """[K, ...] of each layer -> their mean absolute value by slot."""
    return torch.stack([layer.abs().flatten(1).mean(1) for layer in layers]).mean(0).tolist()
