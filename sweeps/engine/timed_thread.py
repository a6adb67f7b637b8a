"""A thread for blocking calls of an asyncio actor that knows since when it has been busy."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class TimedThread:
    """Runs one function after the other.

    >>> thread = TimedThread("device")
    >>> asyncio.run(thread.run(max, 1, 2))
    2
    >>> thread.busy_since is None
    True
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)
        self.busy_since: float | None = None
        """When the function that is running began (time.monotonic); None while the thread is idle."""

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function in the thread and return its result.

        Raises:
            Exception: whatever the function raises.
        """

        def timed() -> R:
            self.busy_since = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                self.busy_since = None

        return await asyncio.get_running_loop().run_in_executor(self._executor, timed)

    def shutdown(self) -> None:
        """Wait for the running function and end the thread."""
        self._executor.shutdown()
