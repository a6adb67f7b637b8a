"""Processes that are asked the same thing at the same moment, as the engines of a sweep train at the same time."""

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any


class Processes:
    """Processes that each hold what `make(*arguments)` returns, whose methods are what they are asked.

    Their clocks are the machine's (`time.perf_counter`), so times from several of them can be compared.

    Example:
        processes = Processes(2, Bench, size)
        first, second = processes.ask("burst", [setting, setting], 10)  # bench.burst(setting, 10) in both
        processes.close()
    """

    def __init__(self, number: int, make: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(number):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
            process.start()
            theirs.close()  # so that the death of a process ends the wait for its answer
            self._pipes.append(mine)
            self._processes.append(process)

    def ask(self, method: str, firsts: Sequence[Any], *others: Any) -> list[Any]:
        """The answers of the first `len(firsts)` processes, each asked about its own first argument.

        Raises RuntimeError with the traceback of a process that failed.
        """
        pipes = self._pipes[: len(firsts)]
        for pipe, first in zip(pipes, firsts, strict=True):
            pipe.send((method, first, *others))
        answers = [pipe.recv() for pipe in pipes]
        for _, error in answers:
            if error is not None:
                raise RuntimeError(error)
        return [answer for answer, _ in answers]

    def close(self) -> None:
        """End them."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def _serve(pipe: Connection, make: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Answer the parent's questions, `(method, *arguments)`, until it says None."""
    held = make(*arguments)
    while (question := pipe.recv()) is not None:
        method, *asked = question
        try:
            pipe.send((getattr(held, method)(*asked), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))
