"""Mistakes in the user's input: the exception that reports them, and the pieces of a command line that do."""

import argparse
import math
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from lmcore.printable import printable
from lmcore.terminal.width import terminal_width


class InputError(ValueError):
    """The user's input is wrong. The message is one line: the rule, the offending value, the remedy.

    Entry points print the message alone and exit with code 2. Any other exception is a bug and keeps its traceback.

    >>> raise InputError("train.steps: must be > 0 (got -1); the default is 200")
    Traceback (most recent call last):
    lmcore.errors.InputError: train.steps: must be > 0 (got -1); the default is 200
    """


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line on stderr, with exit code 2, instead of the whole usage.

    An unknown option names the one that was probably meant. `--help` is laid out for the terminal
    (`lmcore.terminal.help`): in a description and an epilog, indented lines stay lines.

    >>> parser = OneLineParser(prog="demo")
    >>> _ = parser.add_argument("--steps", type=number_type(int, "a whole number >= 1", lambda n: n >= 1))
    >>> parser.parse_args(["--steps", "5"]).steps
    5
    """

    def format_help(self) -> str:
        from lmcore.terminal.help import HelpFormatter  # rich is imported only where it is needed

        self.formatter_class = HelpFormatter
        return super().format_help()

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """The options; an unknown one is an error that says what was probably meant."""
        values, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(self.mistyped(rest))
        return values

    def mistyped(self, words: Sequence[str]) -> str:
        """What to say about words that are neither options nor arguments of this command."""
        from lmcore.terminal.mistyped import nearest_option

        option = next((word for word in words if word.startswith("-")), None)
        meant = option and nearest_option(option, self._option_string_actions)
        if option is None or meant is None:
            return f"unrecognized arguments: {' '.join(words)}"
        return f"{option.partition('=')[0]} is not an option; did you mean {meant}?"

    def error(self, message: str) -> NoReturn:
        print_error(f"{printable(message)}; see --help")
        self.exit(2)


def print_error(error: object) -> None:
    """Print an error to stderr: in one line, which a terminal that is too narrow shows broken between words.

    >>> print_error(InputError("optim.lr must be > 0 (got -1.0); choose a positive number"))
    """
    width = terminal_width(sys.stderr)
    lines = [str(error)]
    if width is not None:
        lines = textwrap.wrap(str(error), width, break_on_hyphens=False, break_long_words=False)
    print("\n".join(lines), file=sys.stderr)


def number_type(kind: type[int] | type[float], rule: str, is_valid: Callable[[float], bool]) -> Callable[[str], float]:
    """An argparse `type` for finite numbers that satisfy `is_valid`; `rule` states the condition in error messages."""

    def parse(text: str) -> float:
        with suppress(ValueError, OverflowError):
            value = kind(text)
            if math.isfinite(value) and is_valid(value):
                return value
        raise argparse.ArgumentTypeError(f"must be {rule} (got {text!r})")

    return parse
