"""Checks of the fast forms of update and loss against their plain forms in float64."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lmcore.loss import linear_cross_entropy
from lmcore.model import TransformerLM
from lmcore.optim import adamw_coefficients, adamw_update_
from lmcore.population.population import Population, State
from tests.bench.gpu.cases import Cases
from tests.bench.gpu.record import Record

SLOTS, UPDATES = 3, 3
FLOAT32 = 1e-6
"""Relative error of float32 arithmetic, which the textbook update in float32 has too."""
LOSS_FLOAT32 = 1e-5
PARTS = ("losses", "gradient of hidden states", "gradient of the head")
PLAIN_TIMES = 1.5
"""How much larger the error of our loss in bfloat16 may be than that of torch's own operations: its gradients are
rounded once more, when they are divided by the number of positions."""


def check_forms(cases: Cases, device: str, record: Record) -> None:
    """Make all checks; `Record.check` keeps them."""
    for compiled in (False, True):
        name = "compiled update" if compiled else "update of slots"
        sentence = "of all slots at once is adamw_update_ in float64"
        record.check(
            name,
            f"the{' compiled' if compiled else ''} update {sentence}",
            update_error(cases, device, compiled),
            FLOAT32,
        )
    for dtype in (torch.float32, torch.bfloat16):
        _check_loss(cases, device, record, dtype)


def update_error(cases: Cases, device: str, compiled: bool) -> float:
    """Largest relative error of weights and moments after a few updates of slots with hyperparameters of their own."""
    model = TransformerLM(cases.checked, SLOTS, seeds=range(SLOTS)).to(device)
    population = Population(model, compiled=compiled)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    state: State = {"weights": weights, **population.state}
    exact = {part: {name: tensor.double() for name, tensor in named.items()} for part, named in state.items()}
    theta, m, v = exact.values()
    generator = torch.Generator().manual_seed(0)
    for step in range(1, UPDATES + 1):
        rows = [adamw_coefficients(1e-3 * (k + 1), (0.8 + k / 20, 0.95), 1e-8, 0.1, step) for k in range(SLOTS)]
        grads = {name: torch.randn(p.shape, generator=generator).to(device) for name, p in weights.items()}
        for name, grad in grads.items():
            for k, row in enumerate(rows):
                adamw_update_(theta[name][k], grad[k].double(), m[name][k], v[name][k], row)
        unclipped = torch.ones(SLOTS, device=device)
        with torch.no_grad():
            population._update_slots_at_once(grads, torch.tensor(rows).T.to(device), unclipped, None)
    return max(_error(tensor, exact[part][name]) for part, named in state.items() for name, tensor in named.items())


def _check_loss(cases: Cases, device: str, record: Record, dtype: torch.dtype) -> None:
    """Losses of slots and both gradients, against F.cross_entropy of the logits in float64."""
    positions, width, vocabulary = cases.loss
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(SLOTS, positions, width, generator=generator).to(device, dtype)
    weight = (0.1 * torch.randn(SLOTS, vocabulary, width, generator=generator)).to(device, dtype)
    targets = torch.randint(vocabulary, (SLOTS, positions), generator=generator).to(device)

    def plain(hidden: Tensor, weight: Tensor) -> Tensor:
        logits = hidden @ weight.transpose(1, 2)
        at_least_float = torch.promote_types(logits.dtype, torch.float32)
        return torch.stack([F.cross_entropy(o.to(at_least_float), y) for o, y in zip(logits, targets, strict=True)])

    def fused(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, targets, fused=True)

    def chunked(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, targets)

    exact = _with_gradients(plain, hidden.double(), weight.double())
    simple = _with_gradients(plain, hidden, weight)
    kind = str(dtype).removeprefix("torch.")
    for name, form in (("chunked", chunked), ("fused", fused)):
        errors = [_error(mine, truth) for mine, truth in zip(_with_gradients(form, hidden, weight), exact, strict=True)]
        plain_errors = [_error(theirs, truth) for theirs, truth in zip(simple, exact, strict=True)]
        allowed = [max(LOSS_FLOAT32, PLAIN_TIMES * error) for error in plain_errors]
        record.check(
            f"{name} loss, {kind}",
            f"errors of the {name} loss in {kind} and its gradients against float64, over what torch's own explain",
            max(error / most for error, most in zip(errors, allowed, strict=True)),
            1.0,
            errors=dict(zip(PARTS, errors, strict=True)),
            errors_of_torch=dict(zip(PARTS, plain_errors, strict=True)),
        )


def _with_gradients(form: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Losses [K], and the gradients of hidden and weight of their weighted sum."""
    inputs = [one.detach().clone().requires_grad_() for one in (hidden, weight)]
    losses = form(*inputs)
    seeds = torch.arange(1, SLOTS + 1, device=losses.device, dtype=losses.dtype)
    return losses.detach(), *torch.autograd.grad(losses, inputs, seeds)


def _error(ours: Tensor, truth: Tensor) -> float:
    """|ours - truth| / |truth| in float64; 0 if both are zero."""
    truth = truth.double()
    norm = float(truth.norm())
    distance = float((ours.double() - truth).norm())
    return distance / norm if norm else distance
