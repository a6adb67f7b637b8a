"""Byte-level BPE: trained on documents, or loaded from a Hugging Face tokenizer.json; and documents as token ids.

Not here: which documents (`lmcore.corpus.text`) and how token ids are kept (`lmcore.corpus.tokens`). Training is
deterministic: the same documents give the same tokenizer.json. Loads without torch.
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

# How other tokenizers call the token that ends a document, in order of preference.
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")

# Long documents are cut for encoding: pieces run in parallel, and an Encoding costs ~100 bytes a token while it lives.
PIECE_CHARS = 1 << 18
BATCH_CHARS = 1 << 22

# A line break between two characters that are not whitespace: the usual pre-tokenizers split there anyway, so that
# cutting there changes no token.
_CUT = re.compile(r"(?<=\S\n)(?=\S)")


def train_tokenizer(documents: Iterable[str], vocab_size: int = DEFAULT_VOCAB_SIZE) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` tokens (fewer where the text has no more repeated pairs).

    `<|endoftext|>` has id 0 and the 256 bytes follow, so that any UTF-8 text is encoded without loss.

    Raises:
        InputError: when vocab_size is below 257.
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
    tokenizer.train_from_iterator((piece for document in documents for piece in _pieces(document)), trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, without its truncation and padding, which would lose or invent tokens.

    Raises:
        InputError: when the file is missing or is no tokenizer.json.
    """
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"data.tokenizer: must be a readable tokenizer.json, but {str(path)!r} is not ({error.strerror}); "
            "check the path"
        ) from error
    except Exception as error:  # tokenizers raises Exception itself
        raise InputError(
            f"data.tokenizer: must be a Hugging Face tokenizer.json, but {str(path)!r} does not parse "
            f"({' '.join(str(error).split())}); save it again with Tokenizer.save"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Largest id + 1, which exceeds the number of entries where ids have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def encode_documents(tokenizer: Tokenizer, documents: Sequence[str]) -> NDArray[np.unsignedinteger[Any]]:
    """Token ids of the documents one after the other, each document ended by the tokenizer's end-of-text token.

    A tokenizer without such a token leaves the documents unseparated. No beginning-of-text token is added, and special
    tokens spelled out in the text are plain text. Returns a 1-D array of uint16 where the vocabulary fits, else uint32.
    """
    dtype = np.uint16 if vocabulary_size(tokenizer) <= 2**16 else np.uint32
    end_of_text = next((i for name in END_OF_TEXT_NAMES if (i := tokenizer.token_to_id(name)) is not None), None)
    separator = np.array([] if end_of_text is None else [end_of_text], dtype)
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
    """UTF-8 bytes of the text that the ids stand for, special tokens not counted.

    Decoded in chunks for memory's sake; a character cut by the border of a chunk counts a few bytes wrongly.
    """
    texts = (tokenizer.decode(ids[i : i + chunk].tolist()) for i in range(0, len(ids), chunk))
    return sum(len(text.encode("utf-8")) for text in texts)


def _pieces(document: str) -> Iterator[str]:
    start = 0
    while len(document) - start > PIECE_CHARS and (cut := _CUT.search(document, start + PIECE_CHARS)):
        yield document[start : cut.start()]
        start = cut.start()
    yield document[start:]


def _batches(documents: Iterable[str]) -> Iterator[list[tuple[str, bool]]]:
    """Batches of (piece, whether it ends its document) of about BATCH_CHARS characters."""
    batch: list[tuple[str, bool]] = []
    chars = 0
    for document in documents:
        pieces = list(_pieces(document))
        for i, piece in enumerate(pieces):
            batch.append((piece, i == len(pieces) - 1))
            chars += len(piece)
            if chars >= BATCH_CHARS:
                yield batch
                batch, chars = [], 0
    if batch:
        yield batch
