"""Which training worker each trial is on; the driver's bookkeeping, with no Ray."""

from collections.abc import Sequence


class Placement:
    """Spreads trials over workers.

    A worker takes as many trials as it has slots, and one more that is queued there: when a slot becomes free, the
    worker need not wait until the driver has told the study and asked it for another trial.

    Args:
        workers: number of workers.
        slots: how many trials of each size fit on a worker, at least 1.

    >>> placement = Placement(workers=2, slots={"xs": 4})
    >>> placement.capacity, placement.queue_capacity
    (8, 2)
    >>> placement.place("xs-0000", "xs", placement.free_worker())
    >>> placement.free_worker()
    1
    """

    def __init__(self, workers: int, slots: dict[str, int]) -> None:
        self._slots = slots
        self._workers: list[dict[str, str]] = [{} for _ in range(workers)]  # trial -> size

    @property
    def capacity(self) -> int:
        """Largest number of trials that can train at a time."""
        return len(self._workers) * max(self._slots.values())

    @property
    def queue_capacity(self) -> int:
        """Number of trials that can be queued beside those that train."""
        return len(self._workers)

    def free_worker(self) -> int | None:
        """The worker with the lowest load; None if every worker has a queued trial."""
        loads = {number: self._load(list(trials.values())) for number, trials in enumerate(self._workers)}
        # The newest trial is not counted: it may be queued. 1e-9 absorbs the rounding of, say, 3 * (1/3).
        free = [n for n, trials in enumerate(self._workers) if self._load(list(trials.values())[:-1]) < 1 - 1e-9]
        return min(free, key=loads.__getitem__, default=None)

    def best_size(self, worker: int, sizes: Sequence[str]) -> str:
        """The size to place next: one that the worker has most of, else the rarest, else the first of `sizes`."""
        here = list(self._workers[worker].values())
        everywhere = [size for trials in self._workers for size in trials.values()]
        return min(sizes, key=lambda size: (-here.count(size), everywhere.count(size)))

    def place(self, trial: str, size: str, worker: int) -> None:
        """Note that the trial was submitted to the worker."""
        self._workers[worker][trial] = size

    def move(self, trial: str, worker: int) -> None:
        """Note that a trial is on this worker now. Unknown trials are ignored."""
        if trial in self._workers[worker]:
            return
        for trials in self._workers:
            if trial in trials:
                self._workers[worker][trial] = trials.pop(trial)
                return

    def remove(self, trial: str) -> int | None:
        """Forget a trial and return the worker that it was on."""
        for number, trials in enumerate(self._workers):
            if trials.pop(trial, None) is not None:
                return number
        return None

    def _load(self, sizes: Sequence[str]) -> float:
        """Fraction of a worker's slots that trials of these sizes take."""
        return sum(1 / self._slots[size] for size in sizes)
