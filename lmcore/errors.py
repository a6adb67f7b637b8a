"""Mistakes that a user can make: the one exception for them, and a command line that reports them in one line."""

import argparse
from typing import NoReturn


class InputError(ValueError):
    """The user's input is wrong. The message is one line: the rule, the offending value, the remedy.

    Entry points print the message alone and exit with code 2. Any other exception is a bug and keeps its traceback.
    """


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line on stderr, with exit code 2, instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit with code 2."""
        self.exit(2, f"{message}; see --help\n")
