"""A source of text as a stream of documents, and its split into training and validation documents.

The files are read twice: `scan_text` finds out which of them are text, how many documents they hold, and a digest of
these; then the documents are read again to be tokenized. Neither keeps them in memory. Which files a source names is in
`lmcore.corpus.text_files`, how each is read in `lmcore.corpus.text_formats`.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from lmcore.corpus.pieces import Fits, Fragment, Piece, pieces, split_at
from lmcore.corpus.reading import MOST_LISTED, Reading, SkippedFile
from lmcore.corpus.text_files import text_files
from lmcore.corpus.text_formats import NotTextError, is_compressed, read_fragments
from lmcore.errors import InputError

END_OF_TEXT = "<|endoftext|>"
"""Separates documents, both in text files and as a token."""
MIN_DOCUMENTS_TO_HOLD_OUT = 20

Split = Literal["train", "val"]
Report = Callable[[str, float, float], None]
"""Told how far something is: what it is, how many bytes are done, and of how many (0: nobody knows)."""


def no_report(what: str, done: float, total: float) -> None:
    """A `Report` that is not wanted."""


@dataclass(frozen=True)
class TextSource:
    """The documents of a source, which are read anew each time."""

    files: tuple[Path, ...]  # those that are text
    reading: Reading
    digest: str  # sha256 in hex over the documents
    lengths: tuple[int, ...]  # characters of each document, if there are fewer than MIN_DOCUMENTS_TO_HOLD_OUT
    text_field: str
    separators: tuple[str, ...]

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self.reading.documents or 0

    def fragments(self) -> Iterator[Fragment]:
        """All documents as they are read."""
        for file in self.files:
            yield from _documents(file, self.text_field, self.reading.field, self.separators)


def scan_text(
    source: str,
    field: str = "data.source",
    text_field: str = "text",
    end_of_text: str | None = None,
    report: Report = no_report,
) -> TextSource:
    """Read a source of text once. Blank documents do not count, and none contains `<|endoftext|>` or `end_of_text`.

    Of several files, those that are not text are skipped, and named in the reading.

    Raises InputError if the source cannot be read or contains no text. The message starts with `field`.

    >>> scan_text("stdlib").reading.skipped
    0
    """
    separators = (END_OF_TEXT,) if end_of_text is None else (END_OF_TEXT, end_of_text)
    good: list[Path] = []
    skipped: list[SkippedFile] = []
    lengths: list[int] = []
    count, size = 0, 0
    digest = hashlib.sha256()
    try:
        files, named = text_files(source, field)
        # Of compressed files nobody knows how many bytes of text they hold.
        compressed = any(map(is_compressed, files))
        sizes = [0 if compressed else file.stat().st_size for file in files]
        before, total = 0, sum(sizes)
        for file, file_size in zip(files, sizes, strict=True):

            def tell(done: int, before: int = before, most: int = file_size) -> None:
                report(f"reading {source}", before + (min(done, most) if most else done), total)

            try:
                own = _scan(_documents(file, text_field, field, separators), tell)
            except NotTextError as error:
                if named:
                    raise InputError(_no_text(file, str(error), field)) from error
                skipped.append(SkippedFile(path=str(file), why=str(error)))
            else:
                good.append(file)
                digest.update(own.digest)
                count, size = count + own.documents, size + own.size
                lengths += own.lengths
                before += 0 if file_size else own.size
            before += file_size
    except OSError as error:
        raise InputError(
            f"{field}: must be readable, but {str(error.filename or source)!r} is not ({error.strerror}); "
            "check its permissions"
        ) from error
    if not count:
        why = f" (skipped: {len(skipped)} files, the first one {skipped[0].path}, {skipped[0].why})" if skipped else ""
        raise InputError(
            f"{field}: must contain text, but {source!r} has none in UTF-8{why}; name another file or folder"
        )
    reading = Reading(
        field=field,
        files=len(good),
        documents=count,
        bytes=size,
        skipped=len(skipped),
        skipped_files=tuple(skipped[:MOST_LISTED]),
        notes=() if end_of_text in (None, END_OF_TEXT) else (f"{end_of_text} in the text separates documents",),
    )
    kept = tuple(lengths) if count < MIN_DOCUMENTS_TO_HOLD_OUT else ()
    return TextSource(tuple(good), reading, digest.hexdigest(), kept, text_field, separators)


def split_pieces(source: TextSource, val_fraction: float, fits: Fits) -> Iterator[tuple[Split, Piece]]:
    """The documents in pieces (`lmcore.corpus.pieces`), each with the split that it belongs to.

    From 20 documents on, about `val_fraction` of the documents (at least one) is held out, evenly spaced over the list
    so that validation is not an alphabetical tail. With fewer documents, the last `val_fraction` of the characters is
    held out, cut at the start of a line if possible.

    Raises InputError if the text is too short to give each split one character.
    """
    fragments = _split_evenly(source, val_fraction) if not source.lengths else _split_at_tail(source, val_fraction)
    for split, group in itertools.groupby(fragments, key=lambda one: one[0]):
        yield from ((split, piece) for piece in pieces(((text, ends) for _, text, ends in group), fits))


def pieces_as(split: Split, source: TextSource, fits: Fits) -> Iterator[tuple[Split, Piece]]:
    """All documents of the source in pieces, as one split."""
    return ((split, piece) for piece in pieces(source.fragments(), fits))


def _split_evenly(source: TextSource, val_fraction: float) -> Iterator[tuple[Split, str, bool]]:
    count = source.documents
    val_count = min(max(round(val_fraction * count), 1), count - 1)
    # The middle document of each of val_count equal stretches.
    held_out = {(2 * i + 1) * count // (2 * val_count) for i in range(val_count)}
    number = 0
    for text, ends in source.fragments():
        yield "val" if number in held_out else "train", text, ends
        number += ends


def _split_at_tail(source: TextSource, val_fraction: float) -> Iterator[tuple[Split, str, bool]]:
    total = sum(source.lengths)
    if total < 2:
        raise InputError(
            f"data.source: must leave text for training and validation, but has {total} character; bring more"
        )
    left = min(max(round((1 - val_fraction) * total), 1), total - 1)
    cut_in = 0  # the document that is cut
    while left > source.lengths[cut_in]:
        left -= source.lengths[cut_in]
        cut_in += 1
    cut = left if left == source.lengths[cut_in] else _line_start(source.fragments(), cut_in, left)
    number, position = 0, 0
    for text, ends in source.fragments():
        if number != cut_in:
            yield "train" if number < cut_in else "val", text, ends
        else:
            at = min(max(cut - position, 0), len(text))
            if at:  # the part before the cut is a document of its own
                yield "train", text[:at], position + at == cut
            if position + at >= cut:
                yield "val", text[at:], ends
        number, position = (number + 1, 0) if ends else (number, position + len(text))


def _line_start(fragments: Iterable[Fragment], document: int, cut: int) -> int:
    """Where in a document the line begins that the character before `cut` is on; `cut` if it is on the first line."""
    number, position, found = 0, 0, 0
    for text, ends in fragments:
        if number == document:
            if (line_break := text.rfind("\n", 0, max(cut - position, 0))) >= 0:
                found = position + line_break + 1
            position += len(text)
        number += ends
        if number > document or position >= cut:
            break
    return found or cut


class _Scanned(NamedTuple):
    documents: int
    lengths: list[int]  # characters of the first MIN_DOCUMENTS_TO_HOLD_OUT documents
    size: int  # bytes of the text in UTF-8
    digest: bytes


def _scan(documents: Iterator[Fragment], tell: Callable[[int], None]) -> _Scanned:
    """Count the documents of one file, and hash them and the boundaries between them."""
    digest = hashlib.sha256()
    lengths: list[int] = []
    count, chars, size, begun = 0, 0, 0, 0
    for text, ends in documents:
        content = text.encode("utf-8")
        digest.update(content)
        chars, size = chars + len(text), size + len(content)
        if ends:
            digest.update(b"\n%d\n" % (size - begun))
            if len(lengths) < MIN_DOCUMENTS_TO_HOLD_OUT:
                lengths.append(chars)
            count, chars, begun = count + 1, 0, size
        tell(size)
    return _Scanned(count, lengths, size, digest.digest())


def _documents(file: Path, text_field: str, field: str, separators: tuple[str, ...]) -> Iterator[Fragment]:
    """The documents of a file that are not blank."""
    held, blank = "", True  # white space before the first other character of a document
    for text, ends in split_at(read_fragments(file, text_field, field), separators):
        if blank:
            held += text
            if not (blank := not held.strip()):
                yield held, ends
        else:
            yield text, ends
        if ends:
            held, blank = "", True


def _no_text(file: Path, why: str, field: str) -> str:
    remedy = "convert it, or name a .npy or .bin of tokens"
    if why.startswith("not UTF-8"):
        remedy = "convert it, for example with iconv -f WINDOWS-1252 -t UTF-8, or name a .npy or .bin of tokens"
    return f"{field}: must be UTF-8 text, but {str(file)!r} is not: {why}; {remedy}"
