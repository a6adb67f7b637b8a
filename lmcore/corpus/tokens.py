"""`Tokens`: what a run trains and validates on, in memory or as a folder that travels with the run.

Loads without torch. Not here: how a config becomes tokens (`lmcore.corpus.prepare`) and how tokens become batches
(`lmcore.data`).
"""

import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmcore.config import Config
from lmcore.durable import replace
from lmcore.errors import InputError

FORMAT: Final = 1  # of the folder; part of the cache's key too, so that a new format never meets an old entry

TokenIds = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of one data set; build them with `Tokens.of`, which keeps the promises made here."""

    train: TokenIds
    """1-D uint16 or uint32, read-only, every id below vocab_size; possibly memory-mapped."""
    val: TokenIds
    """Likewise, held out from training."""
    vocab_size: int
    """V, of the model that trains on these tokens."""
    fingerprint: str
    """sha256 in hex over both splits, their types and vocab_size: equal if and only if the data are."""
    bytes_per_token: float | None = None
    """UTF-8 bytes of the validation text per validation token; None where no tokenizer is known."""
    tokenizer_json: str | None = None
    """Text of the tokenizer.json that made the tokens, where it is known."""

    @classmethod
    def of(
        cls,
        train: ArrayLike,
        val: ArrayLike,
        vocab_size: int,
        bytes_per_token: float | None = None,
        tokenizer_json: str | None = None,
    ) -> Self:
        """Tokens from 1-D arrays of ids in 0..vocab_size - 1 (the caller has checked), fingerprinted.

        Arrays of uint16 or uint32 are taken as they are, memory maps included; others are copied to the smaller type
        that holds the vocabulary.
        """
        train, val = _read_only(train, vocab_size), _read_only(val, vocab_size)
        return cls(train, val, vocab_size, _fingerprint(train, val, vocab_size), bytes_per_token, tokenizer_json)

    @property
    def unigram_entropy(self) -> float:
        """Entropy of the validation tokens' own unigram distribution, in nats per token.

        No model that ignores context can have a lower validation loss, so a loss below it shows that context is used.
        """
        counts = np.bincount(self.val)
        p = counts[counts > 0] / len(self.val)
        return float(-(p * np.log(p)).sum())


class _Meta(Config):
    """meta.json of a tokens folder."""

    format: Literal[1] = FORMAT
    fingerprint: str
    vocab_size: int
    bytes_per_token: float | None
    train_tokens: int
    val_tokens: int
    tokenizer_sha256: str | None


def check_windows(tokens: Tokens, context_length: int) -> None:
    """Both splits hold at least one window of `context_length` tokens and the token after it.

    Raises:
        InputError: when one does not.
    """
    for name, ids in (("training", tokens.train), ("validation", tokens.val)):
        if len(ids) < context_length + 1:
            raise InputError(
                f"model.context_length: the {name} data must fill one window of context_length + 1 = "
                f"{context_length + 1} tokens, but has {len(ids)}, fewer tokens than one window; "
                "shorten the context or bring more data"
            )


def save_tokens(tokens: Tokens, folder: Path) -> None:
    """Write train.npy, val.npy, meta.json and tokenizer.json (if known) as `folder`, which appears whole or not at all.

    An existing folder is replaced. Raises OSError where the disk refuses.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # On the same file system as its destination, so that renaming it is atomic.
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    replaced = temporary.with_name(f"{temporary.name}.replaced")
    meta = _Meta(
        fingerprint=tokens.fingerprint,
        vocab_size=tokens.vocab_size,
        bytes_per_token=tokens.bytes_per_token,
        train_tokens=len(tokens.train),
        val_tokens=len(tokens.val),
        tokenizer_sha256=_sha256(tokens.tokenizer_json) if tokens.tokenizer_json is not None else None,
    )
    temporary.mkdir()
    try:
        for name, ids in (("train.npy", tokens.train), ("val.npy", tokens.val)):
            with (temporary / name).open("wb") as file:
                np.save(file, ids)
                _sync(file)
        texts = {"meta.json": meta.model_dump_json(indent=2) + "\n", "tokenizer.json": tokens.tokenizer_json}
        for name, text in texts.items():
            if text is not None:
                with (temporary / name).open("wb") as file:
                    file.write(text.encode("utf-8"))
                    _sync(file)
        if folder.exists():
            folder.rename(replaced)
        replace(temporary, folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_tokens(folder: Path, mmap: bool = True, verify: bool = True) -> Tokens:
    """Tokens that `save_tokens` wrote; memory-mapped with `mmap`, compared with their recorded digests with `verify`.

    Raises:
        InputError: when the folder is not whole, or not what was written.
    """
    try:
        meta = _Meta.model_validate_json((folder / "meta.json").read_bytes())
        train, val = (
            _read_only(np.load(folder / name, mmap_mode="r" if mmap else None, allow_pickle=False), meta.vocab_size)
            for name in ("train.npy", "val.npy")
        )
        tokenizer_json = None
        if meta.tokenizer_sha256 is not None:
            tokenizer_json = (folder / "tokenizer.json").read_bytes().decode("utf-8")
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a file is damaged"
        raise InputError(
            f"{folder}: must be a whole folder of tokens, but does not load ({reason}); restore it from a copy"
        ) from error
    if verify:
        if _fingerprint(train, val, meta.vocab_size) != meta.fingerprint:
            raise InputError(
                f"{folder}: the tokens must have fingerprint {meta.fingerprint[:12]} as recorded, but were "
                "changed since they were written; restore them from a copy"
            )
        if tokenizer_json is not None and _sha256(tokenizer_json) != meta.tokenizer_sha256:
            raise InputError(
                f"{folder}: tokenizer.json must have the digest recorded, but was changed since it was written; "
                "restore it from a copy"
            )
    return Tokens(train, val, meta.vocab_size, meta.fingerprint, meta.bytes_per_token, tokenizer_json)


def _read_only(ids: ArrayLike, vocab_size: int) -> TokenIds:
    array = np.asarray(ids)  # of a memory map: a plain array over it, which pickles as one
    if array.dtype not in (np.uint16, np.uint32):
        array = array.astype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    view = array.view()  # the caller's own array stays writable
    view.flags.writeable = False
    return view


def _fingerprint(train: TokenIds, val: TokenIds, vocab_size: int) -> str:
    digest = hashlib.sha256(f"{vocab_size} {len(train)} {train.dtype} {len(val)} {val.dtype}\n".encode())
    for ids in (train, val):
        digest.update(np.ascontiguousarray(ids.astype(ids.dtype.newbyteorder("<"), copy=False)).view(np.uint8).data)
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
