"""Whether compiling pays on a CPU: the training that its programs would serve against what compiling them costs.

Compiling saves a share of the training time, so what it must save is a number of FLOPs: the same on a slow CPU, which
compiles slowly, too. All runs of one shape in a process share its program, and so do processes of the same shape one
after the other, as torch keeps programs on disk (`lmcore.program_cache`).
"""

from typing import NamedTuple

COLD_FLOPS = 1.5e13
"""FLOPs of one process from which on compiling a program pays that is not in torch's cache.

It is C F / (1 - 1 / R), if compiling takes C seconds, and then F FLOP/s become R F. At 1.33M parameters, with two
processes of one thread on two cores, C is 26 s, F 4e10 to 6e10 and R 1.08 to 1.18, which makes 7e12 to 2e13.
"""
WARM_FLOPS = 2.5e12
"""The same for a program that is in the cache: C is 4 s."""


class CompileWork(NamedTuple):
    """What one process is expected to train on a CPU.

    >>> work = CompileWork(flops=3e12)
    >>> work.pays, work._replace(warm=1).pays
    (False, True)
    """

    flops: float
    """FLOPs of all its runs."""
    programs: int = 1
    """How many shapes these have, each of which is a program."""
    warm: int = 0
    """How many of the programs are in the cache."""

    @property
    def pays(self) -> bool:
        """Whether the runs take less time compiled, compiling included."""
        return self.flops >= self._break_even

    @property
    def reason(self) -> str:
        """The comparison, in words for the user.

        >>> CompileWork(flops=6e13, programs=2).reason
        '3.0e+13 FLOPs for each engine and shape, at least 1.5e+13 (cold cache)'
        """
        comparison = "at least" if self.pays else "less than"
        state = {0: "cold cache", self.programs: "warm cache"}.get(self.warm)
        state = state or f"{self.warm} of {self.programs} shapes cached"
        each, least = self.flops / self.programs, self._break_even / self.programs
        return f"{each:.1e} FLOPs for each engine and shape, {comparison} {least:.2g} ({state})"

    @property
    def _break_even(self) -> float:
        return (self.programs - self.warm) * COLD_FLOPS + self.warm * WARM_FLOPS
