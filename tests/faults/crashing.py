"""A process killed at every step of a write: before, halfway through and after each write, and before each sync,
renaming and removal. What the kernel has taken stays, as after any `kill -9`."""

import builtins
import io
import itertools
import os
import signal

CALLS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


class Moments:
    """Counts moments in the life of a process, and kills it at number `fatal`."""

    def __init__(self, fatal):
        self.fatal = fatal
        self.passed = 0

    def one(self):
        if self.passed == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1


class MortalFile(io.FileIO):
    """A file whose every write may be the last thing that happens, whole or in part."""

    moments = None

    def write(self, data):
        self.moments.one()
        half = memoryview(data).cast("B")[: len(memoryview(data).cast("B")) // 2]
        if self.moments.passed == self.moments.fatal:
            super().write(half)
        self.moments.one()
        return super().write(data)


def mortal(moments):
    """Make this process one that dies at its moment; for a child that ends soon, as nothing is put back."""
    MortalFile.moments = moments
    real = io.open

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        moments.one()
        raw = MortalFile(file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    builtins.open = io.open = opened
    for name in CALLS:
        call = getattr(os, name)

        def mortal_call(*arguments, call=call, **options):
            moments.one()
            return call(*arguments, **options)

        setattr(os, name, mortal_call)


def killed_at_every_moment(prepare, write, check):
    """Call `prepare()`, kill a child at the next moment of `write()`, call `check()`; until the child outlives it.

    How many moments there were.
    """
    for fatal in itertools.count():
        prepare()
        child = os.fork()
        if child == 0:
            try:
                mortal(Moments(fatal))
                write()
            except BaseException:  # a child of pytest must never go on as pytest
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            check()
            return fatal
        assert os.WTERMSIG(status) == signal.SIGKILL
        check()
