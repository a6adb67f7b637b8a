"""How much memory one training run needs, estimated from its config. No model is built and torch is not loaded.

Weights, gradients and the optimizer's state are exact; the rest counts the tensors that a forward pass, of a micro
batch if there are any, keeps for the backward pass, and what the heap of a process loses in gaps between them. A test
compares the sum with the peak of a real run: it lies within a factor of FACTOR for runs of 100 MB or more. Libraries
take some 300 MB of every process besides.

Letters: N layers, D width, F ffn width, V vocabulary.
"""

from typing import NamedTuple

from lmcore.config import RunSpec
from lmcore.params import count_parameters

FACTOR = 1.3
"""An estimate is wrong by at most about this factor, in either direction."""
FLOAT = 4  # bytes
GAPS = 1.25  # measured on CPUs: after a few updates a process has 1.0 to 1.4 times what its tensors need
CHUNK_LOGITS = 2**20  # of the loss, which never holds the logits of all positions (`lmcore.loss`)


class MemoryEstimate(NamedTuple):
    """Bytes that one trial needs while it trains, on its own.

    >>> estimate_memory(RunSpec()).state == 16 * 1_328_256
    True
    """

    state: int  # float32 weights, their gradients, and AdamW's two moments or Muon's one
    activations: int  # kept from the forward pass for the backward pass, and the loss's buffers, with GAPS

    @property
    def total(self) -> int:
        """Both together."""
        return self.state + self.activations


def estimate_memory(run: RunSpec) -> MemoryEstimate:
    """The memory of a run; with dtype auto, that of float32, which needs more."""
    model, tokens = run.model, run.train.windows_per_pass * run.model.context_length
    D, F, V = model.d_model, model.d_ff, model.vocab_size
    counts = count_parameters(model)
    weights = counts.total - counts.head + V * D  # a tied slot has an idle head
    low = 2 if run.train.dtype == "bfloat16" else FLOAT
    # Float32 in any case: input and output of two norms. In the dtype of the products: q, k, v (of every query head,
    # also if heads share them), the heads' outputs and a contiguous copy, the inputs of the products if they were cast,
    # and the hidden layer. Of normalized queries and keys, the inputs. torch's operations, of which models in bfloat16
    # consist, also keep what is between the operations of a gated layer (`lmcore.kernels.swiglu`).
    by_hand = low == FLOAT
    norms = 0 if model.norm == "none" else 2
    heads = D + model.kv_width if model.qk_norm else 0
    cast = 0 if by_hand else 2
    hidden = 4 if model.ffn == "swiglu" and not by_hand else 2
    layer = FLOAT * ((2 + norms) * D + heads) + low * ((5 + cast) * D + hidden * F)
    masks = (2 * model.num_layers + 1) * D if model.dropout else 0  # a byte for each channel
    per_token = model.num_layers * layer + FLOAT * 3 * D + masks
    weights_cast = low * weights if low < FLOAT else 0
    heads_gradients = 1 if run.train.windows_per_pass == run.train.batch_size else 2  # a micro batch's, and its share
    loss = 2 * FLOAT * max(CHUNK_LOGITS, 128 * V) + heads_gradients * FLOAT * V * D
    one_moment = counts.attention + counts.ffn if run.optim.name == "muon" else 0
    return MemoryEstimate(FLOAT * (4 * weights - one_moment), int(GAPS * (tokens * per_token + weights_cast + loss)))
