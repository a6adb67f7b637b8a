"""`CompileOnce`: one process of this machine compiles a program, for which the others wait (`lmcore.program_cache`)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from lmcore.config import TrainConfig
from lmcore.model import TransformerLM
from lmcore.program_cache import compiled_once, note_compiled, program_name


class CompileOnce:
    """Guards the first run of each program of a trainer on a CPU; on GPUs every process compiles for itself.

    What it guards has to include the backward pass, which torch compiles when that is run first.

        once = CompileOnce(train)
        with once(model, slots=2, windows=16):
            population.step(...)

    Args:
        train: resolved.
    """

    def __init__(self, train: TrainConfig) -> None:
        self._train = train
        self._compiles = bool(train.compile) and train.device == "cpu"
        self._ran: set[tuple[int, int, str, bool]] = set()

    @contextmanager
    def __call__(
        self, model: TransformerLM, slots: int, windows: int, meanwhile: Callable[[], object] = lambda: None
    ) -> Iterator[None]:
        """For one call of the program that takes tokens of shape [slots, windows, T].

        Whoever has to wait for it calls `meanwhile` first, which may compile another program.
        """
        gradients = torch.is_grad_enabled()
        program = (slots, windows, model.tying, gradients)
        if not self._compiles or program in self._ran:
            yield
            return
        self._ran.add(program)
        train, tying = self._train, model.tying
        name = program_name(model.config, train, slots=slots, tying=tying, windows=windows, gradients=gradients)
        with compiled_once(name, meanwhile=meanwhile):
            kept, lost = _counted()
            yield
            now_kept, now_lost = _counted()
            if now_kept > kept and now_lost == lost:
                note_compiled(name)


def _counted() -> tuple[int, int]:
    """How many programs this process has put into torch's cache or found there, and how many cannot be kept."""
    from torch._dynamo.utils import counters  # here because importing it takes longer than importing torch

    found = counters["aot_autograd"]
    return found["autograd_cache_saved"] + found["autograd_cache_hit"], found["autograd_cache_bypass"]
