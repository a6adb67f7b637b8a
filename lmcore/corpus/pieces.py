"""Documents in pieces: what is read, tokenized and dropped again, so that no document must fit into memory.

A document is cut where its tokens are the same with and without the cut: at a line break, at a space, or before
punctuation. Whether they are is tried on the characters around each cut. If they are the same nowhere, it is cut at a
line break or a space, and text without these, such as DNA, after PIECE_CHARS characters. Where the cuts are depends on
the document alone, and not on how it was read.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

PIECE_CHARS = 1 << 15
CONTEXT_CHARS = 64  # on each side of a cut
TRIES = 4  # places of one kind that are tried for a cut

# The usual pre-tokenizers split at these places, some at each. "\\r\\n" is one unit for some and two for others.
# With each pattern: how many characters from its start the cut is. Patterns that begin with a character are fast.
_PLACES = [
    (re.compile(r"\n(?<=\S\n)(?=\S)"), 1),
    (re.compile(r"\r\n(?<=\S\r\n)(?=\S)"), 2),
    (re.compile(r"\r(?<=\S\r)(?=\n\S)"), 1),
    (re.compile(r" (?<=\S )(?=\S)"), 0),
    (re.compile(r"(?<=\w)(?=[^\w\s])"), 0),
]

Fragment = tuple[str, bool]
"""Some text of a document, and whether it ends the document."""
Fits = Callable[[str, str], bool]
"""Whether two texts that follow each other have the same tokens apart as together."""


class Piece(NamedTuple):
    """A part of a document."""

    text: str
    ends_document: bool
    whole_words: bool = True  # False if it was cut anywhere, because there was no place for it


def pieces(fragments: Iterable[Fragment], fits: Fits) -> Iterator[Piece]:
    """The documents in pieces of PIECE_CHARS to 2 PIECE_CHARS characters.

    A shorter document is one piece, and an empty one none.

    >>> list(pieces([("a line\n", False), ("and more", True)], lambda left, right: True))
    [Piece(text='a line\nand more', ends_document=True, whole_words=True)]
    """
    rest = ""
    for text, ends in fragments:
        rest = rest + text if rest else text
        while len(rest) > PIECE_CHARS and (ends or len(rest) > 2 * PIECE_CHARS + CONTEXT_CHARS):
            cut = _cut(rest, fits)
            if cut is None and len(rest) <= 2 * PIECE_CHARS:
                break
            yield Piece(rest[: cut or PIECE_CHARS], False, cut is not None)
            rest = rest[cut or PIECE_CHARS :]
        if ends and rest:
            yield Piece(rest, True)
            rest = ""


def _cut(text: str, fits: Fits) -> int | None:
    """Where to cut `text`, at PIECE_CHARS or after; None if there is no place within as many characters again.

    If each cut changes tokens, it is the first line break or space: some tokenizers begin every text with a space.
    """
    first = None
    for place, after in _PLACES:
        position = PIECE_CHARS
        for _ in range(TRIES):
            if (found := place.search(text, position - after, 2 * PIECE_CHARS)) is None:
                break
            cut = found.start() + after
            first = first or (cut if found.group() else None)  # not before punctuation, where no word need end
            if fits(text[cut - CONTEXT_CHARS : cut], text[cut : cut + CONTEXT_CHARS]):
                return cut
            position = cut + 1
    return first


def split_at(fragments: Iterable[Fragment], separators: tuple[str, ...]) -> Iterator[Fragment]:
    """The same text with a document's end at each separator, which is left out.

    >>> list(split_at([("one<|endoft", False), ("ext|>two", True)], ("<|endoftext|>",)))
    [('one', True), ('two', True)]
    """
    pattern = re.compile("|".join(map(re.escape, separators)))
    held = max(map(len, separators)) - 1  # a separator may go on in the next fragment
    rest = ""
    for text, ends in fragments:
        *documents, rest = pattern.split(rest + text)
        yield from ((document, True) for document in documents)
        if ends:
            yield rest, True
            rest = ""
        elif len(rest) > held:
            keep = len(rest) - held
            yield rest[:keep], False
            rest = rest[keep:]
