"""From a `DataConfig` to `Tokens`: text is tokenized once and cached; token files are memory-mapped.

Loads without torch, because the driver of a sweep prepares data but does not train. The steps are in the other files of
this package.
"""

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Tokenizer

from lmcore.config import DEFAULT_VOCAB_SIZE, DataConfig
from lmcore.corpus.encode import encode, fits_of, fits_words, token_bytes
from lmcore.corpus.mapped_ids import id_chunks
from lmcore.corpus.overlap import val_in_train
from lmcore.corpus.pieces import Fits, Piece
from lmcore.corpus.reading import Reading
from lmcore.corpus.text import Report, Split, TextSource, no_report, pieces_as, scan_text, split_pieces
from lmcore.corpus.text_files import text_files
from lmcore.corpus.text_formats import is_records
from lmcore.corpus.token_files import MAX_VOCAB_SIZE, check_ids, read_token_files, token_files
from lmcore.corpus.tokenizer import end_of_text_token, load_tokenizer, train_tokenizer, vocabulary_size
from lmcore.corpus.tokens import LARGE_BYTES, Tokens, load_tokens, save_tokens
from lmcore.errors import InputError

CACHE_FORMAT = 2
"""Part of the cache key. Raise it whenever the same text would give other tokens or other numbers about them."""
SHOWN_OVERLAP = 0.01
"""Share of the validation windows in the training data from which on a line says so."""

logger = logging.getLogger(__name__)


def prepare_tokens(
    config: DataConfig,
    cache_dir: Path | None = None,
    say: Callable[[str], None] = logger.info,
    report: Report = no_report,
) -> Tokens:
    """Read, tokenize and split the data that `config` describes.

    Token files are memory-mapped. Text is tokenized, and the tokens are cached by content; a cache entry that is
    damaged or cannot be written only costs time. Without `config.tokenizer`, a byte-level BPE is trained on the
    training documents. The vocabulary size is `config.vocab_size`, else the tokenizer's, else the largest id + 1.

    Args:
        cache_dir: by default `$XDG_CACHE_HOME/lmsweep`, or ~/.cache/lmsweep.
        say: called with one line about each source, and with lines about anything else that the user should know.
        report: told how far the work is.

    Raises InputError, starting with the field at fault (`data.source`, `data.val_source`, `data.tokenizer`,
    `data.vocab_size`, `data.bin_dtype` or `data.end_of_text`).

    >>> tokens = prepare_tokens(DataConfig(source="stdlib", vocab_size=2048))
    """
    kinds = [source is not None and token_files(source, field) is not None for field, source in _sources(config)]
    if config.val_source is not None and kinds[0] != kinds[1]:
        raise InputError(
            f"data.val_source: must be of the same kind as data.source, text or tokens, but {config.val_source!r} "
            f"is not of the kind of {config.source!r}; convert one of them"
        )
    path = None if config.tokenizer is None else Path(config.tokenizer).expanduser()
    tokenizer = None if path is None else load_tokenizer(path)
    if kinds[0]:
        tokens = _from_token_files(config, tokenizer, path, report)
    else:
        if cache_dir is None:
            cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "lmsweep"
        tokens = _from_text(config, tokenizer, path, cache_dir, report)
    for reading in tokens.readings:
        say(reading.line)
    for line in _unused(config, tokens):
        say(line)
    if tokens.tokenizer_json is not None and tokens.end_of_text is None:
        say(
            "data.end_of_text: the tokenizer has no token that ends a document, so nothing separates documents; "
            "name one of its tokens"
        )
    if tokens.val_in_train is not None and tokens.val_in_train >= SHOWN_OVERLAP:
        say(f"Note: {tokens.val_in_train:.0%} of the validation data are also in the training data")
    return tokens


def _unused(config: DataConfig, tokens: Tokens) -> Iterator[str]:
    """A line for each field that is given and has nothing to act on."""
    is_text = tokens.readings[0].documents is not None
    named = [(source, field) for field, source in _sources(config) if source is not None]
    if config.text_field != "text":
        files = (file for one in named if is_text for file in text_files(*one)[0])
        if not any(map(is_records, files)):
            yield "data.text_field is not used: the data have no records with fields"
    if config.bin_dtype != "auto":
        files = (file for one in named for file in token_files(*one) or ())
        if not any(file.suffix == ".bin" for file in files):
            yield "data.bin_dtype is not used: the data have no .bin of tokens"
    if config.end_of_text is not None and not is_text and tokens.tokenizer_json is None:
        yield "data.end_of_text is not used: the data are tokens, and no tokenizer is given"
    if config.copy != "auto" and is_text:
        yield "data.copy is not used: it is for files of tokens; those of text are always kept in the run's folder"


def _sources(config: DataConfig) -> list[tuple[str, str | None]]:
    return [("data.source", config.source), ("data.val_source", config.val_source)]


def _from_token_files(config: DataConfig, tokenizer: Tokenizer | None, path: Path | None, report: Report) -> Tokens:
    vocab_size = config.vocab_size or (vocabulary_size(tokenizer) if tokenizer is not None else None)
    found = [
        read_token_files(source, config.bin_dtype, vocab_size, field)
        for field, source in _sources(config)
        if source is not None
    ]
    largest = max(
        check_ids(one.ids, vocab_size or MAX_VOCAB_SIZE, one.reading.field, tokenizer is not None) for one in found
    )
    if len(found) == 2:
        train, val = found[0].ids, found[1].ids
    elif len(found[0].ids) < 2:
        raise InputError(
            f"data.source: must leave tokens for training and validation, but {config.source!r} has 1; "
            "name a longer file, or data.val_source"
        )
    else:
        ids = found[0].ids
        cut = min(max(round((1 - config.val_fraction) * len(ids)), 1), len(ids) - 1)
        train, val = ids[:cut], ids[cut:]
    numbers: dict[str, Any] = {"readings": tuple(one.reading for one in found)}
    if tokenizer is not None:
        end = end_of_text_token(tokenizer, config.end_of_text, path)
        numbers["end_of_text"] = None if end is None else end[1]
        numbers["tokenizer_json"] = tokenizer.to_str()
        lengths = token_bytes(tokenizer)
        if lengths is not None and largest < len(lengths):  # other ids are not the tokenizer's
            numbers["bytes_per_token"] = sum(int(lengths[chunk].sum()) for chunk in id_chunks(val)) / len(val)
    size = train.dtype.itemsize
    numbers["val_in_train"] = val_in_train(
        train, val, lambda done: report("comparing both splits", size * done, size * len(train))
    )
    return Tokens.of(train, val, vocab_size or largest + 1, **numbers)


def _from_text(
    config: DataConfig, tokenizer: Tokenizer | None, path: Path | None, cache_dir: Path, report: Report
) -> Tokens:
    end = None if tokenizer is None else end_of_text_token(tokenizer, config.end_of_text, path)
    separator = config.end_of_text if end is None else end[0]
    sources = [
        scan_text(source, field, config.text_field, separator, report)
        for field, source in _sources(config)
        if source is not None
    ]
    key = {
        "format": CACHE_FORMAT,
        "tokenizers": tokenizers.__version__,
        "text": [source.digest for source in sources],
        "val_fraction": config.val_fraction if len(sources) == 1 else None,
        "tokenizer": None if tokenizer is None else hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        "end_of_text": end,
        "vocab_size": config.vocab_size,
    }
    entry = cache_dir / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    readings = tuple(source.reading for source in sources)
    try:
        if entry.exists():
            tokens = load_tokens(entry)
            return replace(tokens, readings=_with_notes(readings, tokens.readings))
    except (InputError, OSError) as error:
        logger.warning("preparing the tokens again: %s", error)
    tokens = _tokenized(config, sources, tokenizer, end, cache_dir, report)
    try:
        save_tokens(tokens, entry)
    except OSError as error:
        logger.warning("the tokens are not cached and will be prepared again: %s", error)
    else:
        if tokens.nbytes > LARGE_BYTES:  # other processes need a file that has a name
            return load_tokens(entry, verify=False)
    # Return these tokens rather than the cached ones: another process may be replacing the entry right now.
    return tokens


def _tokenized(
    config: DataConfig,
    sources: list[TextSource],
    tokenizer: Tokenizer | None,
    end: tuple[str, int] | None,
    cache_dir: Path,
    report: Report,
) -> Tokens:
    total = sum(source.reading.bytes or 0 for source in sources)
    notes: list[str] = []
    if tokenizer is None:
        report("training a tokenizer", 0, total)
        train_pieces = (piece for split, piece in _pieces(config, sources, fits_words) if split == "train")
        texts = _told(train_pieces, "training a tokenizer", total, report)
        tokenizer = train_tokenizer(texts, config.vocab_size or DEFAULT_VOCAB_SIZE, notes.append)
        end = end_of_text_token(tokenizer)
    vocab_size = config.vocab_size or vocabulary_size(tokenizer)
    encoded = encode(
        tokenizer,
        _pieces(config, sources, fits_of(tokenizer)),
        None if end is None else end[1],
        cache_dir,
        lambda done: report("tokenizing", done, total),
    )
    train, val = encoded.ids("train"), encoded.ids("val")
    for field, ids in (("data.source", train), (sources[-1].reading.field, val)):
        if not len(ids):
            raise InputError(f"{field}: must have tokens, but the tokenizer makes none of the text; check both")
        check_ids(ids, vocab_size, field, has_tokenizer=True)
    readings = [source.reading for source in sources]
    if encoded.cut_anywhere:
        notes.append(f"{encoded.cut_anywhere:,} stretches without a place to cut were cut within a word")
    readings[0] = readings[0].model_copy(update={"notes": (*readings[0].notes, *notes)})
    return Tokens.of(
        train,
        val,
        vocab_size,
        bytes_per_token=encoded.bytes["val"] / len(val),
        tokenizer_json=tokenizer.to_str(),
        end_of_text=None if end is None else end[1],
        readings=tuple(readings),
        val_in_train=val_in_train(train, val),
    )


def _with_notes(readings: tuple[Reading, ...], cached: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """What was read now, with what was noticed when it was tokenized."""
    return tuple(now.model_copy(update={"notes": then.notes}) for now, then in zip(readings, cached, strict=True))


def _pieces(config: DataConfig, sources: list[TextSource], fits: Fits) -> Iterator[tuple[Split, Piece]]:
    if len(sources) == 1:
        return split_pieces(sources[0], config.val_fraction, fits)
    return itertools.chain(pieces_as("train", sources[0], fits), pieces_as("val", sources[1], fits))


def _told(pieces: Iterator[Piece], what: str, total: float, report: Report) -> Iterator[str]:
    done = 0
    for piece in pieces:
        yield piece.text
        done += len(piece.text.encode())
        report(what, done, total)
