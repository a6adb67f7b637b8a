"""From documents to token ids, in memory that does not grow with the text."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers

from lmcore.corpus.pieces import Fits, Piece
from lmcore.corpus.text import Split
from lmcore.corpus.tokenizer import vocabulary_size

BATCH_CHARS = 1 << 20
"""Pieces are encoded in parallel, in batches, because an Encoding takes some hundred bytes per token."""


class Encoded:
    """Token ids of the training and validation documents, on disk, with the numbers that belong to them.

    The files have no name, so they are gone when the ids are no longer used. They are in `folder`, or if it cannot be
    written to or its disk is full, in the system's temporary folder.
    """

    def __init__(self, vocab_size: int, folder: Path) -> None:
        self._dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
        self._files: dict[Split, FileIO] = {"train": _unnamed(folder), "val": _unnamed(folder)}
        self.bytes: dict[Split, int] = {"train": 0, "val": 0}  # of the text in UTF-8
        self.cut_anywhere = 0  # pieces that were cut within a word

    def add(self, split: Split, ids: NDArray[np.unsignedinteger[Any]], piece: Piece) -> None:
        """Append the ids of a piece."""
        content = ids.astype(self._dtype, copy=False).tobytes()
        try:
            _append(self._files[split], content)
        except OSError:
            self._files[split] = _moved(self._files[split])
            _append(self._files[split], content)
        self.bytes[split] += len(piece.text.encode("utf-8"))
        self.cut_anywhere += not piece.whole_words

    def ids(self, split: Split) -> NDArray[np.unsignedinteger[Any]]:
        """All ids of a split: 1-D, memory-mapped."""
        file = self._files[split]
        return np.memmap(file, self._dtype, "r") if file.tell() else np.empty(0, self._dtype)


def encode(
    tokenizer: Tokenizer,
    pieces: Iterable[tuple[Split, Piece]],
    end_of_text: int | None,
    folder: Path,
    tell: Callable[[int], None] = lambda done: None,
) -> Encoded:
    """Encode documents; uint16 ids if the vocabulary fits, else uint32.

    Each document is followed by `end_of_text`, if there is one. No beginning-of-text token is added. Special tokens
    spelled out in the text are encoded as plain text. `tell` is called with the bytes that are done.
    """
    encoded = Encoded(vocabulary_size(tokenizer), folder)
    separator = [] if end_of_text is None else [end_of_text]
    tokenizer.encode_special_tokens = True
    for batch in _batches(pieces):
        encodings = tokenizer.encode_batch_fast([piece.text for _, piece in batch], add_special_tokens=False)
        for encoding, (split, piece) in zip(encodings, batch, strict=True):
            ids = np.array(encoding.ids + (separator if piece.ends_document else []), np.uint32)
            encoded.add(split, ids, piece)
        tell(sum(encoded.bytes.values()))
    return encoded


def fits_of(tokenizer: Tokenizer) -> Fits:
    """Whether two texts have the same tokens apart as together."""

    def fits(left: str, right: str) -> bool:
        together, *apart = tokenizer.encode_batch_fast([left + right, left, right], add_special_tokens=False)
        return bool(together.ids == apart[0].ids + apart[1].ids)

    tokenizer.encode_special_tokens = True
    return fits


def fits_words(left: str, right: str) -> bool:
    """Whether two texts have the same words apart as together, for the tokenizer that is about to be trained."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    return [word for word, _ in split(left + right)] == [word for text in (left, right) for word, _ in split(text)]


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.int64] | None:
    """Bytes of text that each id stands for: [V]; special tokens stand for none.

    None unless the tokenizer is a byte-level one that changes nothing of the text, such as those of GPT-2 and Llama 3,
    and of `train_tokenizer`. From the ids of others the text, and so its bytes, cannot be known: lower case, `<unk>`,
    accents and spaces may be lost.

    >>> token_bytes(train_tokenizer(["to be or not to be"], vocab_size=300))[:3]
    array([0, 1, 1])
    """
    if tokenizer.normalizer is not None or not _keeps_text(json.loads(tokenizer.to_str())["pre_tokenizer"]):
        return None
    lengths = np.zeros(vocabulary_size(tokenizer), np.int64)
    special = {token for token, one in tokenizer.get_added_tokens_decoder().items() if one.special}
    added = {token: one.content for token, one in tokenizer.get_added_tokens_decoder().items()}
    for name, token in tokenizer.get_vocab(with_added_tokens=True).items():
        if token not in special:
            lengths[token] = len(added[token].encode()) if token in added else len(name)  # a character for each byte
    return lengths


def _keeps_text(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer turns text into bytes and neither adds nor removes any."""
    if pre_tokenizer is None:
        return False
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    kinds = {step["type"] for step in steps}
    adds = any(step.get("add_prefix_space", False) for step in steps)
    removes = any(step.get("behavior") == "Removed" for step in steps)
    return "ByteLevel" in kinds and kinds <= {"ByteLevel", "Split", "Digits"} and not adds and not removes


def _batches(pieces: Iterable[tuple[Split, Piece]]) -> Iterator[list[tuple[Split, Piece]]]:
    """The pieces in batches of about BATCH_CHARS characters."""
    batch: list[tuple[Split, Piece]] = []
    chars = 0
    for one in pieces:
        batch.append(one)
        chars += len(one[1].text)
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _unnamed(folder: Path | None) -> FileIO:
    """A new file without a name in `folder`, or in the system's temporary folder."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(buffering=0, dir=folder)
    except OSError:
        if folder is None:
            raise
        return _unnamed(None)


def _append(file: FileIO, content: bytes) -> None:
    """Write all of `content`, or nothing. OSError names the temporary folder, where the last attempt is made."""
    end = file.tell()
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        file.truncate(end)
        file.seek(end)
        raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error


def _moved(file: FileIO) -> FileIO:
    """What is in `file`, in a file in the system's temporary folder."""
    other = _unnamed(None)
    file.seek(0)
    while part := file.read(1 << 20):
        _append(other, part)
    file.close()
    return other
