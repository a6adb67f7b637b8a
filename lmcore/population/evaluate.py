"""Validation loss, with its standard error, on fixed windows that every trial of a sweep shares.

Shapes: K slots, B batch, T time, E windows.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmcore.model import TransformerLM
from lmcore.population.population import Forward


class ValLoss(NamedTuple):
    """Validation loss of one slot, nats per token, its standard error over windows, and the loss of each window."""

    mean: float
    se: float  # nan with a single window
    windows: list[float]


@torch.no_grad()
def window_losses(
    models: Sequence[TransformerLM], forward: Forward, batches: Iterable[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """Mean loss of each window and slot: [K, E] float32 for each model, which sees the batches x, y [B, T] in turn."""
    parts: list[list[Tensor]] = [[] for _ in models]
    for x, y in batches:
        for model, losses in zip(models, parts, strict=True):
            shape = (model.num_slots, *x.shape)
            losses.append(forward(model, x.expand(shape), y.expand(shape)).mean(-1))
    return [torch.cat(losses, dim=1).float() for losses in parts]


def val_loss(losses: Tensor) -> ValLoss:
    """Mean and standard error of one slot's window losses [E], summed on the host in float64.

    >>> val_loss(torch.tensor([1.0, 3.0]))
    ValLoss(mean=2.0, se=1.0, windows=[1.0, 3.0])
    """
    values = losses.cpu().double().tolist()  # an Apple GPU has no float64
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return ValLoss(mean, math.nan, values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return ValLoss(mean, math.sqrt(variance / len(values)), values)
