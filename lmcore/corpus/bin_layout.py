"""What a .bin holds, from its own bytes: the type of its ids, their byte order, and a head before them.

A .bin says nothing about itself, and one that is read with another type gives other ids, most of them possible ones. So
the bytes are looked at. Ids are smaller than their type could hold: the upper bytes of 32- and 64-bit ids are zero, in
a fixed rhythm, and in 16 bits the upper byte is spread less than the lower one.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmcore.errors import InputError

BIN_TYPES = {
    "uint8": "u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "int32": "<i4",
    "int64": "<i8",
    "uint16-big-endian": ">u2",
    "uint32-big-endian": ">u4",
    "int64-big-endian": ">i8",
}
"""The values of data.bin_dtype besides auto, each with the numpy type of the ids."""

HEAD_BYTES = 256 * 4
HEADS = {20240520: "uint16", 20240801: "uint32"}
"""First number of a file with a head of 256 int32, and the type of its ids: llm.c and modded-nanogpt write the first,
llm.c for Llama 3 the second. The third number is how many ids follow."""

STRETCHES, STRETCH_BYTES = 64, 1 << 15  # of the file that are looked at
LEAST_ROWS = 64
"""Groups of 8 bytes without which the rhythm of zeros says nothing."""
LEAST_IDS = 4096
"""16-bit words without which the spread of bytes says nothing."""
SAME_SPREAD = 0.1
"""Largest distance (total variation) between the spread of bytes at even and at odd places if all are alike."""
TEXT_BITS = 7.0
"""Largest entropy of a byte of a file of 8-bit ids. Random 16-bit ids have nearly 8."""
MARGIN_BITS = 0.5


class BinLayout(NamedTuple):
    """How a .bin is read."""

    bin_dtype: str  # a name in BIN_TYPES
    offset: int = 0  # bytes of the head
    why: str = ""  # what the file shows; empty if it shows nothing, and the type is the usual or the given one
    narrow: bool = False  # without `why`: it shows only that ids have no more than 16 bits

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Type of the ids, with their byte order."""
        return np.dtype(BIN_TYPES[self.bin_dtype])


def bin_layout(path: Path, asked: str, vocab_size: int | None, field: str) -> BinLayout:
    """How to read the .bin at `path`: as `asked`, a name in BIN_TYPES, or with `auto` as its bytes show.

    >>> bin_layout(Path("fineweb_train_000001.bin"), "auto", None, "data.source")
    BinLayout(bin_dtype='uint16', offset=1024, why='its head has the magic number 20240520')

    Raises InputError, which starts with `field`, if the size does not fit, if the file has 16-bit ids but the
    vocabulary needs more, or if zeros show wider ids than uint16, which was asked for. OSError if it cannot be read.
    """
    size = path.stat().st_size
    head = _head(path, size, field)
    shown = head or _shown(_sample(path, size))
    if asked == "auto":
        layout = shown or BinLayout("uint16")
        if layout.bin_dtype == "uint16" and vocab_size is not None and vocab_size > 2**16:
            raise InputError(
                f"{field}: ids of a vocabulary of {vocab_size:,} need 32 bits, but {str(path)!r} looks like uint16, in "
                "which larger ids were cut; write it as uint32, or set data.bin_dtype: uint16 if it has no such ids"
            )
    else:
        layout = BinLayout(asked, 0 if head is None else head.offset)
        if shown is not None and asked == "uint16" and shown.dtype.itemsize > layout.dtype.itemsize:
            raise InputError(
                f"{field}: must be of data.bin_dtype, {asked}, but in {str(path)!r} {shown.why}, as in a file of "
                f"{shown.bin_dtype}; set data.bin_dtype: auto, or {shown.bin_dtype}"
            )
    if (size - layout.offset) % layout.dtype.itemsize:
        raise InputError(
            f"{field}: a .bin of {layout.bin_dtype} must be a multiple of {layout.dtype.itemsize} bytes, "
            f"but {str(path)!r} has {size - layout.offset}; set data.bin_dtype to the type it was written with"
        )
    return layout


def _head(path: Path, size: int, field: str) -> BinLayout | None:
    """The layout that the file's head states; None if it has none."""
    if size < HEAD_BYTES:
        return None
    magic, version, count = np.fromfile(path, "<i4", 3).tolist()
    if magic not in HEADS or version not in range(256):
        return None
    layout = BinLayout(HEADS[magic], HEAD_BYTES, f"its head has the magic number {magic}")
    if size != HEAD_BYTES + count * layout.dtype.itemsize:
        raise InputError(
            f"{field}: must have the {count:,} ids of {layout.bin_dtype} that its head states, but {str(path)!r} has "
            f"{(size - HEAD_BYTES) / layout.dtype.itemsize:,.10g}; copy or download it again"
        )
    return layout


def _sample(path: Path, size: int) -> NDArray[np.uint8]:
    """Stretches of the file as rows of 8 bytes: [n, 8]."""
    content = np.memmap(path, np.uint8, "r", shape=(size // 8 * 8,)) if size >= 8 else np.empty(0, np.uint8)
    rows = content.reshape(-1, 8)
    per_stretch = STRETCH_BYTES // 8
    if len(rows) <= STRETCHES * per_stretch:
        return np.array(rows)
    starts = np.linspace(0, len(rows) - per_stretch, STRETCHES).astype(int)
    return np.concatenate([rows[start : start + per_stretch] for start in starts])


def _shown(rows: NDArray[np.uint8]) -> BinLayout | None:
    """What the bytes show; None if they show nothing."""
    zero: NDArray[np.bool_] = np.all(rows == 0, axis=0)  # of each of the 8 places, whether it is zero throughout
    if len(rows) < LEAST_ROWS or bool(zero.all()):
        return None
    period = next(p for p in (1, 2, 4, 8) if (zero == np.tile(zero[:p], 8 // p)).all())
    if period > 1:
        return _by_zeros(zero[:period].tolist())
    if rows.size < 2 * LEAST_IDS:
        return BinLayout("uint16", 0, narrow=True)
    return _by_spread(rows.reshape(-1, 2)) or BinLayout("uint16", 0, "no byte is zero throughout")


def _by_zeros(zero: list[bool]) -> BinLayout | None:
    """The layout whose upper bytes are those that are always zero."""
    width = len(zero)
    names = {2: "uint16", 4: "uint32", 8: "int64"}
    why = f"{sum(zero)} of every {width} bytes {'is' if sum(zero) == 1 else 'are'} zero"
    if zero == sorted(zero):  # lowest byte first
        return BinLayout(names[width], 0, why)
    if zero == sorted(zero, reverse=True):
        return BinLayout(f"{names[width]}-big-endian", 0, why)
    return None


def _by_spread(pairs: NDArray[np.uint8]) -> BinLayout | None:
    """The layout of 8- or 16-bit ids, by how the bytes at even and at odd places are spread: [n, 2]."""
    even, odd = (np.bincount(pairs[:, place], minlength=256) / len(pairs) for place in (0, 1))
    bits = [float(-(p[p > 0] * np.log2(p[p > 0])).sum()) for p in (even, odd)]
    if float(np.abs(even - odd).sum()) / 2 < SAME_SPREAD:
        return BinLayout("uint8", 0, "the bytes at even and odd places are alike") if max(bits) < TEXT_BITS else None
    spread = f"the entropy of the bytes at even and odd places is {bits[0]:.1f} and {bits[1]:.1f} bits"
    if bits[0] + MARGIN_BITS < bits[1]:
        return BinLayout("uint16-big-endian", 0, spread)
    return BinLayout("uint16", 0, spread) if bits[1] + MARGIN_BITS < bits[0] else None
