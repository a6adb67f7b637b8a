"""Token files: .npy (a 1-D array of integers) and .bin (flat uint16 or uint32, as nanoGPT writes them).

They are memory-mapped, never read into memory. Text is in `lmcore.corpus.text`; the folder in which a run keeps its
tokens is in `lmcore.corpus.tokens`.
"""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lmcore.errors import InputError

TOKEN_FILE_SUFFIXES = (".npy", ".bin")
MAX_VOCAB_SIZE = 2**32  # ids are stored as uint16 or uint32
IntegerArray = NDArray[np.integer[Any]]


def is_token_file(source: str) -> bool:
    """Whether a source is a file of tokens: a path that ends in .npy or .bin and is not a folder."""
    path = Path(os.path.expanduser(source))
    return path.suffix in TOKEN_FILE_SUFFIXES and not os.path.isdir(path)


def read_token_file(source: str, bin_dtype: Literal["uint16", "uint32"], field: str = "data.source") -> IntegerArray:
    """The token ids of a .npy or .bin: 1-D, at least one, memory-mapped read-only. `check_ids` checks their range.

    Raises InputError if the file is missing, empty, or not a 1-D array of integers. The message starts with `field`.

    >>> ids = read_token_file("train.bin", "uint16")
    """
    path = Path(os.path.expanduser(source))
    try:
        size_bytes = path.stat().st_size
        if not size_bytes:
            raise InputError(f"{field}: must not be empty, but {source!r} has 0 bytes; name another file")
        if path.suffix == ".npy":
            return _map_npy(path, field)
        item = np.dtype(bin_dtype).newbyteorder("<")
        if size_bytes % item.itemsize:
            raise InputError(
                f"{field}: a .bin of {bin_dtype} must be a multiple of {item.itemsize} bytes, "
                f"but {source!r} has {size_bytes}; set data.bin_dtype to the type it was written with"
            )
        return np.memmap(path, item, mode="r")
    except OSError as error:
        raise InputError(
            f"{field}: must be a readable file, but {source!r} is not ({error.strerror}); check the path"
        ) from error


def check_ids(ids: IntegerArray, vocab_size: int, field: str = "data.source") -> None:
    """Raises InputError unless every id is in 0..vocab_size - 1. The message starts with `field`."""
    # min and max stream over a memory map; a boolean array of its size is built only for the error message.
    if ids.dtype.kind == "i" and ids.min() < 0:
        wrong, rule, remedy = ids < 0, "must not be negative", "drop padding and ignore marks from the file"
    elif ids.max() >= vocab_size:
        wrong, rule = ids >= vocab_size, f"must be below the vocabulary's size {vocab_size}"
        remedy = "raise data.vocab_size, or name the tokenizer that wrote them"
    else:
        return
    position = int(wrong.argmax())
    raise InputError(f"{field}: token ids {rule}, but id {ids[position]} is at position {position}; {remedy}")


def _map_npy(path: Path, field: str) -> IntegerArray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(
            f"{field}: must be a .npy array of integers, but {str(path)!r} does not read as one "
            f"({' '.join(str(error).split())}); write it with numpy.save"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        found = f"shape {array.shape} of {array.dtype}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError(
            f"{field}: a .npy must hold a 1-D array of integers, but {str(path)!r} holds {found}; "
            "save the token ids as one flat array"
        )
    if not array.size:
        raise InputError(f"{field}: must not be empty, but {str(path)!r} holds 0 tokens; name another file")
    return array
