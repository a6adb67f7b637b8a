"""Mistakes in the user's input: the exception that reports them, and the pieces of a command line that do."""

import argparse
import math
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


class InputError(ValueError):
    """The user's input is wrong. The message is one line: the rule, the offending value, the remedy.

    Entry points print the message alone and exit with code 2. Any other exception is a bug and keeps its traceback.

    >>> raise InputError("train.steps: must be > 0 (got -1); the default is 200")
    Traceback (most recent call last):
    lmcore.errors.InputError: train.steps: must be > 0 (got -1); the default is 200
    """


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line on stderr, with exit code 2, instead of the whole usage.

    >>> parser = OneLineParser(prog="demo")
    >>> _ = parser.add_argument("--steps", type=number_type(int, "a whole number >= 1", lambda n: n >= 1))
    >>> parser.parse_args(["--steps", "5"]).steps
    5
    """

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message}; see --help\n")


def number_type(kind: type[int] | type[float], rule: str, is_valid: Callable[[float], bool]) -> Callable[[str], float]:
    """An argparse `type` for finite numbers that satisfy `is_valid`; `rule` states the condition in error messages."""

    def parse(text: str) -> float:
        with suppress(ValueError, OverflowError):
            value = kind(text)
            if math.isfinite(value) and is_valid(value):
                return value
        raise argparse.ArgumentTypeError(f"must be {rule} (got {text!r})")

    return parse
