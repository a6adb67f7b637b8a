"""The optimizers that a run may name, and which of a model's parameters follow which rule.

To add one, write its `UpdateRule` in a file of its own and a line in `OPTIMIZERS`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lmcore.config import OptimConfig
from lmcore.muon import MUON
from lmcore.optim import ADAMW
from lmcore.parametrization import is_hidden_matrix
from lmcore.update_rule import UpdateRule


class Optimizer(NamedTuple):
    """The rules that an optimizer consists of."""

    hidden_matrices: UpdateRule
    others: UpdateRule
    """Embedding, head and norms."""


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(hidden_matrices=ADAMW, others=ADAMW),
    "muon": Optimizer(hidden_matrices=MUON, others=ADAMW),
}
"""By `optim.name`; the names are also the `Literal` of `lmcore.config.OptimConfig.name`."""


class ParameterGroup(NamedTuple):
    """Parameters with the same coefficients."""

    rule: UpdateRule
    names: frozenset[str]
    lr_factor: float = 1.0
    """Multiplies the learning rate, but not the decoupled decay (`lmcore.parametrization`)."""

    def coefficients(self, optim: OptimConfig, lr: float, step: int) -> Sequence[float]:
        """The numbers of update `step` >= 1 at the scheduled learning rate `lr`. Nowhere else are they made."""
        numbers = self.rule.coefficients(optim, lr, step)
        if self.lr_factor == 1:
            return numbers
        names = self.rule.coefficient_names
        return [n * self.lr_factor if name == "step_size" else n for name, n in zip(names, numbers, strict=True)]


def parameter_groups(
    optimizer: str, names: Iterable[str], lr_factor: Callable[[str], float] = lambda name: 1.0
) -> list[ParameterGroup]:
    """The parameters of these names, as an optimizer partitions them, and those with other factors apart.

    >>> groups = parameter_groups("muon", ["token_embeddings.weight", "layers.0.ffn.w1.weight", "ln_final.weight"])
    >>> [sorted(group.names) for group in groups]
    [['ln_final.weight', 'token_embeddings.weight'], ['layers.0.ffn.w1.weight']]

    `lr_factor` gives AdamW's factor of each parameter; an update that grows more slowly with the width has a power of
    it (`UpdateRule.width_power`).
    """
    rules = OPTIMIZERS[optimizer]
    members: dict[tuple[UpdateRule, float], set[str]] = {}
    for name in names:
        rule = rules.hidden_matrices if is_hidden_matrix(name) else rules.others
        members.setdefault((rule, lr_factor(name) ** rule.width_power), set()).add(name)
    return [ParameterGroup(rule, frozenset(group), factor) for (rule, factor), group in members.items()]
