"""Token files: .npy (a 1-D array of integers) and .bin (flat ids, with or without a head), one or many.

They are memory-mapped, never read into memory. What a .bin holds is found by `lmcore.corpus.bin_layout`. Text is in
`lmcore.corpus.text`; the folder in which a run keeps its tokens is in `lmcore.corpus.tokens`.
"""

import glob
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmcore.corpus.bin_layout import BinLayout, bin_layout
from lmcore.corpus.mapped_ids import IdFile, MappedIds, id_chunks
from lmcore.corpus.reading import MOST_LISTED, Reading, SkippedFile
from lmcore.errors import InputError

TOKEN_FILE_SUFFIXES = (".npy", ".bin")
BESIDE_TOKENS = (".pkl", ".json", ".md", ".yaml", ".idx")
"""Suffixes of files that may lie among the shards of a folder. None of them is read; a meta.pkl is never unpickled."""
VALIDATION = re.compile(r"(?<![a-z])(val|valid|validation|test|eval)(?![a-z])", re.IGNORECASE)
"""What the name of a file holds that is not for training."""
MAX_VOCAB_SIZE = 2**32  # ids are stored as uint16 or uint32
HEAD_POSITIONS = 1024
"""Ids that are out of range only among these look like the head of an unknown format."""
LARGEST_IDS = {
    50256: "GPT-2's end of text: its vocabulary has 50,257 ids",
    31999: "the largest of Llama 2, whose vocabulary has 32,000",
    100257: "the end of text of cl100k, whose vocabulary has 100,277",
    128001: "the end of text of Llama 3, whose vocabulary has 128,256",
    151643: "the end of text of Qwen, whose vocabulary has 151,936",
}


class TokenSource(NamedTuple):
    """The ids of a source, and how they were read."""

    ids: MappedIds
    reading: Reading


def token_files(source: str, field: str = "data.source") -> list[Path] | None:
    """The token files that a source names, in the order of the numbers in their names; None if it is a source of text.

    A source of tokens is a .npy or .bin, a pattern such as `shards/*.bin`, or a folder of such files without text.

    A pattern of tokens that matches nothing gives an empty list. Raises InputError if a folder cannot be read, or holds
    both training and validation tokens.

    >>> token_files("fineweb10B/fineweb_train_*.bin")  # doctest: +SKIP
    """
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):
        try:
            return _folder(path, source, field)
        except OSError as error:
            raise InputError(
                f"{field}: must be readable, but {source!r} is not ({error.strerror}); check its permissions"
            ) from error
    if path.suffix not in TOKEN_FILE_SUFFIXES:
        return None
    if os.path.exists(path) or not glob.has_magic(str(path)):
        return [path]
    return sorted((Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name)), key=_by_number)


def read_token_files(source: str, bin_dtype: str, vocab_size: int | None, field: str = "data.source") -> TokenSource:
    """The ids of a source of tokens as one stream, memory-mapped. `check_ids` checks their range.

    Raises InputError if a file is missing or empty, is not a 1-D array of integers, or holds ids of another type than
    `bin_dtype` or the other files. The message starts with `field`.

    >>> ids, reading = read_token_files("train.bin", "auto", vocab_size=None)  # doctest: +SKIP
    """
    if not (paths := token_files(source, field)):
        raise InputError(f"{field}: must match files, but {source!r} matches none; check the pattern and its folder")
    stretches, layouts = [], {}
    for path in paths:
        try:
            if not path.stat().st_size:
                raise InputError(f"{field}: must not be empty, but {str(path)!r} has 0 bytes; name another file")
            if path.suffix == ".bin":
                layouts[path] = bin_layout(path, bin_dtype, vocab_size, field)
            else:
                stretches.append(_npy(path, field))
        except OSError as error:
            raise InputError(
                f"{field}: must be a readable file, but {str(path)!r} is not ({error.strerror}); check the path"
            ) from error
    stretches += _bins(layouts, field)
    order = {str(path.absolute()): number for number, path in enumerate(paths)}
    ids = MappedIds.of(sorted(stretches, key=lambda stretch: order[stretch.path]))
    notes = sorted({_note(layout) for layout in layouts.values() if layout.offset or layout.bin_dtype != "uint16"})
    skipped = _beside(source)
    reading = Reading(
        field=field,
        files=len(paths),
        tokens=len(ids),
        skipped=len(skipped),
        skipped_files=tuple(SkippedFile(path=str(file), why="not a .npy or .bin") for file in skipped[:MOST_LISTED]),
        notes=tuple(notes),
    )
    return TokenSource(ids, reading)


def check_ids(ids: Any, vocab_size: int, field: str = "data.source", has_tokenizer: bool = False) -> int:
    """The largest id. Raises InputError, with the likeliest reason, unless every id is in 0..vocab_size - 1.

    `ids` is an array or `MappedIds`, which is read in chunks. The message starts with `field`.
    """
    largest, position = -1, 0
    for chunk in id_chunks(ids):
        largest = max(largest, int(chunk.max()))
        if largest >= vocab_size or (chunk.dtype.kind == "i" and chunk.min() < 0):
            break
        position += len(chunk)
    else:
        return largest
    wrong = (chunk < 0) | (chunk >= vocab_size) if chunk.dtype.kind == "i" else chunk >= vocab_size
    first = int(wrong.argmax())
    found, at = int(chunk[first]), position + first
    rule = "must not be negative" if found < 0 else f"must be below the vocabulary's size {vocab_size}"
    only_head = at < HEAD_POSITIONS and not bool(wrong[HEAD_POSITIONS - position :].any())
    raise InputError(
        f"{field}: token ids {rule}, but id {found} is at position {at}; "
        f"{_likely(found, largest, only_head and len(ids) > 2 * HEAD_POSITIONS, has_tokenizer)}"
    )


def _likely(found: int, largest: int, only_head: bool, has_tokenizer: bool) -> str:
    """What is probably wrong, the likeliest first, and what to do."""
    if only_head:
        return "only the start has such ids, like the head of another format: cut it off, or convert the file to .npy"
    if found < 0:
        return "drop padding and ignore marks from the file"
    if largest in LARGEST_IDS:
        return f"{largest} is {LARGEST_IDS[largest]}: set data.vocab_size, or name that tokenizer"
    if has_tokenizer:
        return f"the largest id seen is {largest}: name the tokenizer that wrote them, or check data.bin_dtype"
    return f"raise data.vocab_size (the largest id seen is {largest}), name the tokenizer, or check data.bin_dtype"


def _folder(path: Path, source: str, field: str) -> list[Path] | None:
    """The shards in a folder; None if it has none, or other files besides."""
    entries = _visible(path)
    files = [file for file in entries if file.is_file()]
    shards = sorted((file for file in files if file.suffix in TOKEN_FILE_SUFFIXES), key=_by_number)
    names = {file.name for file in shards}
    for suffix in TOKEN_FILE_SUFFIXES:
        if {f"train{suffix}", f"val{suffix}"} <= names:
            raise InputError(
                f"{field}: must be training data alone, but {source!r} holds train{suffix} and val{suffix}; give "
                f"data.source: {path}/train{suffix} and data.val_source: {path}/val{suffix}"
            )
    others = [file for file in files if file.suffix not in (*TOKEN_FILE_SUFFIXES, *BESIDE_TOKENS)]
    if not shards or others or any(map(Path.is_dir, entries)):
        return None
    val = [file for file in shards if VALIDATION.search(file.stem)]
    if val and len(val) < len(shards):
        train = next(file for file in shards if file not in val)
        raise InputError(
            f"{field}: must be training data alone, but {source!r} holds {train.name} and {val[0].name}; "
            f"give data.source: '{path}/{_pattern(train.name)}' and data.val_source: '{path}/{_pattern(val[0].name)}'"
        )
    return shards


def _beside(source: str) -> list[Path]:
    """The files in a folder of shards that are none."""
    path = Path(os.path.expanduser(source))
    return sorted(file for file in _visible(path) if file.suffix in BESIDE_TOKENS) if os.path.isdir(path) else []


def _visible(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _pattern(name: str) -> str:
    """The name with its last number as a star: `fineweb_train_*.bin`."""
    return re.sub(r"\d+(?=\D*$)", "*", name)


def _by_number(path: Path) -> list[tuple[bool, int | str]]:
    """Sorts `part-2` before `part-10`."""
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in parts]


def _bins(layouts: dict[Path, BinLayout], field: str) -> list[IdFile]:
    """The ids of .bin files, which must all have the same type; small ones may not show theirs."""
    shown = {path: layout for path, layout in layouts.items() if layout.why}
    types = {layout.bin_dtype: path for path, layout in shown.items()}
    if types and max(layout.dtype.itemsize for layout in shown.values()) > 2:
        types |= {layout.bin_dtype: path for path, layout in layouts.items() if layout.narrow}
    if len(types) > 1:
        (one, path), (other, also) = list(types.items())[:2]
        raise InputError(
            f"{field}: all files must have ids of one type, but {str(path)!r} looks like {one} and {str(also)!r} like "
            f"{other}; name them as two sources, or set data.bin_dtype"
        )
    files = []
    for path, layout in layouts.items():
        item = np.dtype(next(iter(shown.values())).dtype) if shown and not layout.why else layout.dtype
        count = (path.stat().st_size - layout.offset) // item.itemsize
        files.append(IdFile(str(path.absolute()), item.str, layout.offset, 0, count))
    return files


def _note(layout: BinLayout) -> str:
    why = f", because {layout.why}" if layout.why else ""
    return f"read as {layout.bin_dtype}{why}"


def _npy(path: Path, field: str) -> IdFile:
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
    return IdFile(str(path.absolute()), array.dtype.str, int(getattr(array, "offset", 0)), 0, len(array))
