"""Rows `loss` (head and loss, both ways) and `update` (clipping and AdamW), against torch's."""

from typing import Any

from lmcore.params import count_parameters
from tests.bench.core_arms import loss_arms, our_update, peak_bytes, torch_update, weights_made_once
from tests.bench.gpu.cases import Cases
from tests.bench.gpu.step_rows import Ceilings
from tests.bench.race import compared, race

UPDATE_BYTES = 32  # per parameter: `lmcore.profile.roofline`


def loss_row(shape: tuple[int, int, int], cases: Cases, device: str, limits: Ceilings, until: float) -> dict[str, Any]:
    """Milliseconds, ratio to the best peer, share of the bound, and peak memory over that of the logits."""
    positions, width, vocabulary = shape
    arms = loss_arms(positions, width, vocabulary, device)
    ours = tuple(arm for arm in arms if arm.startswith("ours"))
    times = race(arms, cases.rounds, device, cases.turn_s, until)
    found = compared(times, ours, tuple(arm for arm in arms if arm not in ours))
    element = 2 if device == "cuda" else 4
    products = 3 * 2 * positions * width * vocabulary
    moved = 3 * element * positions * vocabulary  # the logits read twice, their gradient written
    bound_s = max(products / limits.flops_per_s, moved / limits.bytes_per_s)
    logits = element * positions * vocabulary
    return found | {
        "rounds": len(times[ours[0]]),
        "shape": {"positions": positions, "width": width, "vocabulary": vocabulary},
        "share_of_bound": round(1e3 * bound_s / found["ms"][found["ours"]], 3),
        "peak_over_logits": {arm: round(peak_bytes(arms[arm], device) / logits, 3) for arm in arms},
    }


def update_row(slots: int, cases: Cases, device: str, limits: Ceilings, until: float) -> dict[str, Any]:
    """Milliseconds, ratio to torch's clipping and fused AdamW model after model, and share of the bandwidth."""
    model = cases.optimizer
    with weights_made_once():
        arms = {"ours": our_update(model, slots, device), "torch": torch_update(model, slots, device)}
        if device == "cuda":
            arms["ours compiled"] = our_update(model, slots, device, compiled=True)
    times = race(arms, cases.rounds, device, cases.turn_s, until)
    found = compared(times, tuple(arm for arm in arms if arm != "torch"), ("torch",))
    parameters = slots * int(count_parameters(model))
    bytes_per_s = UPDATE_BYTES * parameters / (found["ms"][found["ours"]] / 1e3)
    return found | {
        "rounds": len(times["ours"]),
        "parameters": parameters,
        "share_of_bandwidth": round(bytes_per_s / limits.bytes_per_s, 3),
    }
