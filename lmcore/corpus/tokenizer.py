"""Byte-level BPE: train it on documents or load a Hugging Face tokenizer.json, and encode documents as token ids.

Training is deterministic: the same documents give the same tokenizer.json. Loads without torch. Reading documents is in
`lmcore.corpus.text`, storing token ids in `lmcore.corpus.tokens`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lmcore.config import DEFAULT_VOCAB_SIZE
from lmcore.corpus.text import END_OF_TEXT
from lmcore.errors import InputError

MIN_VOCAB_SIZE = 256 + 1  # every byte, and END_OF_TEXT
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")  # in order of preference

# Long documents are cut into pieces for encoding. Pieces are encoded in parallel, and batches bound the memory of
# Encoding objects, which take about 100 bytes per token.
PIECE_CHARS = 1 << 18
BATCH_CHARS = 1 << 22
# A line break between two characters that are not whitespace. The usual pre-tokenizers split there anyway, so a cut
# there changes no token.
_CUT = re.compile(r"(?<=\S\n)(?=\S)")


def train_tokenizer(documents: Iterable[str], vocab_size: int = DEFAULT_VOCAB_SIZE) -> Tokenizer:
    """Train a byte-level BPE of at most `vocab_size` tokens; fewer if the text has no more repeated pairs.

    `<|endoftext|>` has id 0. The 256 bytes follow, so any UTF-8 text can be encoded without loss.

    Raises InputError if `vocab_size` is below 257.

    >>> tokenizer = train_tokenizer(read_documents("stdlib"), vocab_size=2048)
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise InputError(
            f"data.vocab_size: a byte-level BPE needs at least {MIN_VOCAB_SIZE} (256 bytes and {END_OF_TEXT}), "
            f"but got {vocab_size}; the default is {DEFAULT_VOCAB_SIZE}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for piece, _ in _pieces(documents)), trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json. Its truncation and padding are switched off, because they would lose or add tokens.

    Raises InputError if the file cannot be read or is not a tokenizer.json.
    """
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"data.tokenizer: must be a readable tokenizer.json, but {str(path)!r} is not ({error.strerror}); "
            "check the path"
        ) from error
    except Exception as error:  # the tokenizers library raises plain Exception
        raise InputError(
            f"data.tokenizer: must be a Hugging Face tokenizer.json, but {str(path)!r} does not parse "
            f"({' '.join(str(error).split())}); save it again with Tokenizer.save"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """The largest id + 1. This exceeds the number of tokens if ids have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def end_of_text_token(tokenizer: Tokenizer) -> tuple[str, int] | None:
    """Name and id of the token that ends a document, or None if the tokenizer has no such token."""
    ids = ((name, tokenizer.token_to_id(name)) for name in END_OF_TEXT_NAMES)
    return next(((name, token) for name, token in ids if token is not None), None)


def encode_documents(tokenizer: Tokenizer, documents: Sequence[str]) -> NDArray[np.unsignedinteger[Any]]:
    """Encode documents as one 1-D array of token ids; uint16 if the vocabulary fits, else uint32.

    Each document is followed by the end-of-text token, if the tokenizer has one. No beginning-of-text token is added.
    Special tokens spelled out in the text are encoded as plain text.
    """
    dtype = np.uint16 if vocabulary_size(tokenizer) <= 2**16 else np.uint32
    end_of_text = end_of_text_token(tokenizer)
    separator = np.array([] if end_of_text is None else [end_of_text[1]], dtype)
    tokenizer.encode_special_tokens = True
    ids = [np.empty(0, dtype)]
    for batch in _batches(documents):
        encodings = tokenizer.encode_batch_fast([piece for piece, _ in batch], add_special_tokens=False)
        for encoding, (_, ends_document) in zip(encodings, batch, strict=True):
            ids.append(np.array(encoding.ids, dtype))
            if ends_document:
                ids.append(separator)
    return np.concatenate(ids)


def decoded_bytes(tokenizer: Tokenizer, ids: NDArray[np.integer[Any]], chunk: int = 1 << 20) -> int:
    """UTF-8 bytes of the text that the ids encode, without special tokens.

    Memory is bounded by decoding in chunks. A character split between two chunks may be miscounted by a few bytes.
    """
    texts = (tokenizer.decode(ids[i : i + chunk].tolist()) for i in range(0, len(ids), chunk))
    return sum(len(text.encode("utf-8")) for text in texts)


def _pieces(documents: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """The documents in pieces of about PIECE_CHARS characters, each with whether it ends its document."""
    for document in documents:
        start = 0
        while len(document) - start > PIECE_CHARS and (cut := _CUT.search(document, start + PIECE_CHARS)):
            yield document[start : cut.start()], False
            start = cut.start()
        yield document[start:], True


def _batches(documents: Iterable[str]) -> Iterator[list[tuple[str, bool]]]:
    """The pieces of all documents in batches of about BATCH_CHARS characters."""
    batch, chars = [], 0
    for piece in _pieces(documents):
        batch.append(piece)
        chars += len(piece[0])
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    yield batch
