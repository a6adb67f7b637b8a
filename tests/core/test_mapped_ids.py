"""Ids in several files are one array: the same values as the arrays put together, read where they are."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from lmcore.corpus.mapped_ids import IdFile, MappedIds, id_chunks
from lmcore.data import get_batch, validation_windows
from lmcore.errors import InputError

RANDOM = np.random.default_rng(0)


@pytest.fixture
def parts(tmp_path):
    """Three files of different types, and an empty one, with the ids that they hold together."""
    files, arrays = [], []
    for number, (dtype, count) in enumerate([("<u2", 100), ("<u2", 0), (">u4", 37), ("<i8", 263)]):
        array = RANDOM.integers(0, 60_000, count).astype(dtype)
        path = tmp_path / f"{number}.bin"
        path.write_bytes(b"head" + array.tobytes())
        files.append(IdFile(str(path), dtype, 4, 0, count))
        arrays.append(array.astype(np.int64))
    return files, np.concatenate(arrays)


def test_indexing_slicing_and_converting_equal_those_of_one_array(parts):
    files, whole = parts
    ids = MappedIds.of(files)
    assert len(ids) == len(whole)
    assert np.asarray(ids).tolist() == whole.tolist()
    positions = RANDOM.integers(0, len(whole), (7, 5))
    assert ids[positions].tolist() == whole[positions].tolist()
    assert ids[136] == whole[136]
    for start, stop in [(0, 400), (50, 120), (99, 101), (100, 137), (137, 137), (5, 3), (300, None), (-10, None)]:
        assert np.asarray(ids[start:stop]).tolist() == whole[start:stop].tolist()
    assert [int(i) for chunk in id_chunks(ids, 30) for i in chunk] == whole.tolist()
    with pytest.raises(IndexError):
        ids[np.array([400])]


def test_slices_of_slices_and_pickles_are_the_same_ids(parts):
    files, whole = parts
    ids = pickle.loads(pickle.dumps(MappedIds.of(files)[20:380]))[90:200]
    assert np.asarray(ids).tolist() == whole[110:220].tolist()
    assert len(pickle.dumps(ids)) < 1000  # paths, not ids


def test_batches_and_validation_windows_across_files_equal_those_of_one_array(parts):
    files, whole = parts
    for ours, theirs in [
        (get_batch(MappedIds.of(files), 16, 30, "cpu", 1, 2), get_batch(whole, 16, 30, "cpu", 1, 2)),
        (validation_windows(MappedIds.of(files), 30, 9), validation_windows(whole, 30, 9)),
    ]:
        assert all((one == other).all() for one, other in zip(ours, theirs, strict=True))


def test_a_file_that_is_gone_or_shorter_is_refused_in_one_line(parts):
    files, _ = parts
    with open(files[0].path, "r+b") as file:
        file.truncate(50)
    with pytest.raises(InputError, match=r"^data\.source: its files must stay where they are, .*shorter.*; [^\n]+$"):
        MappedIds.of(files)
    with pytest.raises(InputError, match=r"^data\.source: its files must stay .*No such file.*; [^\n]+$"):
        MappedIds.of([IdFile("/nowhere/a.bin", "<u2", 0, 0, 5)])


MANY = """
import resource, sys
from pathlib import Path
import numpy as np
from lmcore.config import DataConfig
from lmcore.corpus.prepare import prepare_tokens

folder, hard = Path(sys.argv[1]), int(sys.argv[2])
for number in range(200):
    np.arange(100, dtype=np.uint16).tofile(folder / f"shard-{number}.bin")
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
tokens = prepare_tokens(DataConfig(source=str(folder)), folder / "cache")
print(len(tokens.train) + len(tokens.val))
"""


def test_more_shards_than_files_may_be_open_raise_the_limit_or_are_refused_in_one_line(tmp_path):
    found = {
        hard: subprocess.run([sys.executable, "-c", MANY, tmp_path, str(hard)], capture_output=True, text=True)
        for hard in (1000, 150)
    }
    assert found[1000].stdout == "20000\n", found[1000].stderr
    message = "data.source: each of its files stays open, and this process may open no more; raise the limit"
    assert message in found[150].stderr.splitlines()[-1]
