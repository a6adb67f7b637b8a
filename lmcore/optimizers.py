"""The optimizers that a run may name, and which of a model's parameters follow which rule.

To add one, write its `UpdateRule` in a file of its own and a line in `OPTIMIZERS`.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lmcore.config import OptimConfig
from lmcore.optim import ADAMW
from lmcore.update_rule import UpdateRule

_HIDDEN_MATRIX = re.compile(r"layers\.\d+\.(attn\.\w+_proj|ffn\.w\d)\.weight")


def is_hidden_matrix(name: str) -> bool:
    """Whether this parameter is a matrix of attention or of a feed-forward network.

    >>> is_hidden_matrix("layers.0.attn.q_proj.weight"), is_hidden_matrix("layers.0.attn.q_norm.weight")
    (True, False)
    """
    return _HIDDEN_MATRIX.fullmatch(name) is not None


class Optimizer(NamedTuple):
    """The rules that an optimizer consists of."""

    hidden_matrices: UpdateRule
    others: UpdateRule
    """Embedding, head and norms."""


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(hidden_matrices=ADAMW, others=ADAMW),
}
"""By `optim.name`; the names are also the `Literal` of `lmcore.config.OptimConfig.name`."""


class ParameterGroup(NamedTuple):
    """Parameters with the same coefficients."""

    rule: UpdateRule
    names: frozenset[str]

    def coefficients(self, optim: OptimConfig, lr: float, step: int) -> Sequence[float]:
        """The numbers of update `step` >= 1 at the scheduled learning rate `lr`. Nowhere else are they made."""
        return self.rule.coefficients(optim, lr, step)


def parameter_groups(optimizer: str, names: Iterable[str]) -> list[ParameterGroup]:
    """The parameters of these names, as an optimizer partitions them.

    >>> groups = parameter_groups("adamw", ["token_embeddings.weight", "layers.0.ffn.w1.weight"])
    >>> [sorted(group.names) for group in groups]
    [['layers.0.ffn.w1.weight', 'token_embeddings.weight']]
    """
    rules = OPTIMIZERS[optimizer]
    members: dict[UpdateRule, set[str]] = {}
    for name in names:
        members.setdefault(rules.hidden_matrices if is_hidden_matrix(name) else rules.others, set()).add(name)
    return [ParameterGroup(rule, frozenset(group)) for rule, group in members.items()]
