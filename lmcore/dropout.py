"""Dropout with masks that are a pure function of seed, update and place, so that they need no state.

A mask depends on (train.seed, number of the update), on the site in the model, on the window's place in its batch, on
the position and the channel: not on K, the slot, micro batches, the device or the order of computation. So each slot
drops what it would drop alone, and a resumed run what it would have dropped.

The random bits are SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014),
whose n-th output is a function of seed and n: mix(seed + n * GAMMA). The seed is a hash of (train.seed, update), made
on the host and passed as a tensor, and n counts groups of channels. An output of 64 bits decides on four channels, so
rates are multiples of 2^-16. torch's int64 arithmetic wraps around, on every device.

Shapes: K slots, B batch, T time, D width, N = B * T positions of a slot, L = D / 4 groups of channels, rounded up.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
SITE = 2**40  # counters of one site, more than a batch has groups of channels
RESOLUTION = 2**16  # values of the 16 random bits that decide on a channel


class Dropout(NamedTuple):
    """What the masks of one update depend on, all of it tensors, so that a compiled program or a CUDA graph serves all.

    >>> seeds = Dropout(torch.tensor([dropout_key(seed=0, step=3)]), *dropout_rates([0.5]), torch.arange(2))
    >>> dropout_masks(seeds, sites=9, time=128, width=64).kept[0].shape
    torch.Size([1, 256, 64])
    """

    keys: Tensor  # [K] int64: `dropout_key` of each slot
    thresholds: Tensor  # [K] int64: a channel is dropped if its bits are below; of `dropout_rates`
    scales: Tensor  # [K] float32: 1 / (1 - rate), by which kept channels are multiplied
    windows: Tensor  # [B] int64: places of the windows in the batch


class Masks(NamedTuple):
    """The channels that one forward pass keeps."""

    kept: tuple[Tensor, ...]  # bool [K, N, D] of each site
    scales: Tensor  # [K] float32


def dropout_key(seed: int, step: int) -> int:
    """64 bits, as a signed integer, that seed the masks of one update: equal on every machine.

    >>> dropout_key(0, 0) == dropout_key(0, 1)
    False
    """
    digest = hashlib.sha256(f"dropout:{seed}:{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def dropout_rates(rates: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Thresholds [K] int64 and scales [K] float32 of K rates, each >= 0 and < 1, rounded to a multiple of 2^-16.

    >>> dropout_rates([0.0, 0.5])
    (tensor([    0, 32768]), tensor([1., 2.]))
    """
    thresholds = [min(round(rate * RESOLUTION), RESOLUTION - 1) for rate in rates]
    scales = [RESOLUTION / (RESOLUTION - threshold) for threshold in thresholds]
    return torch.tensor(thresholds), torch.tensor(scales, dtype=torch.float32)


def dropout_masks(dropout: Dropout, sites: int, time: int, width: int) -> Masks:
    """The masks of all sites, for T = `time` and D = `width`.

    They are made before the forward pass, because torch.compile would fuse their integers with the model's sums, whose
    order then depends on K.
    """
    return Masks(tuple(kept_channels(dropout, site, time, width) for site in range(sites)), dropout.scales)


def drop(x: Tensor, masks: Masks, site: int) -> Tensor:
    """x [K, N, D] with dropped channels set to 0 and all others scaled, so that the expectation stays.

    A channel that is dropped passes no gradient, and no NaN either.
    """
    return torch.where(masks.kept[site], x * masks.scales[:, None, None], 0.0)


@torch.no_grad()
def kept_channels(dropout: Dropout, site: int, time: int, width: int) -> Tensor:
    """Mask of the channels that are not dropped: bool [K, B*T, D] for T = `time` and D = `width`."""
    device = dropout.keys.device
    groups = -(-width // 4)  # L
    positions = (dropout.windows[:, None] * time + torch.arange(time, device=device)).view(-1, 1)  # [N, 1]
    counters = site * SITE + positions * groups + torch.arange(groups, device=device)  # [N, L]
    bits = splitmix64(dropout.keys[:, None, None] + counters * GAMMA)  # [K, N, L]
    words = (bits[..., None] >> torch.arange(0, 64, 16, device=device)) & (RESOLUTION - 1)  # [K, N, L, 4]
    kept: Tensor = words.flatten(2)[..., :width] >= dropout.thresholds[:, None, None]
    return kept


def splitmix64(state: Tensor) -> Tensor:
    """SplitMix64's output for each state, int64 -> int64 of the same shape: 64 bits, read as signed."""
    first, second = MULTIPLIERS
    z = (state ^ _shifted(state, 30)) * first
    z = (z ^ _shifted(z, 27)) * second
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """z shifted right as an unsigned number: int64's own shift repeats the sign."""
    shifted: Tensor = (z >> by) & (2 ** (64 - by) - 1)
    return shifted
