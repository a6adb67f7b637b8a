"""How many trials each size gets where larger sizes learn from smaller ones (`transfer: on`).

What is known grows from size to size, and so does what a trial costs. So each size gets half the trials of the one
before it, but at least `LEAST`: the prediction, two settings around it, and one from the whole space.
`sweeps.study.transfer` says how settings are predicted. Only configs are looked at here.
"""

import itertools
from typing import TYPE_CHECKING

from lmcore.params import flops_per_token
from lmcore.runfile.paths import FieldError
from sweeps.spec.entries import is_numeric
from sweeps.spec.settings import LISTED

if TYPE_CHECKING:
    from sweeps.spec.sweep_spec import SweepSpec

LEAST = 4


def why_off(spec: "SweepSpec") -> str | None:
    """Why no size can learn from another, as a rule that `transfer` breaks; None if they can.

    >>> from sweeps.spec.sweep_spec import SweepSpec
    >>> why_off(SweepSpec(name="one", space={"optim.lr": [1e-3, 3e-3, 1e-2]}))
    'have at least two sizes (got 1)'
    """
    if spec.search.method in LISTED:
        return f"be off for the search method {spec.search.method}, whose trials are listed"
    if spec.search.time is not None and spec.search.trials is None:
        return "come with search.trials, which it deals out to the sizes (got search.time alone)"
    if len(spec.size_names) < 2:
        return f"have at least two sizes (got {len(spec.size_names)})"
    if not any(map(is_numeric, spec.searched.values())):
        return "have a number to search, as optima of other choices follow no law (got none)"
    return None


def check(spec: "SweepSpec") -> None:
    """FieldError if sizes are to learn from each other and cannot."""
    if not spec.transfers:
        return
    if (rule := why_off(spec)) is not None:
        raise FieldError("transfer", f"must {rule}; change that, or set transfer: off")
    if any(plan.group == "next" or plan.group.startswith("next-") for plan in spec.studies):
        raise FieldError("sizes", "must not be called next, which best/next.yaml is (got next); rename that size")
    counts = [spec.trials_in(plan) for plan in spec.studies]
    if not min(counts):
        got = f"(got {sum(counts)} for {len(counts)})"
        raise FieldError("search.trials", f"must be at least 1 for each size and arm {got}; raise it")
    if spec.ladder is not None:
        return  # which makes them in order
    runs = [spec.run_for(size, {}) for size in spec.size_names]
    flops = [flops_per_token(run.model) * run.tokens_per_step * run.steps for run in runs]
    for (small, before), (large, after) in itertools.pairwise(zip(spec.size_names, flops, strict=True)):
        if after < before:
            rule = f"must be in the order of their training FLOPs with transfer: on (got {small} before {large})"
            raise FieldError("sizes", f"{rule}; sort them")


def trials_by_size(total: int, sizes: int, arms: int = 1) -> list[list[int]]:
    """Trials of each size and arm, smallest size first, `total` together; None of them more than the one before.

    >>> trials_by_size(32, sizes=4)
    [[16], [8], [4], [4]]

    If the total is too small for the rule, all sizes and arms get the same, to within one.
    """
    if total < LEAST * sizes * arms:
        count, more = divmod(total, sizes * arms)
        return [[count + (size * arms + arm < more) for arm in range(arms)] for size in range(sizes)]
    first = LEAST
    while sum(halving(first + 1, sizes)) * arms <= total:
        first += 1
    counts = [[count] * arms for count in halving(first, sizes)]
    left = total - sum(map(sum, counts))
    for place in range(left):  # to the smallest sizes, where trials are cheap
        size, arm = divmod(place, arms)
        counts[size % sizes][arm] += 1
    return counts


def halving(first: int, sizes: int) -> list[int]:
    """`first` trials, and for each further size half of those before it, at least `LEAST`.

    >>> halving(20, 4)
    [20, 10, 5, 4]
    """
    counts = [first]
    for _ in range(sizes - 1):
        counts.append(max(LEAST, counts[-1] // 2))
    return counts
