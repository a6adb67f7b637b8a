"""Which training worker each trial is on; the driver's bookkeeping, with no Ray."""

from collections.abc import Sequence


class Placement:
    """Spreads trials over workers, which may come and go.

    A worker takes as many trials as it has slots, and one more that is queued there: when a slot becomes free, the
    worker need not wait until the driver has told the study and asked it for another trial.

    Args:
        slots: how many trials of each size fit on a worker, at least 1.

    >>> placement = Placement(slots={"xs": 4})
    >>> placement.add_worker(0)
    >>> placement.add_worker(1)
    >>> placement.capacity, placement.queue_capacity
    (8, 2)
    >>> placement.place("xs-0000", "xs", placement.free_worker())
    >>> placement.free_worker()
    1
    """

    def __init__(self, slots: dict[str, int]) -> None:
        self._slots = slots
        self._workers: dict[int, dict[str, str]] = {}  # trial -> size, by worker
        self._closed: set[int] = set()
        self._homeless: dict[str, str] = {}  # trials whose worker is gone, until they report from another one

    def add_worker(self, worker: int) -> None:
        """Place trials on this worker from now on."""
        self._workers[worker] = {}

    def close_worker(self, worker: int) -> None:
        """Place no more trials on this worker."""
        self._closed.add(worker)

    def remove_worker(self, worker: int) -> list[str]:
        """Forget a worker and return the trials that it had; their proxies submit them elsewhere."""
        self._closed.discard(worker)
        trials = self._workers.pop(worker, {})
        self._homeless |= trials
        return list(trials)

    @property
    def capacity(self) -> int:
        """Largest number of trials that can train at a time."""
        return len(self._workers) * max(self._slots.values())

    @property
    def queue_capacity(self) -> int:
        """Number of trials that can be queued beside those that train."""
        return len(self._workers)

    @property
    def trials(self) -> int:
        """Number of trials that were placed and have not ended."""
        return len(self._homeless) + sum(map(len, self._workers.values()))

    def load(self, worker: int) -> int:
        """Number of trials on a worker."""
        return len(self._workers.get(worker, {}))

    def free_worker(self) -> int | None:
        """The worker with the lowest load; None if every worker has a queued trial."""
        open_workers = {
            number: list(here.values()) for number, here in self._workers.items() if number not in self._closed
        }
        loads = {number: self._load(sizes) for number, sizes in open_workers.items()}
        # The newest trial is not counted: it may be queued. 1e-9 absorbs the rounding of, say, 3 * (1/3).
        free = [number for number, sizes in open_workers.items() if self._load(sizes[:-1]) < 1 - 1e-9]
        return min(free, key=loads.__getitem__, default=None)

    def best_size(self, worker: int, sizes: Sequence[str]) -> str:
        """The size to place next: one that the worker has most of, else the rarest, else the first of `sizes`."""
        here = list(self._workers[worker].values())
        everywhere = [size for trials in self._workers.values() for size in trials.values()]
        return min(sizes, key=lambda size: (-here.count(size), everywhere.count(size)))

    def place(self, trial: str, size: str, worker: int) -> None:
        """Note that the trial was submitted to the worker, or would have been if that were not gone."""
        self._workers.get(worker, self._homeless)[trial] = size

    def move(self, trial: str, worker: int) -> None:
        """Note that a trial is on this worker now. Unknown trials and workers are ignored."""
        if worker not in self._workers or trial in self._workers[worker]:
            return
        for trials in (*self._workers.values(), self._homeless):
            if trial in trials:
                self._workers[worker][trial] = trials.pop(trial)
                return

    def remove(self, trial: str) -> list[int]:
        """Forget a trial and return the workers that may have it: of one that is between two workers, all."""
        for number, trials in self._workers.items():
            if trials.pop(trial, None) is not None:
                return [number]
        return list(self._workers) if self._homeless.pop(trial, None) is not None else []

    def _load(self, sizes: Sequence[str]) -> float:
        """Fraction of a worker's slots that trials of these sizes take."""
        return sum(1 / self._slots[size] for size in sizes)
