"""What a user would write by hand: the default architecture as an ordinary nn.Module, for the benchmark to race."""

import torch.nn.functional as F
from torch import Tensor, nn

from lmcore.config import ModelConfig
from lmcore.rotary import rope_tables, rotate


class PlainBlock(nn.Module):
    """Pre-norm attention and SwiGLU: [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.d_model
        self.heads = config.num_heads
        self.ln1, self.ln2 = (nn.RMSNorm(d, eps=config.norm_eps) for _ in range(2))
        self.q, self.k, self.v, self.out = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.w1, self.w3 = (nn.Linear(d, config.d_ff, bias=False) for _ in range(2))
        self.w2 = nn.Linear(config.d_ff, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        normed = self.ln1(x)
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (proj(normed).view(shape).transpose(1, 2) for proj in (self.q, self.k, self.v))
        heads = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).reshape(x.shape))
        normed = self.ln2(x)
        y: Tensor = x + self.w2(F.silu(self.w1(normed)) * self.w3(normed))
        return y


class PlainLM(nn.Module):
    """The mean loss of windows x, y [B, T]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        cos, sin = rope_tables(config.context_length, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = self.embedding(x)
        for block in self.blocks:
            hidden = block(hidden, self.cos, self.sin)
        logits = self.head(self.norm(hidden))
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())
