"""A lower bound of the time of an update: the roofline (Williams et al., 2009) of its operations, one after the other.

An operation takes at least FLOPs / peak and at least bytes / bandwidth, so at least the larger of the two; an update at
least the sum over its operations. Counted is what an ideal kernel of each operation does, which reads every input once
and writes every output once, s bytes (4, or 2 in bfloat16) an element:

    operation                times  FLOPs          elements read and written
    product [n, a] x [a, b]  3      2 n a b        n a + a b + n b: forward, and the gradients of both factors
    attention, forward       N      2 n (T + 1) D  4 n D: q, k, v; output
    attention, backward      N      4 n (T + 1) D  8 n D: q, k, v, output and its gradient; 3 gradients
    norm                     2 N+1  -              5 n D: 2 forward, 3 backward; 2 N of them in post-norm, or none
    rotary positions         N      -              8 n D: q and k, read and written both ways
    activation               N      -              8 n F gated, else 5 n F
    residual sum             2 N    -              6 n D
    embedding                1      -              5 n D + V D: a gather; a gradient that is cleared and added to
    loss                     1      -              3 n V: logits read twice, their gradient written
    norm, clip and AdamW     1      -              32 bytes a parameter

Attention is causal: T (T + 1) / 2 pairs. 32 bytes are the gradient for its norm, then weight, gradient and two moments
read, weight and moments written, in float32. Left out are batches, casts, and all FLOPs but products and attention.

The bytes are those of separate operations at the speed of memory. Where a kernel fuses two operations, or a cache holds
what one hands to the next, they cost less than this; the FLOPs of products and attention cannot.

Letters: K slots, n = B T tokens of a slot, N layers, D width, F ffn width, V vocabulary.
"""

from typing import Literal, NamedTuple

from lmcore.config import RunSpec
from lmcore.params import count_parameters

Kind = Literal["matrix products", "attention", "elementwise", "optimizer"]
KINDS: tuple[Kind, ...] = ("matrix products", "attention", "elementwise", "optimizer")
"""Elementwise is all that the model and its loss do beside products and attention: norms, sums, copies, gathers."""


class Work(NamedTuple):
    """Operations of one size."""

    kind: Kind
    name: str
    flops: int
    """Of one operation."""
    bytes: int
    """That one operation reads and writes."""
    times: int
    """How many there are in an update."""

    def bound_s(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The least time of all of them, in seconds, at the rates of a device."""
        return self.times * max(self.flops / flops_per_s, self.bytes / bytes_per_s)

    @property
    def total_flops(self) -> int:
        """Of all of them."""
        return self.times * self.flops

    @property
    def total_bytes(self) -> int:
        """Of all of them."""
        return self.times * self.bytes


def update_work(run: RunSpec, slots: int) -> list[Work]:
    """The operations of one update of `slots` slots, as the table above counts them; `run` has its dtype resolved."""
    m = run.model
    n, T = run.tokens_per_step, m.context_length
    N, D, F, V = m.num_layers, m.d_model, m.d_ff, m.vocab_size
    element = 2 if run.train.dtype == "bfloat16" else 4
    gated = m.ffn == "swiglu"
    norms = count_parameters(m).norm // D

    def product(name: str, a: int, b: int, times: int) -> Work:
        return Work("matrix products", name, 2 * n * a * b, element * (n * a + a * b + n * b), 3 * times)

    def elementwise(name: str, elements: int, times: int) -> Work:
        return Work("elementwise", name, 0, element * elements, times)

    of_one_slot = [
        product("q, k, v, output", D, D, 4 * N),
        product("feed-forward", D, F, (3 if gated else 2) * N),
        product("head", D, V, 1),
        Work("attention", "forward", 2 * n * (T + 1) * D, element * 4 * n * D, N),
        Work("attention", "backward", 4 * n * (T + 1) * D, element * 8 * n * D, N),
        elementwise("norms", 5 * n * D, norms),
        elementwise("rotary positions", 8 * n * D, N if m.positions == "rope" else 0),
        elementwise("activations", (8 if gated else 5) * n * F, N),
        elementwise("residual sums", 6 * n * D, 2 * N),
        elementwise("embedding", 5 * n * D + V * D, 1),
        elementwise("loss", 3 * n * V, 1),
        Work("optimizer", "norm, clip and AdamW", 0, 32 * count_parameters(m).total, 1),
    ]
    return [work._replace(times=slots * work.times) for work in of_one_slot]
