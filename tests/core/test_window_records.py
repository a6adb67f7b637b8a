"""Records of window losses: what is written is read back, and damage costs only the record that it hits."""

import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from lmcore.window_records import encode_record, read_records

LAST = {"trial": "xs-0003", "step": 200, "set": "final", "evaluation": "last"}
BEST = {"trial": "xs-0003", "step": 150, "set": "val", "evaluation": "best"}
DOCUMENTS = {"context_length": 128, "documents": True}
LOSSES = np.float32([3.25, 1e-30, np.nan, np.inf, 7.1])
THREE = [(LAST, LOSSES), (DOCUMENTS, np.arange(5)), (BEST, LOSSES[:2])]


def whole():
    return b"".join(encode_record(*record) for record in THREE)


def read(content):
    return [(record.header, record.values.tolist()) for record in read_records(content)]


def test_a_record_is_a_line_of_json_and_the_numbers_little_endian():
    """Reference: the file's description, by struct."""
    line, _, numbers = encode_record(LAST, LOSSES[:2]).partition(b"\n")
    expected = struct.pack("<2f", 3.25, 1e-30)
    assert numbers == expected
    assert line.decode() == json.dumps({**LAST, "n": 2, "crc32": zlib.crc32(expected)})
    line, _, numbers = encode_record(DOCUMENTS, np.array([0, 0, 70_000])).partition(b"\n")
    expected = struct.pack("<3i", 0, 0, 70_000)
    assert numbers == expected
    assert line.decode() == json.dumps(
        {"context_length": 128, "n": 3, "documents": True, "crc32": zlib.crc32(expected)}
    )


def test_what_was_written_is_read_back_with_its_types():
    records = list(read_records(whole()))
    assert [record.header["n"] for record in records] == [5, 5, 2]
    assert [record.values.dtype for record in records] == [np.float32, np.int32, np.float32]
    assert np.array_equal(records[0].values, LOSSES, equal_nan=True)
    assert records[1].values.tolist() == [0, 1, 2, 3, 4]
    assert {**BEST, "n": 2}.items() <= records[2].header.items()
    assert records[2].end == len(whole())
    assert list(read_records(b"")) == []


def test_a_last_record_that_was_cut_anywhere_is_ignored():
    content = whole()
    start = len(content) - len(encode_record(*THREE[2]))
    first_two = read(content)[1:2]
    for cut in range(start, len(content)):
        assert read(content[:cut])[1:] == first_two


def test_a_flipped_bit_costs_at_most_the_record_that_it_hits():
    content = whole()
    sizes = [len(encode_record(*record)) for record in THREE]
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        hit = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
        found = [record.end for record in read_records(bytes(damaged))]
        assert set(found) >= set(np.cumsum(sizes).tolist()) - {sum(sizes[: hit + 1])}
    for content in (b"\0" * 1000 + whole(), whole() + b"\0" * 1000):  # what a power cut may leave
        assert len(read(content)) == 3


@pytest.mark.parametrize(
    "line", ["[1]", "7", "{}", '{"n": -1, "crc32": 0}', '{"n": "4", "crc32": 0}', '{"n": 1e9, "crc32": 0}', '{"n": 1}']
)
def test_a_line_that_is_no_header_is_skipped(line):
    assert len(read(line.encode() + b"\n" + whole())) == 3


def test_records_are_read_without_torch():
    subprocess.run(
        [sys.executable, "-c", "import lmcore.window_records, sys; assert 'torch' not in sys.modules"], check=True
    )
