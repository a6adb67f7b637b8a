"""Records of window_losses.bin: each is one line of JSON and then numbers of four bytes, checked by a CRC.

    {"trial": "xs-0003", "step": 200, "set": "final", "evaluation": "last", "n": 240, "crc32": 123}
    {"context_length": 128, "n": 240, "documents": true, "crc32": 5}

A record of the first kind is followed by n float32: the loss of each validation window, in nats per token. The `last`
evaluation of a trial is on the `final` windows or, if the trial did not make all its updates, on the small set `val`.
Its `best` is the one with the lowest val_loss, always on `val`. That of a `branch`, whose fraction is in `branch`, is
on its `final` windows. Later records of the same trial, evaluation and branch replace earlier ones.

A record of the second kind is followed by n int32: the number of the document in which each of the n windows of that
context length begins. There is none if the documents are unknown.

All numbers are little-endian. The n windows are those of `lmcore.data.validation_windows`, in its order, so two trials
share their windows if they share data, context length and n.

Records are only ever appended. One that was cut short or damaged is skipped. Loads without torch.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DOCUMENTS = "documents"
"""Key of records that hold documents."""


class Record(NamedTuple):
    """A record that was read: its line of JSON, its numbers, and the position after it."""

    header: dict[str, Any]
    values: NDArray[np.float32] | NDArray[np.int32]
    end: int


def encode_record(header: Mapping[str, Any], values: NDArray[np.floating[Any]] | NDArray[np.integer[Any]]) -> bytes:
    """The bytes of a record; `n` and `crc32` are added to its header.

    >>> encode_record({"trial": "xs-0003", "step": 5, "set": "val", "evaluation": "last"}, np.array([2.5]))
    b'{"trial": "xs-0003", "step": 5, "set": "val", "evaluation": "last", "n": 1, "crc32": 3256662574}\\n\\x00\\x00 @'
    """
    content = values.astype(_dtype(header)).tobytes()
    full = {key: value for key, value in header.items() if key != DOCUMENTS} | {"n": len(values)}
    full |= {DOCUMENTS: True} if DOCUMENTS in header else {}
    return json.dumps(full | {"crc32": zlib.crc32(content)}).encode() + b"\n" + content


def read_records(content: bytes) -> Iterator[Record]:
    """The undamaged records in the content of a file, in order.

    >>> [record.values.tolist() for record in read_records(encode_record({"trial": "xs-0003"}, np.array([2.5])))]
    [[2.5]]
    """
    start = 0
    while start >= 0:
        record = _decode(content, start)
        if record is not None:
            yield record
        # After damage, whatever begins like a header and fits its own CRC is a record.
        start = content.find(b'{"', start + 1) if record is None else record.end


def _decode(content: bytes, start: int) -> Record | None:
    """The record at `start`, or None if there is no whole and undamaged one."""
    try:
        body = content.index(b"\n", start) + 1
        header = json.loads(content[start:body])
        end = body + 4 * header["n"]
        numbers = content[body:end]
        if len(numbers) != 4 * header["n"] or zlib.crc32(numbers) != header["crc32"]:
            return None
        return Record(header, np.frombuffer(numbers, _dtype(header)), end)
    except (ValueError, LookupError, TypeError):
        return None


def _dtype(header: Mapping[str, Any]) -> np.dtype[Any]:
    return np.dtype("<i4" if DOCUMENTS in header else "<f4")
