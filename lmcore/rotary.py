"""Rotary positions (RoFormer, Su et al., 2021), in the half-split form of Hugging Face Llama.

The pair (i, i + D/2H) of a head's channels turns by the angle t theta^(-2i H/D) at position t. Queries and keys turn
alike, so their products depend on distances only.

Where a CPU does not compile, a turn is one product of complex numbers, in a quarter of the time of `rotate`. Pairs must
be neighbours then, so attention reorders the rows of its query and key weights by `in_pairs` as it multiplies. That
leaves the products of queries and keys as they are. Weights and checkpoints keep the half-split order.

Shapes: K slots, S windows, T time, D width, H heads, G key-value heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Rotary(NamedTuple):
    """The angles of T positions."""

    cos: Tensor
    """[T, D/2H]"""
    sin: Tensor
    turns: Tensor | None
    """cos + i sin of the pairs of all heads, complex [T, D/2]; None where `rotate` is to be used."""


def rotary_of(cos: Tensor, sin: Tensor, heads: int) -> Rotary:
    """The angles of tables [T, D/2H], for the device that they are on."""
    by_turns = cos.device.type == "cpu" and not torch.compiler.is_compiling()
    return Rotary(cos, sin, torch.complex(cos, sin).repeat(1, heads) if by_turns else None)


def rope_tables(context_length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin [T, head_dim / 2] of position * theta^(-2i / head_dim), computed in float64 (RoFormer, eq. 15)."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(context_length, dtype=torch.float64)[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + half) of the last dimension of x [..., T, head_dim] by each position's angles."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the neighbours (2i, 2i + 1) of x [S, T, heads * D/H], at least float32, by the first of `turns` [T, D/2].

    >>> turn(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[1j]]))
    tensor([[[0., 1.]]])
    """
    floats = x.to(torch.promote_types(x.dtype, torch.float32))
    pairs = torch.view_as_complex(floats.view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns[:, : pairs.shape[-1]]).flatten(-2)


def in_pairs(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of each head from rotary pairs (i, i + half) to (2i, 2i + 1): [K, G * D/H, ...], any G."""
    pairs = rows.view(len(rows), -1, 2, head_dim // 2, *rows.shape[2:])
    return pairs.transpose(2, 3).reshape(rows.shape)


def interleaved_to_half(weight: Tensor, num_heads: int) -> Tensor:
    """Reorder the rows of a q or k matrix [out, in] from rotary pairs (2i, 2i + 1) to (i, i + half) in each head."""
    d_out, d_in = weight.shape
    pairs = weight.view(num_heads, d_out // num_heads // 2, 2, d_in)
    return pairs.transpose(1, 2).reshape(d_out, d_in)
