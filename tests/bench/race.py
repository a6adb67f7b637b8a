"""Arms that take turns, so that whatever else the machine does meets all of them."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Arm = Callable[[], Any]


def race(
    arms: Mapping[str, Arm], rounds: int, device: str, turn_s: float = 0.3, until: float = math.inf
) -> dict[str, list[float]]:
    """Seconds of one call of each arm, in `rounds` rounds in which they take turns of about `turn_s`.

    Only the first round begins after `until`, a time of `time.perf_counter`.
    """
    for arm in arms.values():
        _warm_up(arm, 3 * turn_s)
    repeats = {}
    for name, arm in arms.items():
        repeats[name] = max(1, round(turn_s / _seconds(arm, 1, device)))
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for n in range(rounds):
        if n and time.perf_counter() > until:
            break
        for name in names[n % len(names) :] + names[: n % len(names)]:
            times[name].append(_seconds(arms[name], repeats[name], device))
    return times


def compared(rounds: Mapping[str, list[float]], ours: tuple[str, ...], peers: tuple[str, ...]) -> dict[str, Any]:
    """Median milliseconds, and the median ratio of the best peer to our best; which is best is decided by medians."""
    medians = {name: statistics.median(one) for name, one in rounds.items()}
    our, peer = (min(names, key=lambda name: medians[name]) for names in (ours, peers))
    ratios = [theirs / mine for theirs, mine in zip(rounds[peer], rounds[our], strict=True)]
    return {
        "ms": {name: round(1e3 * one, 3) for name, one in medians.items()},
        "ours": our,
        "peer": peer,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def forget() -> None:
    """Free the memory of arms and programs that nothing refers to."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _warm_up(arm: Arm, enough_s: float) -> None:
    """Call `arm` three times; fewer, but at least twice, if the calls after the first take longer than `enough_s`."""
    arm()
    began = time.perf_counter()
    for _ in range(2):
        arm()
        if time.perf_counter() - began > enough_s:
            return


def _seconds(arm: Arm, repeats: int, device: str) -> float:
    _wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        arm()
    _wait(device)
    return (time.perf_counter() - began) / repeats


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
