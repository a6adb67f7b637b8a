"""A lower bound on the time of an update: the roofline (Williams et al., 2009) of its operations, run one by one.

An operation takes at least FLOPs / peak and at least bytes / bandwidth, so at least the larger of the two. The bound of
an update is the sum over its operations. The counts are those of ideal kernels, which read each input once and write
each output once, with s bytes per element (4, or 2 in bfloat16):

    operation                times  FLOPs          elements read and written
    product [n, a] x [a, b]  3      2 n a b        n a + a b + n b: forward, and the gradients of both factors
    attention, forward       N      2 n (T + 1) D  2 n (D + E): q, k, v; output
    attention, backward      N      4 n (T + 1) D  4 n (D + E): q, k, v, output and its gradient; 3 gradients
    norm                     2 N+1  -              5 n D: 2 forward, 3 backward; 2 N of them in post-norm, or none
    norm of heads            N      -              5 n (D + E): q and k, if they are normalized
    rotary positions         N      -              4 n (D + E): q and k, read and written both ways
    activation               N      -              8 n F gated, else 5 n F
    residual sum             2 N    -              6 n D
    dropout                  2 N+1  -              4 n D, if there is any: read and written both ways
    embedding                1      -              5 n D + V D: a gather; a gradient that is zeroed and accumulated
    loss                     1      -              3 n V: logits read twice, their gradient written
    norm, clip and update    1      -              32 bytes per parameter
    orthogonalization        5      4 a a b + 2 a^3  3 a b + 4 a a: of every hidden matrix with sides a <= b, with Muon
    sum of gradients         M - 1  -              12 bytes per parameter

Letters: K slots, M micro batches of n tokens per slot (one of n = B T by default), N layers, D width, E width of all
keys (D unless query heads share them), F feed-forward width, V vocabulary. The operations above the last three are
those of each micro batch. Causal attention has T (T + 1) / 2 pairs. The 32 bytes are float32: the gradient read for its
norm; with AdamW, weight, gradient and two moments read, weight and moments written; with Muon, gradient and momentum
read, momentum and step written, weight and orthogonalized step read, weight written. Batches, casts, and the FLOPs of
other operations are left out.

Fused kernels and caches can beat the bound on bytes; nothing can beat the FLOPs of products and attention.
"""

from typing import Literal, NamedTuple

from lmcore.config import RunSpec
from lmcore.params import count_parameters

Kind = Literal["matrix products", "attention", "elementwise", "optimizer"]
KINDS: tuple[Kind, ...] = ("matrix products", "attention", "elementwise", "optimizer")
"""`elementwise` is everything else in the model and its loss: norms, sums, copies, gathers."""


ITERATIONS = 5  # `lmcore.muon.STEPS`, which cannot be imported without torch


class Operation(NamedTuple):
    """All operations of one size in an update.

    >>> Operation("elementwise", "residual sums", flops=0, bytes=2**20).bound_s(flops_per_s=1e12, bytes_per_s=2**30)
    0.0009765625
    """

    kind: Kind
    name: str
    flops: int  # per update
    bytes: int  # read and written per update

    def bound_s(self, flops_per_s: float, bytes_per_s: float) -> float:
        """Least time in seconds at a device's peak rate and memory bandwidth."""
        return max(self.flops / flops_per_s, self.bytes / bytes_per_s)


def update_operations(run: RunSpec, slots: int) -> list[Operation]:
    """The operations of one update of `slots` slots, as in the table above. The dtype of `run` must be resolved."""
    m = run.model
    n, T = run.train.windows_per_pass * m.context_length, m.context_length
    N, D, E, F, V = m.num_layers, m.d_model, m.kv_width, m.d_ff, m.vocab_size
    passes = run.train.batch_size // run.train.windows_per_pass
    parameters = count_parameters(m).total
    element = 2 if run.train.dtype == "bfloat16" else 4
    gated = m.ffn == "swiglu"
    norms = {"pre": 2 * N + 1, "post": 2 * N, "none": 0}[m.norm]

    def product(name: str, a: int, b: int, times: int) -> Operation:
        elements = n * a + a * b + n * b
        return Operation("matrix products", name, 3 * times * 2 * n * a * b, 3 * times * element * elements)

    def elementwise(name: str, elements: int, times: int) -> Operation:
        return Operation("elementwise", name, 0, times * element * elements)

    one_pass = [
        product("q, output", D, D, 2 * N),
        product("k, v", D, E, 2 * N),
        product("feed-forward", D, F, (3 if gated else 2) * N),
        product("head", D, V, 1),
        Operation("attention", "forward", N * 2 * n * (T + 1) * D, N * element * 2 * n * (D + E)),
        Operation("attention", "backward", N * 4 * n * (T + 1) * D, N * element * 4 * n * (D + E)),
        elementwise("norms", 5 * n * D, norms),
        elementwise("norms of heads", 5 * n * (D + E), N if m.qk_norm else 0),
        elementwise("rotary positions", 4 * n * (D + E), N if m.positions == "rope" else 0),
        elementwise("activations", (8 if gated else 5) * n * F, N),
        elementwise("residual sums", 6 * n * D, 2 * N),
        elementwise("dropout", 4 * n * D, 2 * N + 1 if m.dropout else 0),
        elementwise("embedding", 5 * n * D + V * D, 1),
        elementwise("loss", 3 * n * V, 1),
    ]
    one_update = [
        Operation("optimizer", "sum of gradients", 0, 12 * parameters * (passes - 1)),
        Operation("optimizer", "norm, clip and update", 0, 32 * parameters),
        *(_orthogonalization(run) if run.optim.name == "muon" else []),
    ]
    times = [(o, slots * passes) for o in one_pass] + [(o, slots) for o in one_update]
    return [o._replace(flops=count * o.flops, bytes=count * o.bytes) for o, count in times]


def _orthogonalization(run: RunSpec) -> list[Operation]:
    """Of Muon's steps (`lmcore.muon`), which a GPU makes in bfloat16."""
    m = run.model
    element = 2 if run.train.device == "cuda" else 4
    shapes = [(m.d_model, m.d_model, 2), (m.kv_width, m.d_model, 2), (m.d_ff, m.d_model, 3 if m.ffn == "swiglu" else 2)]
    operations = []
    for rows, columns, times in shapes:
        a, b = sorted((rows, columns))
        flops, elements = 4 * a * a * b + 2 * a**3, 3 * a * b + 4 * a * a
        times *= ITERATIONS * m.num_layers
        operations.append(Operation("optimizer", "orthogonalization", times * flops, times * element * elements))
    return operations
