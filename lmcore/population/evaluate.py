"""Validation loss on fixed windows, with its standard error.

The windows are the same for every trial of a sweep, so that a difference between trials is not one between windows.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmcore.model import TransformerLM
from lmcore.population.population import Forward


class ValLoss(NamedTuple):
    """Validation loss of one slot, nats per token."""

    mean: float
    se: float
    """Standard error of the mean with the windows as sampling units; nan with a single window."""


@torch.no_grad()
def window_losses(model: TransformerLM, forward: Forward, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Mean loss of each window and slot, [K, E] float32, for windows x, y [E, T]; `batch_size` windows at a time."""
    num_slots = model.num_slots
    parts = []
    for some_x, some_y in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
        shape = (num_slots, *some_x.shape)
        parts.append(forward(model, some_x.expand(shape), some_y.expand(shape)).mean(-1))
    return torch.cat(parts, dim=1).float()


def val_loss(losses: Tensor) -> ValLoss:
    """Mean and standard error of one slot's window losses [E], summed on the host in float64."""
    values = losses.double().cpu()
    count = values.numel()
    mean = math.fsum(values.tolist()) / count
    if count < 2:
        return ValLoss(mean, math.nan)
    variance = math.fsum((v - mean) ** 2 for v in values.tolist()) / (count - 1)
    return ValLoss(mean, math.sqrt(variance / count))
