"""How many parameters a model has and what training it costs, from its config.

Reports show three numbers: the textbook estimate, the exact count, and the exact non-embedding count. No model is built
and torch is not loaded; a test compares the counts with PyTorch's.

>>> count_parameters(ModelConfig()).total, estimate_parameters(ModelConfig())
(1328256, 1327104)

Letters: N layers, D width, E width of all keys (D unless query heads share them), F ffn width, V vocabulary, T context
length.
"""

from typing import NamedTuple

from lmcore.config import ModelConfig


class ParameterCount(NamedTuple):
    """Exact counts by group of what a slot's state dict contains: tied weights once, idle weights never."""

    embedding: int  # V D
    attention: int  # 2 N D (D + E): Q and O, K and V; 4 N D^2 with a key-value head for every query head
    ffn: int  # 3 N D F when gated, 2 N D F otherwise
    norm: int  # D per norm, and 2 N D / H with qk_norm
    head: int  # V D, or 0 when the embedding is the head

    @property
    def total(self) -> int:
        """The sum of all groups."""
        return sum(self)

    @property
    def non_embedding(self) -> int:
        """The total without the embedding and without an untied head: the size used in scaling laws."""
        return self.attention + self.ffn + self.norm

    def __int__(self) -> int:
        return self.total


def estimate_parameters(config: ModelConfig) -> int:
    """The textbook estimate N (2 D (D + E) + m D F) + h V D, without norm weights.

    With a key-value head for every query head, 2 D (D + E) is the textbook's 4 D^2. m is 3 matrices if the feed-forward
    network is gated, else 2; h is 1 if embeddings are tied, else 2.
    """
    h = 1 if config.tie_embeddings else 2
    block = 2 * (config.d_model + config.kv_width) + _ffn_matrices(config) * config.d_ff
    return (config.num_layers * block + h * config.vocab_size) * config.d_model


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Exact counts by group; `.total`, or `int(...)`, gives their sum."""
    N, D = config.num_layers, config.d_model
    return ParameterCount(
        embedding=config.vocab_size * D,
        attention=N * 2 * D * (D + config.kv_width),
        ffn=N * _ffn_matrices(config) * D * config.d_ff,
        norm={"pre": 2 * N + 1, "post": 2 * N, "none": 0}[config.norm] * D + config.qk_norm * 2 * N * config.head_dim,
        head=0 if config.tie_embeddings else config.vocab_size * D,
    )


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations of training on one token: 6 (non-embedding + V D) + 12 N T D (Kaplan et al., 2020).

    A weight costs one multiplication and one addition forward, and twice that backward. The head costs V D whether tied
    or not; the embedding is a lookup and costs nothing. The last term is attention, without a discount for causality:
    all H query heads compute it, however many key-value heads they share.
    """
    N, D = config.num_layers, config.d_model
    weights = count_parameters(config).non_embedding + config.vocab_size * D
    return 6 * weights + 12 * N * config.context_length * D


def _ffn_matrices(config: ModelConfig) -> int:
    return 3 if config.ffn == "swiglu" else 2
