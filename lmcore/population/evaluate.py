"""Validation loss, with its standard error, on fixed windows that every trial of a sweep shares."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmcore.model import TransformerLM
from lmcore.population.population import Forward


class ValLoss(NamedTuple):
    """Validation loss of one slot, nats per token, and its standard error over windows; nan with a single window."""

    mean: float
    se: float


@torch.no_grad()
def window_losses(model: TransformerLM, forward: Forward, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Mean loss of each window and slot, [K, E] float32, for windows x, y [E, T]; `batch_size` windows at a time."""
    parts = []
    for some_x, some_y in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
        shape = (model.num_slots, *some_x.shape)
        parts.append(forward(model, some_x.expand(shape), some_y.expand(shape)).mean(-1))
    return torch.cat(parts, dim=1).float()


def val_loss(losses: Tensor) -> ValLoss:
    """Mean and standard error of one slot's window losses [E], summed on the host in float64.

    >>> val_loss(torch.tensor([1.0, 3.0]))
    ValLoss(mean=2.0, se=1.0)
    """
    values = losses.double().tolist()
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return ValLoss(mean, math.nan)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return ValLoss(mean, math.sqrt(variance / len(values)))
