"""How initial values, learning rates and multipliers depend on a model's width: not at all, or as muP wants it.

muP, the maximal update parametrization (Yang et al., 2022, Tensor Programs V, table 8, for Adam), lets every layer
learn at a rate that does not depend on the width, so that a learning rate tuned on a narrow model suits a wide one.
With m = d_model / base_width:

    tensors                          initial std     learning rate     multiplier
    embedding, gains of norms        as standard     as standard       1
    hidden matrices                  / sqrt(m)       / m               1
    output head, tied or not         as standard     as standard       1/m, on the logits

Hidden matrices are those whose inputs and outputs both grow with the width: queries, keys, values and output of the
attention, and the feed-forward network. Table 8 is the form with a multiplier on the logits, which a tied head can
share. Queries times keys are divided by sqrt(head_dim), as in the standard parametrization: muP asks for a factor of
1/head_dim only where heads grow with the width, and base_head_dim says so. At d_model = base_width (and head_dim =
base_head_dim) all factors are 1 and the model is the standard one, bit by bit.

Decoupled weight decay has no factor. alpha lambda is the share of a weight that an update forgets: a time scale, which
does not depend on the width (Wang & Aitchison, 2024). `MuAdamW` of microsoft/mup, which divides alpha by m, multiplies
lambda by it. Nor has the norm to clip at a factor: in muP the norm of the whole gradient does not depend on the width.
Nor has Adam's eps, which must stay far below the gradients of hidden matrices; these fall as 1/m.

The learning rates are those of AdamW. Another update has its own power of m (`UpdateRule.width_power`): Muon's steps,
which are orthogonal and have the root mean square of AdamW's, take 1 / sqrt(m).

This is not u-muP (Blake et al., 2024), which also gives every matrix a multiplier so that all numbers have unit scale.
Loads without torch. Whoever adds a parametrization adds an entry to `PARAMETRIZATIONS`.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

from lmcore.config import ModelConfig

_HIDDEN_MATRIX = re.compile(r"layers\.\d+\.(attn\.\w+_proj|ffn\.w\d)\.weight")


def is_hidden_matrix(name: str) -> bool:
    """Whether this parameter is a matrix of attention or of a feed-forward network.

    >>> is_hidden_matrix("layers.0.attn.q_proj.weight"), is_hidden_matrix("layers.0.attn.q_norm.weight")
    (True, False)
    """
    return _HIDDEN_MATRIX.fullmatch(name) is not None


class Parametrization(NamedTuple):
    """Pure functions of a model's config and, where they differ by tensor, of the tensor's name in checkpoints."""

    init_factor: Callable[[ModelConfig, str], float]
    """Multiplies the standard deviation of a tensor's initial values."""
    lr_factor: Callable[[ModelConfig, str], float]
    """Multiplies a tensor's learning rate, but not its decoupled decay."""
    attention_scale: Callable[[ModelConfig], float | None]
    """Multiplies queries times keys; None: 1 / sqrt(head_dim)."""
    logit_multiplier: Callable[[ModelConfig], float]
    """Multiplies the logits."""


def _mup_attention_scale(config: ModelConfig) -> float | None:
    base = config.base_head_dim
    return None if base in (None, config.head_dim) else math.sqrt(base) / config.head_dim


PARAMETRIZATIONS: dict[str, Parametrization] = {
    "standard": Parametrization(lambda _, name: 1.0, lambda _, name: 1.0, lambda _: None, lambda _: 1.0),
    "mup": Parametrization(
        init_factor=lambda config, name: 1 / math.sqrt(config.width_ratio) if is_hidden_matrix(name) else 1.0,
        lr_factor=lambda config, name: 1 / config.width_ratio if is_hidden_matrix(name) else 1.0,
        attention_scale=_mup_attention_scale,
        logit_multiplier=lambda config: 1 / config.width_ratio,
    ),
}
"""By `model.parametrization`; the names are also the `Literal` of `lmcore.config.ModelConfig.parametrization`."""


def parametrization_of(config: ModelConfig) -> Parametrization:
    """The parametrization that a model's config names.

    >>> wide = ModelConfig(d_model=256, parametrization="mup", base_width=64)
    >>> parametrization_of(wide).lr_factor(wide, "layers.0.attn.q_proj.weight")
    0.25
    >>> parametrization_of(wide).lr_factor(wide, "lm_head.weight"), parametrization_of(wide).logit_multiplier(wide)
    (1.0, 0.25)
    """
    return PARAMETRIZATIONS[config.parametrization]
