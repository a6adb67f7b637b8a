"""A decoder-only Transformer language model, K of them at once.

It has pre-norm RMSNorm (or post-norm after the residual sum, or none), rotary positions in the half-split form of
Hugging Face Llama (or none), a key-value head for every query head (or one for several: grouped-query attention),
queries and keys as they are projected (or with RMSNorm over each head, as in Qwen3), a SwiGLU feed-forward network (or
an ungated gelu, silu or relu), an untied output head (or a tied one, slot by slot), and no biases. Training may drop
channels where nanoGPT does in a model without biases (`lmcore.dropout`); a forward pass without masks drops none. With
muP, logits and queries times keys have other factors (`lmcore.parametrization`).

A model is a population of K >= 1 slots, each an independent language model of the same shape: the first dimension of
every weight is K, a linear layer is one bmm, and attention treats slots as part of its batch. An ordinary model is
K = 1. Nothing is ever reduced across slots, so slot k computes exactly what it would compute alone. The loss is in
`lmcore.loss`, initial values are in `lmcore.init`.

Shapes: K slots, B batch, T time, D width, H heads, G key-value heads, F ffn width, V vocabulary; N = B * T positions of
a slot.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmcore.config import ModelConfig
from lmcore.dropout import Masks, drop
from lmcore.init import init_slot_
from lmcore.kernels.rms_norm import rms_norm
from lmcore.kernels.swiglu import swiglu
from lmcore.parametrization import parametrization_of
from lmcore.rotary import Rotary, in_pairs, interleaved_to_half, rope_tables, rotary_of, rotate, turn

__all__ = ["ModelConfig", "TransformerLM"]

HEAD = "lm_head.weight"
EMBEDDING = "token_embeddings.weight"

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "silu": F.silu, "gelu": F.gelu, "relu": F.relu}


class SlotLinear(nn.Module):
    """y = x W^T for every slot: [K, N, in] -> [K, N, out]."""

    def __init__(self, num_slots: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_slots, d_out, d_in))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.weight.transpose(1, 2))


class SlotEmbedding(nn.Module):
    """One gather for all slots: tokens [K, B, T] -> [K, B*T, D]."""

    def __init__(self, num_slots: int, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_slots, vocab_size, d_model))

    def forward(self, tokens: Tensor) -> Tensor:
        num_slots, vocab_size, _ = self.weight.shape
        offsets = torch.arange(num_slots, device=tokens.device) * vocab_size
        return F.embedding(tokens.flatten(1) + offsets[:, None], self.weight.flatten(0, 1))


class SlotRMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in float32: [K, N, D] -> [K, N, D]."""

    def __init__(self, num_slots: int, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_slots, d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def _norm(config: ModelConfig, num_slots: int, used: bool) -> nn.Module:
    return SlotRMSNorm(num_slots, config.d_model, config.norm_eps) if used else nn.Identity()


class Attention(nn.Module):
    """Causal self-attention of H query heads over G <= H key-value heads: [K, B*T, D] -> [K, B*T, D].

    Query heads share key-value heads in groups of neighbours, H / G each (Ainslie et al., 2023), as in Hugging Face.
    """

    def __init__(self, config: ModelConfig, num_slots: int) -> None:
        super().__init__()
        D, kv_width = config.d_model, config.kv_width
        self.head_dim = config.head_dim
        self.group_size = config.num_heads // config.kv_heads
        self.scale = parametrization_of(config).attention_scale(config)  # None: 1 / sqrt(D/H)
        self.q_proj = SlotLinear(num_slots, D, D)
        self.k_proj = SlotLinear(num_slots, D, kv_width)
        self.v_proj = SlotLinear(num_slots, D, kv_width)
        self.output_proj = SlotLinear(num_slots, D, D)
        self.q_norm = SlotRMSNorm(num_slots, config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = SlotRMSNorm(num_slots, config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, time: int, rope: Rotary | None) -> Tensor:
        q = self._heads(x, time, self.q_proj, self.q_norm, rope)  # [K*B, H, T, D/H]
        k = self._heads(x, time, self.k_proj, self.k_norm, rope)  # [K*B, G, T, D/H]
        v = self._heads(x, time, self.v_proj)
        if self.group_size > 1:
            # Copies, because on a CPU torch's fused kernel, unlike its slow one, wants as many key as query heads.
            k, v = k.repeat_interleave(self.group_size, 1), v.repeat_interleave(self.group_size, 1)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.output_proj(heads.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]

    def _heads(
        self, x: Tensor, time: int, proj: SlotLinear, norm: SlotRMSNorm | None = None, rope: Rotary | None = None
    ) -> Tensor:
        """The heads that `proj` makes of x, normalized and rotated: [K*B, heads, T, D/H] in the type of the product."""
        turns = None if rope is None else rope.turns
        ordered = (lambda rows: rows) if turns is None else (lambda rows: in_pairs(rows, self.head_dim))
        y = torch.bmm(x, ordered(proj.weight).transpose(1, 2))  # [K, B*T, heads * D/H]
        dtype = y.dtype
        if norm is not None:
            floats = y.to(torch.promote_types(dtype, torch.float32)).view(len(y), -1, self.head_dim)
            y = rms_norm(floats, ordered(norm.weight), norm.eps)
        y = y.view(-1, time, proj.weight.shape[1])  # [K*B, T, heads * D/H]
        if turns is not None:
            y = turn(y, turns)
        y = y.view(*y.shape[:2], -1, self.head_dim).transpose(1, 2)
        if rope is not None and turns is None:
            y = rotate(y, rope.cos, rope.sin)
        return y.to(dtype)


class FeedForward(nn.Module):
    """w2(silu(w1 x) * w3 x), or w2(act(w1 x)) if not gated: [K, N, D] -> [K, N, D]."""

    def __init__(self, config: ModelConfig, num_slots: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.ffn]
        self.w1 = SlotLinear(num_slots, config.d_model, config.d_ff)
        self.w2 = SlotLinear(num_slots, config.d_ff, config.d_model)
        self.w3 = SlotLinear(num_slots, config.d_model, config.d_ff) if config.ffn == "swiglu" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.w3 is not None:
            return swiglu(x, self.w1.weight, self.w3.weight, self.w2.weight)
        return self.w2(self.activation(self.w1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream [K, B*T, D]; `layer` counts blocks from 0."""

    def __init__(self, config: ModelConfig, num_slots: int, layer: int) -> None:
        super().__init__()
        self.post_norm = config.norm == "post"
        self.sites = 2 * layer + 1, 2 * layer + 2  # of dropout; the embedding is 0
        self.attn = Attention(config, num_slots)
        self.ffn = FeedForward(config, num_slots)
        self.ln1 = _norm(config, num_slots, config.norm != "none")
        self.ln2 = _norm(config, num_slots, config.norm != "none")

    def forward(self, x: Tensor, time: int, rope: Rotary | None, masks: Masks | None = None) -> Tensor:
        attended = self.attn(x if self.post_norm else self.ln1(x), time, rope)
        if masks is not None:
            attended = drop(attended, masks, self.sites[0])
        x = self.ln1(x + attended) if self.post_norm else x + attended
        fed = self.ffn(x if self.post_norm else self.ln2(x))
        if masks is not None:
            fed = drop(fed, masks, self.sites[1])
        return self.ln2(x + fed) if self.post_norm else x + fed  # type: ignore[no-any-return]


class TransformerLM(nn.Module):
    """K language models of one shape.

    >>> model = TransformerLM(ModelConfig(vocab_size=97), num_slots=2, tied=[False, True], seeds=[0, 1])
    >>> model(torch.zeros(2, 3, 8, dtype=torch.long)).shape  # [K, B, T] -> [K, B, T, V]
    torch.Size([2, 3, 8, 97])

    Args:
        tied: for each slot, whether the embedding is also the output head; by default `config.tie_embeddings` for all.
            A tied slot's own head is idle: its gradient is zero, and the slot's state dict does not contain it.
        seeds: initial weights of a slot depend on its seed only; by default 0 for all.

    Raises ValueError if num_slots < 1, or `tied` or `seeds` has another length.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_slots: int = 1,
        tied: Sequence[bool] | Tensor | None = None,
        *,
        seeds: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {num_slots}")
        slot_tied = [config.tie_embeddings] * num_slots if tied is None else [bool(t) for t in tied]
        seeds = [0] * num_slots if seeds is None else list(seeds)
        if len(slot_tied) != num_slots or len(seeds) != num_slots:
            raise ValueError(
                f"tied and seeds need one value per slot, got {len(slot_tied)} and {len(seeds)} for {num_slots} slots"
            )
        self.config = config
        self.token_embeddings = SlotEmbedding(num_slots, config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, num_slots, layer) for layer in range(config.num_layers))
        self.ln_final = _norm(config, num_slots, config.norm == "pre")
        self.lm_head = SlotLinear(num_slots, config.d_model, config.vocab_size)
        self.logit_multiplier = parametrization_of(config).logit_multiplier(config)

        self.tied: list[bool] = slot_tied  # also on the host, so that no forward pass waits for a device
        self.tying = _tying(slot_tied)
        self.tied_mask: Tensor
        self.register_buffer("tied_mask", torch.tensor(slot_tied), persistent=False)
        self.rope_cos: Tensor
        self.rope_sin: Tensor
        if config.positions == "rope":
            tables = rope_tables(config.context_length, config.head_dim, config.rope_theta)
            for name, table in zip(("rope_cos", "rope_sin"), tables, strict=True):
                self.register_buffer(name, table, persistent=False)
        if not self.tied_mask.is_meta:
            for slot, seed in enumerate(seeds):
                self.reset_slot(slot, seed, slot_tied[slot])

    @property
    def num_slots(self) -> int:
        """K."""
        return len(self.tied)

    @property
    def dropout_sites(self) -> int:
        """Places that drop channels in training: the embedding, and the two sublayers of each block."""
        return 2 * len(self.layers) + 1

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [K, B, T, V] of the next token after each of `tokens` [K, B, T] (integers).

        Raises ValueError for T > context_length, another K, or (checked on CPU only) a token id outside 0..V-1.
        """
        return torch.bmm(self.hidden(tokens), self.head().transpose(1, 2)).view(*tokens.shape, -1)

    def hidden(self, tokens: Tensor, masks: Masks | None = None) -> Tensor:
        """The input of the output head, [K, B*T, D]: `forward` without its last product. Raises what it raises.

        `masks` are those of `dropout_sites` sites, which training gives; `config.dropout` is not read here.
        """
        self._check(tokens)
        time = tokens.shape[2]
        rope = None
        if self.config.positions == "rope":
            rope = rotary_of(self.rope_cos[:time], self.rope_sin[:time], self.config.num_heads)
        x = self.token_embeddings(tokens)  # [K, B*T, D]
        if masks is not None:
            x = drop(x, masks, 0)
        for block in self.layers:
            x = block(x, time, rope, masks)
        x = self.ln_final(x)  # [K, B*T, D]
        # The head is linear, so its inputs are multiplied: fewer than the logits, which training never has all at once.
        return x if self.logit_multiplier == 1 else x * self.logit_multiplier  # type: ignore[no-any-return]

    def head(self) -> Tensor:
        """Output matrix [K, V, D]: each slot's embedding or own head, selected by `where` because 0 * nan is nan."""
        head, embedding = self.lm_head.weight, self.token_embeddings.weight
        if self.tying == "mixed":
            return torch.where(self.tied_mask[:, None, None], embedding, head)
        return embedding if self.tying == "all" else head

    def _check(self, tokens: Tensor) -> None:
        if tokens.ndim != 3 or tokens.shape[0] != self.num_slots:
            raise ValueError(f"tokens must be [K, B, T] with K = {self.num_slots}, got {list(tokens.shape)}")
        if tokens.shape[2] > self.config.context_length:
            raise ValueError(
                f"at most context_length = {self.config.context_length} tokens fit, got {tokens.shape[2]}; cut them"
            )
        # An id >= V would silently read the next slot's embedding. On an accelerator the host would have to wait to
        # see one; `lmcore.corpus.tokens` has checked all ids before.
        if tokens.device.type == "cpu" and tokens.numel() and not torch.compiler.is_compiling():
            low, high = (int(v) for v in tokens.aminmax())
            if low < 0 or high >= self.config.vocab_size:
                raise ValueError(f"token ids must lie in 0..{self.config.vocab_size - 1}, got {low}..{high}")

    def reset_slot(self, slot: int, seed: int, tied: bool) -> None:
        """Give `slot` the initial weights of `seed`, and tie its head or not."""
        init_slot_(dict(self.named_parameters()), slot, seed, self.config)
        self.tied[slot] = tied
        self.tied_mask[slot] = tied
        self.tying = _tying(self.tied)

    def slot_view(self, slot: int) -> "TransformerLM":
        """Slot `slot` as a model of K = 1 whose weights share this model's memory (its gradients do not)."""
        with torch.device("meta"):
            view = TransformerLM(self.config, tied=[self.tied[slot]])
        weights = {name: parameter.detach()[slot : slot + 1] for name, parameter in self.named_parameters()}
        view.load_state_dict(weights, assign=True)
        for name, buffer in self.named_buffers():
            setattr(view, name, buffer[slot : slot + 1] if name == "tied_mask" else buffer)
        return view

    def slot_names(self, slot: int, tied: bool | None = None) -> list[str]:
        """Names of the tensors of `slot`, as it is or if it were `tied`; a tied slot has no `lm_head.weight`."""
        tied = self.tied[slot] if tied is None else tied
        return [name for name, _ in self.named_parameters() if not (tied and name == HEAD)]

    def slot_state_dict(self, slot: int) -> dict[str, Tensor]:
        """Copies of the plain weights (2-D matrices, 1-D norms) of `slot` under the CS336 names."""
        names = self.slot_names(slot)
        return {name: p.detach()[slot].clone() for name, p in self.named_parameters() if name in names}

    @torch.no_grad()
    def load_slot_state_dict(
        self, slot: int, state_dict: Mapping[str, Tensor], rope: Literal["half", "interleaved"] = "half"
    ) -> None:
        """Copy plain weights into `slot`; if they do not fit, nothing is changed.

        Args:
            state_dict: as from `slot_state_dict`. For a tied slot it may also hold a head that equals the embedding.
            rope: "interleaved" for weights whose rotary pairs are neighbouring channels (2i, 2i + 1), as in CS336: the
                rows of q and k, and their norms' gains, are permuted to the half-split pairs (i, i + D/2H).

        Raises ValueError for missing or unexpected names, wrong shapes, or a tied slot with a different head.
        """
        if rope not in ("half", "interleaved"):
            raise ValueError(f'rope must be "half" or "interleaved", got {rope!r}')
        weights = dict(state_dict)
        head = weights.pop(HEAD, None) if self.tied[slot] else None
        if head is not None and not torch.equal(head, weights.get(EMBEDDING, torch.empty(0))):
            raise ValueError(f"slot {slot} is tied, but {HEAD} differs from {EMBEDDING}; load it into an untied slot")
        names = self.slot_names(slot)
        own = {name: parameter[slot] for name, parameter in self.named_parameters() if name in names}
        if missing := sorted(own.keys() - weights.keys()):
            raise ValueError(f"the state dict lacks {', '.join(missing)}")
        if unexpected := sorted(weights.keys() - own.keys()):
            raise ValueError(f"the state dict has unexpected {', '.join(unexpected)}")
        for name, weight in weights.items():
            if weight.shape != own[name].shape:
                raise ValueError(f"{name} must have shape {list(own[name].shape)}, got {list(weight.shape)}")
        permute = rope == "interleaved" and self.config.positions == "rope"
        for name, weight in weights.items():
            if permute and name.endswith(("q_proj.weight", "k_proj.weight")):
                weight = interleaved_to_half(weight, len(weight) // self.config.head_dim)
            if permute and name.endswith(("q_norm.weight", "k_norm.weight")):
                weight = interleaved_to_half(weight[:, None], 1)[:, 0]
            own[name].copy_(weight)


def _tying(tied: Sequence[bool]) -> Literal["none", "all", "mixed"]:
    """What a forward pass depends on. The pattern itself is a tensor, or every pattern would compile a new program."""
    return "all" if all(tied) else "mixed" if any(tied) else "none"
