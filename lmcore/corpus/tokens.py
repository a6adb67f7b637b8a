"""`Tokens`: the data a run trains and validates on, in memory or as a folder that is kept with the run.

The folder holds the ids, or for large token files only where they are (`data.copy`). Loads without torch. How a config
becomes tokens is in `lmcore.corpus.prepare`, how tokens become batches in `lmcore.data`.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmcore.config import Config
from lmcore.corpus.mapped_ids import IdFile, MappedIds, id_chunks, paths_of
from lmcore.corpus.reading import Reading
from lmcore.durable import new_folder
from lmcore.errors import InputError
from lmcore.notebook import html_card, html_lines, html_table

FORMAT: Final = 1
"""Version of the folder's format. It is part of the cache key, so a new format never meets an old cache entry."""
LARGE_BYTES = 1 << 30
"""Ids of more bytes than this are not copied (data.copy: auto), and other processes map their files."""
TokenIds = NDArray[np.unsignedinteger[Any]] | MappedIds


@dataclass(frozen=True, eq=False, repr=False)
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
    bytes_per_token: float | None = None
    """UTF-8 bytes of the validation text per token; None if they cannot be known from the ids."""
    tokenizer_json: str | None = None  # content of the tokenizer.json that made the tokens, if known
    end_of_text: int | None = None  # id of the token that ends a document; None if there is none
    readings: tuple[Reading, ...] = ()  # what was read, one for each source
    val_in_train: float | None = None  # share of the validation windows that the training data contain; None: unknown

    @classmethod
    def of(cls, train: ArrayLike | MappedIds, val: ArrayLike | MappedIds, vocab_size: int, **others: Any) -> Self:
        """Tokens from two 1-D arrays of ids in 0..vocab_size - 1, which the caller has checked. `others` are fields.

        uint16 and uint32 arrays, and memory-mapped files of any type, are used without a copy. Other arrays are copied
        to the smaller of these types that holds the vocabulary.
        """
        train, val = _read_only(train, vocab_size), _read_only(val, vocab_size)
        return cls(train, val, vocab_size, _fingerprint(train, val, vocab_size), **others)

    def __repr__(self) -> str:
        return f"<Tokens: {'; '.join(f'{name} {value}' for name, value in self._facts())}>"

    def _repr_html_(self) -> str:
        return html_card("Tokens", html_table(["", ""], self._facts()), html_lines(self._notes()))

    def _facts(self) -> list[tuple[str, str]]:
        """What the data are, for people."""
        facts = [("training", f"{len(self.train):,} tokens"), ("validation", f"{len(self.val):,} tokens")]
        facts.append(("vocabulary", f"{self.vocab_size:,}"))
        if self.bytes_per_token is not None:
            facts.append(("bytes per token", f"{self.bytes_per_token:.2f}"))
        if self.val_in_train is not None:
            facts.append(("validation windows in the training data", f"{self.val_in_train:.1%}"))
        return [*facts, ("ids", f"{self.train.dtype}"), ("fingerprint", self.fingerprint[:12])]

    def _notes(self) -> list[str]:
        """What was read and skipped."""
        return [note for reading in self.readings for note in reading.notes]

    @property
    def unigram_entropy(self) -> float:
        """Entropy of the validation tokens' unigram distribution in nats; a lower loss shows that context is used."""
        counts = np.zeros(self.vocab_size, np.int64)
        for ids in id_chunks(self.val):
            counts += np.bincount(ids.astype(np.int64), minlength=self.vocab_size)
        p = counts[counts > 0] / len(self.val)
        return float(-(p * np.log(p)).sum())

    @property
    def nbytes(self) -> int:
        """Bytes of all ids."""
        return self.train.nbytes + self.val.nbytes

    @property
    def files(self) -> list[Path]:
        """The files that must stay where they are, because the ids are read from them; none if they are in memory."""
        return list(dict.fromkeys(paths_of(self.train) + paths_of(self.val)))

    def for_other_processes(self) -> Self:
        """These tokens as they should be sent to other processes: small ones in memory, large ones as their files."""
        small = [ids if _is_large(ids) else np.asarray(ids) for ids in (self.train, self.val)]
        return replace(self, train=small[0], val=small[1])


class _Meta(Config):
    """meta.json of a tokens folder."""

    format: Literal[1] = FORMAT
    fingerprint: str
    vocab_size: int
    bytes_per_token: float | None
    train_tokens: int
    val_tokens: int
    tokenizer_sha256: str | None
    end_of_text: int | None = None
    readings: tuple[Reading, ...] = ()
    val_in_train: float | None = None
    files: tuple["_MetaFile", ...] | None = None  # where the ids are, if the folder does not hold them


class _MetaFile(Config):
    """A stretch of ids in a file outside the folder, and how that file was when it was read."""

    split: Literal["train", "val"]
    path: str
    dtype: str
    offset: int
    start: int
    stop: int
    size: int
    modified_ns: int

    @property
    def unchanged(self) -> bool:
        """Whether the file has the size and the time of its last change that it had."""
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size, self.modified_ns)

    @property
    def stretch(self) -> IdFile:
        """The ids."""
        return IdFile(self.path, self.dtype, self.offset, self.start, self.stop)


def check_windows(tokens: Tokens, context_length: int) -> None:
    """Raises InputError unless both splits fill one window: `context_length` tokens and the token after them."""
    for name, ids in (("training", tokens.train), ("validation", tokens.val)):
        if len(ids) < context_length + 1:
            raise InputError(
                f"model.context_length: the {name} data must fill one window of context_length + 1 = "
                f"{context_length + 1} tokens, but has {len(ids)}, fewer tokens than one window; "
                "shorten the context or bring more data"
            )


def save_tokens(tokens: Tokens, folder: Path, copy: Literal["auto", "always", "never"] = "auto") -> bool:
    """Write train.npy, val.npy, meta.json and, if known, tokenizer.json to `folder`, atomically.

    Ids in files are not copied if `copy` is never, or with auto if there are more than LARGE_BYTES of them; meta.json
    then says where they are. Ids of text are always copied, because their files are those of a cache. Returns whether
    the ids are in the folder. An existing folder is replaced. Raises OSError if the file system refuses.
    """
    splits = {"train": tokens.train, "val": tokens.val}
    mapped = {name: ids for name, ids in splits.items() if isinstance(ids, MappedIds)}
    large = tokens.nbytes > LARGE_BYTES
    of_text = any(reading.documents is not None for reading in tokens.readings)
    by_path = len(mapped) == len(splits) and not of_text and (copy == "never" or (copy == "auto" and large))
    tokenizer_json = tokens.tokenizer_json
    meta = _Meta(
        fingerprint=tokens.fingerprint,
        vocab_size=tokens.vocab_size,
        bytes_per_token=tokens.bytes_per_token,
        train_tokens=len(tokens.train),
        val_tokens=len(tokens.val),
        tokenizer_sha256=None if tokenizer_json is None else _sha256(tokenizer_json),
        end_of_text=tokens.end_of_text,
        readings=tokens.readings,
        val_in_train=tokens.val_in_train,
        files=_meta_files(mapped) if by_path else None,
    )
    with new_folder(folder, overwrite=True) as temporary:
        for name, ids in splits.items() if not by_path else ():
            out = np.lib.format.open_memmap(
                temporary / f"{name}.npy", "w+", _type_for(ids, tokens.vocab_size), (len(ids),)
            )
            start = 0
            for chunk in id_chunks(ids):
                out[start : start + len(chunk)] = chunk
                start += len(chunk)
            out.flush()
        (temporary / "meta.json").write_text(meta.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if tokenizer_json is not None:
            (temporary / "tokenizer.json").write_bytes(tokenizer_json.encode("utf-8"))
    return not by_path


def missing_files(folder: Path) -> list[Path]:
    """The files outside of a folder of tokens that are not there, or have another size than when they were read.

    Raises OSError or ValueError if the folder has no readable meta.json.
    """
    meta = _Meta.model_validate_json((folder / "meta.json").read_bytes())
    sizes = {file.path: file.size for file in meta.files or ()}
    return [Path(path) for path, size in sizes.items() if not os.path.isfile(path) or os.path.getsize(path) != size]


def load_tokens(folder: Path, mmap: bool = True, verify: bool = True) -> Tokens:
    """Load tokens written by `save_tokens`, memory-mapped if `mmap`.

    With `verify` the ids are compared with the digest in meta.json; files outside the folder only if their size or the
    time of their last change is another one.

    Raises InputError if the folder is incomplete or damaged, a file outside it cannot be read, or ids have changed.

    >>> tokens = load_tokens(Path("runs/quick/tokens"))
    """
    try:
        meta = _Meta.model_validate_json((folder / "meta.json").read_bytes())
        if meta.files is None:
            arrays = [_load_npy(folder / name, mmap) for name in ("train.npy", "val.npy")]
        tokenizer_json = None
        if meta.tokenizer_sha256 is not None:
            tokenizer_json = (folder / "tokenizer.json").read_bytes().decode("utf-8")
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a file is damaged"
        raise InputError(
            f"{folder}: must be a whole folder of tokens, but does not load ({reason}); restore it from a copy"
        ) from error
    if meta.files is not None:
        arrays = [
            MappedIds.of([file.stretch for file in meta.files if file.split == split]) for split in ("train", "val")
        ]
    unchanged = meta.files is not None and all(file.unchanged for file in meta.files)
    train, val = (_read_only(ids, meta.vocab_size) for ids in arrays)
    if verify and not unchanged and _fingerprint(train, val, meta.vocab_size) != meta.fingerprint:
        place = folder if meta.files is None else ", ".join(sorted({file.path for file in meta.files}))
        raise InputError(
            f"{place}: the tokens must have fingerprint {meta.fingerprint[:12]} as recorded, but were "
            "changed since they were written; restore them from a copy"
        )
    if verify and tokenizer_json is not None and _sha256(tokenizer_json) != meta.tokenizer_sha256:
        raise InputError(
            f"{folder}: tokenizer.json must have the digest recorded, but was changed since it was written; "
            "restore it from a copy"
        )
    return Tokens(
        train=train,
        val=val,
        vocab_size=meta.vocab_size,
        fingerprint=meta.fingerprint,
        bytes_per_token=meta.bytes_per_token,
        tokenizer_json=tokenizer_json,
        end_of_text=meta.end_of_text,
        readings=meta.readings,
        val_in_train=meta.val_in_train,
    )


def _load_npy(path: Path, mmap: bool) -> TokenIds:
    """The ids of a .npy; large ones as `MappedIds`, which other processes map themselves."""
    array: NDArray[Any] = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    if isinstance(array, np.memmap) and _is_large(array):
        return MappedIds.of([IdFile(str(path.absolute()), array.dtype.str, array.offset, 0, len(array))])
    return array


def _meta_files(splits: dict[str, MappedIds]) -> tuple[_MetaFile, ...]:
    found = []
    for split, ids in splits.items():
        for file in ids.files:
            state = os.stat(file.path)
            own = {"split": split, "size": state.st_size, "modified_ns": state.st_mtime_ns}
            found.append(_MetaFile.model_validate(vars(file) | own))
    return tuple(found)


def _is_large(ids: TokenIds) -> bool:
    return ids.nbytes > LARGE_BYTES


def _type_for(ids: TokenIds, vocab_size: int) -> np.dtype[Any]:
    if ids.dtype in (np.uint16, np.uint32):
        return np.dtype(ids.dtype).newbyteorder("=")
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def _read_only(ids: ArrayLike | MappedIds, vocab_size: int) -> TokenIds:
    if isinstance(ids, MappedIds):
        return ids
    array = np.asarray(ids)  # turns np.memmap into a plain array over the same memory, which pickles as one
    array = array.astype(_type_for(array, vocab_size), copy=False)
    view = array.view()  # the caller's own array stays writable
    view.flags.writeable = False
    return view


def _fingerprint(train: TokenIds, val: TokenIds, vocab_size: int) -> str:
    types = [_type_for(ids, vocab_size) for ids in (train, val)]
    digest = hashlib.sha256(f"{vocab_size} {len(train)} {types[0]} {len(val)} {types[1]}\n".encode())
    for ids, item in zip((train, val), types, strict=True):
        for chunk in id_chunks(ids):
            digest.update(np.ascontiguousarray(chunk.astype(item.newbyteorder("<"), copy=False)).view(np.uint8).data)
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
