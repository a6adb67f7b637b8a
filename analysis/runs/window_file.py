"""window_losses.bin: the loss of every validation window in a trial's last evaluation, and in its best one.

The file is a sequence of records, each one line of JSON followed by n little-endian values of 4 bytes:

    {"trial": "xs-0003", "step": 200, "set": "final", "evaluation": "last", "n": 240, "crc32": 123}
    n float32: losses in nats per token
    {"context_length": 128, "n": 240, "documents": true, "crc32": 5}
    n int32: the number of the document in which each of the n windows begins

Later records of the same trial and evaluation win. What a killed writer left at the end is ignored.
"""

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NAME = "window_losses.bin"
LAST, BEST = "last", "best"
BYTES = 4  # of each value


class WindowLosses(NamedTuple):
    """The contents of the file. Arrays are views of one buffer."""

    losses: dict[str, dict[str, NDArray[np.float32]]]
    """By evaluation (`last`, `best`), then by trial: [n] losses in nats per token."""
    documents: dict[tuple[int, int], NDArray[np.int32]]
    """By context length and number of windows n: [n] numbers of documents."""


def read_window_losses(path: Path) -> WindowLosses:
    """Every intact record of the file; none if there is no file.

    >>> read_window_losses(Path("runs/quick/window_losses.bin")).losses["last"]["xs-0003"].mean()
    """
    content = path.read_bytes() if path.exists() else b""
    found = WindowLosses({LAST: {}, BEST: {}}, {})
    start = 0
    while (record := _record(content, start)) is not None:
        header, begin, end = record
        if zlib.crc32(memoryview(content)[begin:end]) == header.get("crc32"):
            _keep(found, header, content, begin)
        start = end
    return found


def _record(content: bytes, start: int) -> tuple[dict[str, Any], int, int] | None:
    """The header of the record at `start`, and where its values begin and end; None if it is torn, or at the end."""
    line_end = content.find(b"\n", start)
    if line_end < 0:
        return None
    try:
        header = json.loads(content[start:line_end])
        n = header["n"]
    except (ValueError, KeyError, TypeError):
        return None
    end = line_end + 1 + BYTES * n if isinstance(n, int) and n > 0 else -1
    return (header, line_end + 1, end) if line_end < end <= len(content) else None


def _keep(found: WindowLosses, header: dict[str, Any], content: bytes, begin: int) -> None:
    if header.get("documents"):
        values = np.frombuffer(content, "<i4", header["n"], begin)
        found.documents[header.get("context_length", 0), header["n"]] = values
    elif (evaluation := header.get("evaluation")) in found.losses and "trial" in header:
        found.losses[evaluation][header["trial"]] = np.frombuffer(content, "<f4", header["n"], begin)
