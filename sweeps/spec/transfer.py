"""How many trials each size gets where larger sizes learn from smaller ones (`transfer: on`).

What is known grows from size to size, and so does what a trial costs. So each size gets half the trials of the one
before it, but at least `LEAST`: the prediction, two settings around it, and one from the whole space.
`sweeps.study.transfer` says how settings are predicted.
"""

LEAST = 4


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
