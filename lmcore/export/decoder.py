"""The forward pass for inference: reads new tokens after those that it has read, with a key-value cache.

It computes what `lmcore.model` computes for one slot, for every architecture, up to rounding. For a small model and a
single token almost all time goes into starting operations, so there are few here: the matrices that read the same input
are merged into one (queries, keys and values; gate and up), and query heads that share a key head are rows of one
product. The model itself stays as training needs it. `lmcore.export.sampling` decides what happens at the end of the
context.

Shapes: T new positions, S positions that were read before, D width, H heads, G key-value heads, R = H / G, F ffn width,
V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from lmcore.model import ACTIVATIONS, Attention, Block, SlotRMSNorm, TransformerLM
from lmcore.parametrization import parametrization_of


@dataclass
class _Layer:
    """The weights of a block, merged and transposed, and its cache."""

    qkv: Tensor  # [D, D + 2 G D/H]
    output: Tensor  # [D, D]
    up: Tensor  # [D, 2 F], or [D, F] if not gated
    down: Tensor  # [F, D]
    gains: tuple[Tensor | None, Tensor | None]  # of the norms of attention and feed-forward network, [D] each
    head_gains: Tensor | None  # with qk_norm, [H + G, D/H]
    cache: Tensor  # keys, which are rotated, and values: [2, G, context_length, D/H]


class Decoder:
    """One model and the tokens that it has read.

    >>> model = TransformerLM(ModelConfig(vocab_size=97))  # doctest: +SKIP
    >>> decoder = Decoder(model)  # doctest: +SKIP
    >>> decoder.read([5, 3, 8])  # logits [V] of the token after them  # doctest: +SKIP
    >>> decoder.read([1])  # of the one after 5, 3, 8, 1  # doctest: +SKIP

    Raises ValueError if the model has several slots; `slot_view` makes a model of one of them. The weights are copied:
    later changes of the model are not seen.
    """

    def __init__(self, model: TransformerLM) -> None:
        if model.num_slots != 1:
            raise ValueError(f"the model must have one slot, got K = {model.num_slots}; take one with slot_view")
        self.config = config = model.config
        self.length = 0
        """S, the number of positions that were read."""
        self._embedding, head = model.token_embeddings.weight[0].detach(), model.head()[0].detach().t()
        self._head = head if model.logit_multiplier == 1 else head * model.logit_multiplier
        self._scale = parametrization_of(config).attention_scale(config)
        self._gain = _gain(model.ln_final)
        self._layers = [self._layer(block) for block in model.layers]
        if config.positions == "rope":
            self._cos = torch.cat((model.rope_cos, model.rope_cos), -1)[:, None]  # [context_length, 1, D/H]
            self._sin = torch.cat((-model.rope_sin, model.rope_sin), -1)[:, None]

    def clear(self) -> None:
        """Forget all positions: the next token that is read has position 0."""
        self.length = 0

    @torch.inference_mode()
    def read(self, tokens: Sequence[int]) -> Tensor:
        """Logits [V] of the token after the last of `tokens`, which follow those that were read before.

        Raises ValueError if there is none, if they are too many for the context, or for an id outside 0..V-1.
        """
        config, past, time = self.config, self.length, len(tokens)
        if not 0 < time <= config.context_length - past:
            after = f" after {past} others" if past else ""
            raise ValueError(f"1 to {config.context_length - past} tokens fit{after}, got {time}; cut them")
        if min(tokens) < 0 or max(tokens) >= config.vocab_size:
            raise ValueError(f"token ids must lie in 0..{config.vocab_size - 1}, got {min(tokens)}..{max(tokens)}")
        x = self._embedding[torch.tensor(tokens, device=self._embedding.device)]  # [T, D]
        mask = None  # a single position sees all
        if time > 1:
            mask = torch.ones(time, past + time, dtype=torch.bool, device=x.device).tril(past)
            mask = mask.repeat(config.num_heads // config.kv_heads, 1)  # [R * T, S + T]
        self.length = past + time
        for layer in self._layers:
            x = self._block(x, layer, past, mask)
        return torch.mm(self._norm(x[-1:], self._gain), self._head)[0]

    def _block(self, x: Tensor, layer: _Layer, past: int, mask: Tensor | None) -> Tensor:
        """[T, D] -> [T, D]."""
        post, (attention_gain, ffn_gain) = self.config.norm == "post", layer.gains
        attended = self._attend(x if post else self._norm(x, attention_gain), layer, past, mask)
        x = torch.addmm(x, attended, layer.output)
        x = self._norm(x, attention_gain) if post else x
        hidden = torch.mm(x if post else self._norm(x, ffn_gain), layer.up)
        activation = ACTIVATIONS[self.config.ffn]
        if self.config.ffn == "swiglu":
            gate, value = hidden.chunk(2, dim=1)
            hidden = activation(gate) * value
        else:
            hidden = activation(hidden)
        x = torch.addmm(x, hidden, layer.down)
        return self._norm(x, ffn_gain) if post else x

    def _attend(self, x: Tensor, layer: _Layer, past: int, mask: Tensor | None) -> Tensor:
        """Values that the new positions attend to, [T, D]; their keys and values are added to the cache."""
        config, time, end = self.config, len(x), past + len(x)
        heads, kv_heads, width = config.num_heads, config.kv_heads, config.head_dim
        qkv = torch.mm(x, layer.qkv).view(time, heads + 2 * kv_heads, width)
        qk, v = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
        if layer.head_gains is not None:
            qk = F.rms_norm(qk, (width,), eps=config.norm_eps) * layer.head_gains
        if config.positions == "rope":
            qk = torch.addcmul(qk * self._cos[past:end], qk.roll(width // 2, -1), self._sin[past:end])
        layer.cache[0, :, past:end] = qk[:, heads:].transpose(0, 1)
        layer.cache[1, :, past:end] = v.transpose(0, 1)
        keys, values = layer.cache[:, None, :, :end]  # [1, G, S + T, D/H] each
        q = qk[:, :heads].transpose(0, 1).reshape(1, kv_heads, -1, width)  # [1, G, R * T, D/H]
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=self._scale)
        return attended.view(heads, time, width).transpose(0, 1).reshape(time, -1)

    def _norm(self, x: Tensor, gain: Tensor | None) -> Tensor:
        return x if gain is None else F.rms_norm(x, x.shape[-1:], gain, self.config.norm_eps)

    def _layer(self, block: Module) -> _Layer:
        assert isinstance(block, Block)
        config, attn, ffn = self.config, block.attn, block.ffn
        return _Layer(
            qkv=_merged(attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight),
            output=_merged(attn.output_proj.weight),
            up=_merged(*((ffn.w1.weight,) if ffn.w3 is None else (ffn.w1.weight, ffn.w3.weight))),
            down=_merged(ffn.w2.weight),
            gains=(_gain(block.ln1), _gain(block.ln2)),
            head_gains=_head_gains(attn, config.num_heads, config.kv_heads),
            cache=self._embedding.new_empty(2, config.kv_heads, config.context_length, config.head_dim),
        )


def _merged(*weights: Tensor) -> Tensor:
    """Matrices [1, out, in] that read the same input, as one [in, sum of out]."""
    return torch.cat([weight[0].detach() for weight in weights]).t().contiguous()


def _gain(norm: Module) -> Tensor | None:
    """The gain of an RMSNorm [D]; None if the layer has no norm."""
    return norm.weight[0].detach() if isinstance(norm, SlotRMSNorm) else None


def _head_gains(attn: Attention, heads: int, kv_heads: int) -> Tensor | None:
    """The gains of all query heads, then of all key heads; None without QK norm."""
    if attn.q_norm is None or attn.k_norm is None:
        return None
    q, k = attn.q_norm.weight[0].detach(), attn.k_norm.weight[0].detach()
    return torch.cat((q.expand(heads, -1), k.expand(kv_heads, -1)))
