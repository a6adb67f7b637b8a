r"""Text from a file that somebody else may have written, made safe to print on a terminal.

Control characters can clear the screen, rewrite what was said before, or change the order of the letters; they become
escapes such as `\x1b`. Line breaks and tabs stay.
"""

import re
from typing import Any

# C0 and C1 controls but tab and line feed; line separators; changes of writing direction; halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with its control characters as escapes.

    >>> printable("loss \x1b[2J")
    'loss \\x1b[2J'
    """
    if text.isprintable():
        return text
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def printable_values(value: Any) -> Any:
    r"""JSON with every text in it, keys included, made printable.

    >>> printable_values({"a\x07": ["b\x07", 1]})
    {'a\\x07': ['b\\x07', 1]}
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_values(name): printable_values(one) for name, one in value.items()}
    return [printable_values(one) for one in value] if isinstance(value, list) else value
