"""From a `DataConfig` to `Tokens`: text is tokenized once and cached; token files are memory-mapped.

Loads without torch, because the driver of a sweep prepares data but does not train. The steps are in the other files of
this package.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer

from lmcore.config import DEFAULT_VOCAB_SIZE, DataConfig
from lmcore.corpus.text import read_documents, split_documents
from lmcore.corpus.token_files import MAX_VOCAB_SIZE, check_ids, is_token_file, read_token_file
from lmcore.corpus.tokenizer import decoded_bytes, encode_documents, load_tokenizer, train_tokenizer, vocabulary_size
from lmcore.corpus.tokens import FORMAT, Tokens, load_tokens, save_tokens
from lmcore.errors import InputError

logger = logging.getLogger(__name__)


def prepare_tokens(config: DataConfig, cache_dir: Path | None = None) -> Tokens:
    """Read, tokenize and split the data that `config` describes.

    Token files are memory-mapped. Text is tokenized, and the tokens are cached by content; a cache entry that is
    damaged or cannot be written only costs time. Without `config.tokenizer`, a byte-level BPE is trained on the
    training documents. The vocabulary size is `config.vocab_size`, else the tokenizer's, else the largest id + 1.

    `cache_dir` is by default `$XDG_CACHE_HOME/lmsweep`, or ~/.cache/lmsweep. Raises InputError, starting with the field
    at fault (`data.source`, `data.val_source`, `data.tokenizer` or `data.vocab_size`).

    >>> tokens = prepare_tokens(DataConfig(source="stdlib", vocab_size=2048))
    """
    if config.val_source is not None and is_token_file(config.val_source) != is_token_file(config.source):
        raise InputError(
            f"data.val_source: must be of the same kind as data.source, text or tokens, but {config.val_source!r} "
            f"is not of the kind of {config.source!r}; convert one of them"
        )
    tokenizer = None if config.tokenizer is None else load_tokenizer(Path(config.tokenizer).expanduser())
    if is_token_file(config.source):
        return _from_token_files(config, tokenizer)
    if cache_dir is None:
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "lmsweep"
    return _from_text(config, tokenizer, cache_dir)


def _from_token_files(config: DataConfig, tokenizer: Tokenizer | None) -> Tokens:
    vocab_size = config.vocab_size or (vocabulary_size(tokenizer) if tokenizer is not None else None)
    ids = read_token_file(config.source, config.bin_dtype)
    check_ids(ids, vocab_size or MAX_VOCAB_SIZE)
    if config.val_source is not None:
        train, val = ids, read_token_file(config.val_source, config.bin_dtype, "data.val_source")
        check_ids(val, vocab_size or MAX_VOCAB_SIZE, "data.val_source")
    elif len(ids) < 2:
        raise InputError(
            f"data.source: must leave tokens for training and validation, but {config.source!r} has 1; "
            "name a longer file, or data.val_source"
        )
    else:
        cut = min(max(round((1 - config.val_fraction) * len(ids)), 1), len(ids) - 1)
        train, val = ids[:cut], ids[cut:]
    vocab_size = vocab_size or int(max(train.max(), val.max())) + 1
    if tokenizer is None:
        return Tokens.of(train, val, vocab_size)
    return Tokens.of(train, val, vocab_size, decoded_bytes(tokenizer, val) / len(val), tokenizer.to_str())


def _from_text(config: DataConfig, tokenizer: Tokenizer | None, cache_dir: Path) -> Tokens:
    documents = read_documents(config.source)
    if config.val_source is not None:
        train_documents, val_documents = documents, read_documents(config.val_source, "data.val_source")
    else:
        train_documents, val_documents = split_documents(documents, config.val_fraction)
    key = {
        "format": FORMAT,
        "tokenizers": tokenizers.__version__,
        "train": _text_digest(train_documents),
        "val": _text_digest(val_documents),
        "tokenizer": _text_digest([tokenizer.to_str()]) if tokenizer is not None else None,
        "vocab_size": config.vocab_size,
    }
    entry = cache_dir / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    try:
        if entry.exists():
            return load_tokens(entry)
    except (InputError, OSError) as error:
        logger.warning("preparing the tokens again: %s", error)

    if tokenizer is None:
        tokenizer = train_tokenizer(train_documents, config.vocab_size or DEFAULT_VOCAB_SIZE)
    vocab_size = config.vocab_size or vocabulary_size(tokenizer)
    train, val = encode_documents(tokenizer, train_documents), encode_documents(tokenizer, val_documents)
    val_field = "data.source" if config.val_source is None else "data.val_source"
    for field, ids in (("data.source", train), (val_field, val)):
        if not len(ids):
            raise InputError(f"{field}: must have tokens, but the tokenizer makes none of the text; check both")
        check_ids(ids, vocab_size, field)
    tokens = Tokens.of(train, val, vocab_size, decoded_bytes(tokenizer, val) / len(val), tokenizer.to_str())
    try:
        save_tokens(tokens, entry)
    except OSError as error:
        logger.warning("the tokens are not cached and will be prepared again: %s", error)
    # Return these tokens rather than the cached ones: another process may be replacing the entry right now.
    return tokens


def _text_digest(texts: Iterable[str]) -> str:
    """sha256 of the texts and of the boundaries between them."""
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8")
        digest.update(b"%d\n%b" % (len(content), content))
    return digest.hexdigest()
