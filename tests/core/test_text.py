"""Documents are read in a fixed order and split into training and validation data."""

import itertools
import os
import shutil
import sysconfig
from pathlib import Path

import pytest

from lmcore.corpus.text import END_OF_TEXT
from lmcore.corpus.text_files import stdlib_files
from lmcore.errors import InputError
from tests.corpora import read_documents, split_documents


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return root


def test_stdlib_skips_tests_packages_and_machine_specific_files(tmp_path):
    kept = ["abc.py", "json/decoder.py", "unittest/case.py", "z.py"]
    dropped = [
        "_sysconfigdata__linux.py",
        "idlelib/idle_test/x.py",
        "json/__pycache__/decoder.py",
        "lib2to3/tests/x.py",
        "site-packages/numpy/x.py",
        "dist-packages/x.py",
        "test/test_json/x.py",
        "unittest/test/x.py",
        "LICENSE.txt",
    ]
    write(tmp_path, dict.fromkeys(kept + dropped, "x = 1\n"))
    assert stdlib_files(tmp_path) == [tmp_path / name for name in kept]


def test_stdlib_files_of_this_interpreter_are_sorted_and_exclude_tests():
    root = Path(sysconfig.get_path("stdlib"))
    names = [path.relative_to(root).as_posix() for path in stdlib_files()]
    assert names == sorted(names)
    assert {"abc.py", "json/decoder.py", "unittest/case.py"} <= set(names)
    assert not any({"test", "tests", "site-packages"} & set(name.split("/")) for name in names)
    assert len(names) > 300


def test_folder_is_read_recursively_in_order_and_skips_hidden_binary_and_blank_files(tmp_path):
    files = {
        "b.txt": "two",
        "a/z.md": "one\r\n",
        "c/d/e.txt": "\ufeffthree",
        ".hidden": "no",
        ".git/config": "no",
        "latin1.txt": "é".encode("latin-1"),
        "zeros.dat": b"text\0more",
        "blank.txt": " \n",
    }
    write(tmp_path, files)
    os.mkfifo(tmp_path / "pipe")  # opening it would block
    assert read_documents(str(tmp_path)) == ["one\r\n", "two", "three"]


def test_order_does_not_depend_on_the_location_of_the_folder(tmp_path):
    write(tmp_path / "first", {"a-b.txt": "1", "a/c.txt": "2", "a.txt": "3"})
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    assert read_documents(str(tmp_path / "first")) == read_documents(str(tmp_path / "second"))


def test_file_is_one_document_unless_it_contains_end_of_text(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("one")
    assert read_documents(str(path)) == ["one"]
    path.write_text(f"one{END_OF_TEXT}\ntwo{END_OF_TEXT}\n")
    assert read_documents(str(path)) == ["one", "\ntwo"]


@pytest.mark.parametrize("count", [20, 21, 99, 730])
@pytest.mark.parametrize("val_fraction", [0.001, 0.05, 0.1, 0.3, 0.5, 0.95, 0.999])
def test_held_out_documents_have_the_requested_share_and_are_evenly_spaced(count, val_fraction, tmp_path):
    documents = [f"{i:04}" for i in range(count)]
    train, val = split_documents(documents, val_fraction, tmp_path)
    assert sorted(train + val) == documents  # each once
    assert len(val) == min(max(round(val_fraction * count), 1), count - 1)
    held_out = [int(document) for document in val]
    gaps = [b - a for a, b in itertools.pairwise(held_out)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    if val_fraction < 0.5:
        assert held_out[-1] < count - 1  # no alphabetical tail


@pytest.mark.parametrize("val_fraction", [0.001, 0.05, 0.5, 0.999])
def test_few_documents_are_split_at_the_tail_without_losing_text(val_fraction, tmp_path):
    documents = ["x = 1\n" * 100, "no line break", "y\n" * 50]
    train, val = split_documents(documents, val_fraction, tmp_path)
    assert "".join(train + val) == "".join(documents)
    assert all(train)
    assert all(val)
    wanted = min(max(val_fraction * 713, 1), 712)
    assert abs(sum(map(len, val)) - wanted) < 14  # the longest line


def test_tail_split_is_at_the_start_of_a_line(tmp_path):
    train, val = split_documents(["a line\n" * 10], 0.25, tmp_path)
    assert train == ["a line\n" * 7]
    assert val == ["a line\n" * 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must not be empty"),
        (b" \n\t", "must contain text"),
        (END_OF_TEXT.encode(), "must contain text"),
        (b"caf\xe9", "not UTF-8 at byte 3"),
        (b"ab\0", "a zero byte at byte 2"),
    ],
)
def test_file_without_valid_text_is_refused(tmp_path, content, message):
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^data\.source: .*{message}.*; [^\n]+$"):
        read_documents(str(path))


def test_missing_path_and_folder_without_text_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"^data\.val_source: must be stdlib, a file or a folder, .*'/nowhere'"):
        read_documents("/nowhere", "data.val_source")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    with pytest.raises(InputError, match=r"^data\.source: must contain text"):
        read_documents(str(tmp_path))


def test_text_of_one_character_cannot_be_split(tmp_path):
    with pytest.raises(InputError, match=r"^data\.source: must leave text for training and validation"):
        split_documents(["x"], 0.5, tmp_path)
