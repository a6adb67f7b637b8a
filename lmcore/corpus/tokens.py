"""`Tokens`: the data a run trains and validates on, in memory or as a folder that is kept with the run.

Loads without torch. How a config becomes tokens is in `lmcore.corpus.prepare`, how tokens become batches in
`lmcore.data`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmcore.config import Config
from lmcore.durable import new_folder
from lmcore.errors import InputError

FORMAT: Final = 1
"""Version of the folder's format. It is part of the cache key, so a new format never meets an old cache entry."""
TokenIds = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token ids of one data set. Create it with `Tokens.of`, which ensures what the fields state.

    >>> tokens = Tokens.of(train=[0, 1, 2, 3], val=[2, 1], vocab_size=4)
    >>> tokens.train
    array([0, 1, 2, 3], dtype=uint16)
    """

    train: TokenIds  # 1-D uint16 or uint32, read-only, every id below vocab_size; may be memory-mapped
    val: TokenIds  # like train
    vocab_size: int  # V of the models that train on these tokens
    fingerprint: str  # sha256 in hex over both splits, their dtypes and vocab_size
    bytes_per_token: float | None = None  # UTF-8 bytes of the validation text per token; None if no tokenizer is known
    tokenizer_json: str | None = None  # content of the tokenizer.json that made the tokens, if known

    @classmethod
    def of(
        cls,
        train: ArrayLike,
        val: ArrayLike,
        vocab_size: int,
        bytes_per_token: float | None = None,
        tokenizer_json: str | None = None,
    ) -> Self:
        """Tokens from two 1-D arrays of ids in 0..vocab_size - 1, which the caller has checked.

        uint16 and uint32 arrays, memory-mapped ones included, are used without a copy. Others are copied to the smaller
        of these types that holds the vocabulary.
        """
        train, val = _read_only(train, vocab_size), _read_only(val, vocab_size)
        return cls(train, val, vocab_size, _fingerprint(train, val, vocab_size), bytes_per_token, tokenizer_json)

    @property
    def unigram_entropy(self) -> float:
        """Entropy of the validation tokens' unigram distribution in nats; a lower loss shows that context is used."""
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
    """Raises InputError unless both splits fill one window: `context_length` tokens and the token after them."""
    for name, ids in (("training", tokens.train), ("validation", tokens.val)):
        if len(ids) < context_length + 1:
            raise InputError(
                f"model.context_length: the {name} data must fill one window of context_length + 1 = "
                f"{context_length + 1} tokens, but has {len(ids)}, fewer tokens than one window; "
                "shorten the context or bring more data"
            )


def save_tokens(tokens: Tokens, folder: Path) -> None:
    """Write train.npy, val.npy, meta.json and, if known, tokenizer.json to `folder`, atomically.

    An existing folder is replaced. Raises OSError if the file system refuses.
    """
    tokenizer_json = tokens.tokenizer_json
    meta = _Meta(
        fingerprint=tokens.fingerprint,
        vocab_size=tokens.vocab_size,
        bytes_per_token=tokens.bytes_per_token,
        train_tokens=len(tokens.train),
        val_tokens=len(tokens.val),
        tokenizer_sha256=None if tokenizer_json is None else _sha256(tokenizer_json),
    )
    with new_folder(folder, overwrite=True) as temporary:
        np.save(temporary / "train.npy", tokens.train)
        np.save(temporary / "val.npy", tokens.val)
        (temporary / "meta.json").write_text(meta.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if tokenizer_json is not None:
            (temporary / "tokenizer.json").write_bytes(tokenizer_json.encode("utf-8"))


def load_tokens(folder: Path, mmap: bool = True, verify: bool = True) -> Tokens:
    """Load tokens written by `save_tokens`, memory-mapped if `mmap`.

    Raises InputError if the folder is incomplete or damaged or, with `verify`, differs from the digests in meta.json.

    >>> tokens = load_tokens(Path("runs/quick/tokens"))
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
    if verify and _fingerprint(train, val, meta.vocab_size) != meta.fingerprint:
        raise InputError(
            f"{folder}: the tokens must have fingerprint {meta.fingerprint[:12]} as recorded, but were "
            "changed since they were written; restore them from a copy"
        )
    if verify and tokenizer_json is not None and _sha256(tokenizer_json) != meta.tokenizer_sha256:
        raise InputError(
            f"{folder}: tokenizer.json must have the digest recorded, but was changed since it was written; "
            "restore it from a copy"
        )
    return Tokens(train, val, meta.vocab_size, meta.fingerprint, meta.bytes_per_token, tokenizer_json)


def _read_only(ids: ArrayLike, vocab_size: int) -> TokenIds:
    array = np.asarray(ids)  # turns np.memmap into a plain array over the same memory, which pickles as one
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
