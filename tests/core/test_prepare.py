"""Preparing tokens from every kind of source, the cache, and the errors of wrong sources."""

import errno
import logging
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from lmcore.config import DataConfig
from lmcore.corpus import encode as encode_module
from lmcore.corpus import prepare as prepare_module
from lmcore.corpus import tokens as tokens_module
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.text import END_OF_TEXT
from lmcore.corpus.tokenizer import train_tokenizer
from lmcore.corpus.tokens import load_tokens, save_tokens
from lmcore.errors import InputError
from tests.corpora import read_documents, split_documents

ASYNCIO = str(Path(sysconfig.get_path("stdlib"), "asyncio"))
IDS = np.random.default_rng(0).integers(0, 97, size=1000)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DataConfig:
    """More than 20 documents of real text, truncated so that preparing them is fast."""
    folder = tmp_path_factory.mktemp("text")
    for i, document in enumerate(read_documents(ASYNCIO)):
        (folder / f"{i:02}.txt").write_text(document[:2000])
    return DataConfig(source=str(folder), vocab_size=300, val_fraction=0.1)


@pytest.fixture(scope="module")
def prepared(config, tmp_path_factory):
    return prepare_tokens(config, tmp_path_factory.mktemp("cache"))


def npy(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def flat(path: Path, array: np.ndarray) -> str:
    array.tofile(path)
    return str(path)


def decode(tokens, ids: np.ndarray) -> str:
    return Tokenizer.from_str(tokens.tokenizer_json).decode(ids.tolist(), skip_special_tokens=False)


def assert_same(ours, theirs) -> None:
    assert ours.fingerprint == theirs.fingerprint
    np.testing.assert_array_equal(ours.train, theirs.train)
    np.testing.assert_array_equal(ours.val, theirs.val)
    assert ours.bytes_per_token == theirs.bytes_per_token
    assert ours.tokenizer_json == theirs.tokenizer_json


# Text


def test_tokens_decode_to_the_documents_and_the_bpe_is_trained_on_training_documents_only(prepared, config, tmp_path):
    train, val = split_documents(read_documents(config.source), 0.1, tmp_path)
    assert decode(prepared, prepared.train) == "".join(document + END_OF_TEXT for document in train)
    assert decode(prepared, prepared.val) == "".join(document + END_OF_TEXT for document in val)
    assert prepared.tokenizer_json == train_tokenizer(train, 300).to_str()
    assert prepared.vocab_size == 300
    assert prepared.train.dtype == np.uint16
    assert prepared.bytes_per_token == sum(len(document.encode()) for document in val) / len(prepared.val)
    assert 0 < prepared.unigram_entropy < np.log(300)


def test_preparing_does_not_import_torch():
    code = "import sys, lmcore.corpus.prepare; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_with_val_source_all_of_source_is_training_data(tmp_path):
    (tmp_path / "train.txt").write_text("to be or not to be\n" * 20)
    (tmp_path / "val.txt").write_text("to be\n")
    tokens = prepare_tokens(
        DataConfig(source=str(tmp_path / "train.txt"), val_source=str(tmp_path / "val.txt")), tmp_path / "cache"
    )
    assert decode(tokens, tokens.train) == "to be or not to be\n" * 20 + END_OF_TEXT
    assert decode(tokens, tokens.val) == f"to be\n{END_OF_TEXT}"
    assert 257 < tokens.vocab_size < 2048  # the text has no more pairs to merge
    assert tokens.train.max() < tokens.vocab_size


def test_given_tokenizer_is_used_and_the_vocabulary_can_be_padded(prepared, config, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(prepared.tokenizer_json)
    theirs = config.model_copy(update={"tokenizer": str(path), "vocab_size": None})
    assert_same(prepare_tokens(theirs, tmp_path / "cache"), prepared)
    padded = prepare_tokens(theirs.model_copy(update={"vocab_size": 512}), tmp_path / "cache")
    assert padded.vocab_size == 512
    np.testing.assert_array_equal(padded.train, prepared.train)


def test_given_tokenizer_must_fit_the_vocabulary(prepared, config, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(prepared.tokenizer_json)
    small = config.model_copy(update={"tokenizer": str(path), "vocab_size": 260})
    with pytest.raises(InputError, match=r"^data\.source: token ids must be below .* 260, but id \d+ is at position"):
        prepare_tokens(small, tmp_path / "cache")


# The cache


def test_second_preparation_reads_the_cache(prepared, config, tmp_path):
    prepare_tokens(config, tmp_path)
    (entry,) = tmp_path.iterdir()
    before = entry.stat()
    assert_same(prepare_tokens(config, tmp_path), prepared)
    assert [path.stat() for path in tmp_path.iterdir()] == [before]  # not written again, which would change the inode


def test_other_text_vocabulary_or_split_has_its_own_cache_entry(tmp_path):
    source = tmp_path / "text.txt"
    cache = tmp_path / "cache"

    def entries_after(**fields) -> int:
        prepare_tokens(DataConfig(source=str(source), **fields), cache)
        return len(list(cache.iterdir()))

    source.write_text("one line\n" * 50)
    assert [entries_after(), entries_after(vocab_size=258), entries_after(val_fraction=0.5)] == [1, 2, 3]
    source.write_text("one lime\n" * 50)
    assert [entries_after(), entries_after()] == [4, 4]


@pytest.mark.parametrize("name", ["train.npy", "val.npy", "meta.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_cache_entry_is_rebuilt(prepared, config, tmp_path, name, damage, caplog):
    prepare_tokens(config, tmp_path)
    (entry,) = tmp_path.iterdir()
    path = entry / name
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0x80
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        assert_same(prepare_tokens(config, tmp_path), prepared)
    assert "preparing the tokens again" in caplog.text
    assert list(tmp_path.iterdir()) == [entry]
    caplog.clear()
    assert_same(prepare_tokens(config, tmp_path), prepared)
    assert not caplog.text


def test_preparing_concurrently_is_safe(prepared, config, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        for tokens in pool.map(lambda _: prepare_tokens(config, tmp_path), range(8)):
            assert_same(tokens, prepared)
    assert_same(prepare_tokens(config, tmp_path), prepared)


def test_cache_that_cannot_be_written_is_not_an_error(prepared, config, tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        assert_same(prepare_tokens(config, tmp_path / "file" / "cache"), prepared)
    assert "not cached" in caplog.text


def test_cache_is_in_the_xdg_cache_folder(config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    prepare_tokens(config)
    assert len(list((tmp_path / "xdg" / "lmsweep").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    prepare_tokens(config)
    assert len(list((tmp_path / "home" / ".cache" / "lmsweep").iterdir())) == 1


# Files of tokens


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int64", ">i4"])
def test_npy_is_split_at_its_tail(tmp_path, dtype):
    tokens = prepare_tokens(DataConfig(source=npy(tmp_path / "t.npy", IDS.astype(dtype)), val_fraction=0.05))
    assert np.asarray(tokens.train).tolist() == IDS[:950].tolist()
    assert np.asarray(tokens.val).tolist() == IDS[950:].tolist()
    assert tokens.train.dtype == np.dtype(dtype).newbyteorder("=")
    assert tokens.vocab_size == IDS.max() + 1
    assert tokens.bytes_per_token is None
    assert tokens.tokenizer_json is None


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_bin_is_memory_mapped_and_can_have_a_validation_file(tmp_path, dtype):
    config = DataConfig(
        source=flat(tmp_path / "train.bin", IDS.astype(dtype)),
        val_source=flat(tmp_path / "val.bin", IDS[:50].astype(dtype)),
        bin_dtype=dtype,
        vocab_size=50304,
    )
    tokens = prepare_tokens(config)
    assert np.asarray(tokens.train).tolist() == IDS.tolist()
    assert np.asarray(tokens.val).tolist() == IDS[:50].tolist()
    assert tokens.vocab_size == 50304
    assert tokens.files == [tmp_path / "train.bin", tmp_path / "val.bin"]


def test_tokenizer_gives_token_files_their_vocabulary_and_bytes_per_token(prepared, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(prepared.tokenizer_json)
    tokens = prepare_tokens(
        DataConfig(
            source=npy(tmp_path / "train.npy", prepared.train),
            val_source=flat(tmp_path / "val.bin", prepared.val),
            tokenizer=str(path),
        )
    )
    assert_same(tokens, prepared)


def test_folder_named_like_a_token_file_is_read_as_text(tmp_path):
    folder = tmp_path / "text.bin"
    folder.mkdir()
    (folder / "a.txt").write_text("some text\n" * 9)
    assert prepare_tokens(DataConfig(source=str(folder)), tmp_path / "cache").tokenizer_json is not None


def refuse(message: str, **fields) -> None:
    """The config is refused in one line that says the field, the rule, the value (after "but") and the remedy."""
    with pytest.raises(InputError) as refusal:
        prepare_tokens(DataConfig(**fields))
    assert message in str(refusal.value)
    assert str(refusal.value).startswith("data.")
    assert "\n" not in str(refusal.value)
    assert "but" in str(refusal.value)
    assert ";" in str(refusal.value)


@pytest.mark.parametrize("name", ["none.npy", "none.bin", "none.txt", "none"])
def test_missing_source_is_refused(tmp_path, name):
    path = tmp_path / name
    refuse(
        f"data.source: must be {'a readable file' if path.suffix in ('.npy', '.bin') else 'stdlib'}", source=str(path)
    )
    kind = npy(tmp_path / "t.npy", IDS) if path.suffix in (".npy", ".bin") else ASYNCIO
    refuse("data.val_source: must be", source=kind, val_source=str(path))


@pytest.mark.parametrize("name", ["empty.npy", "empty.bin", "empty.txt"])
def test_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    refuse("data.source: must not be empty", source=str(tmp_path / name))


def test_npy_must_hold_a_1d_array_of_integers(tmp_path):
    path = tmp_path / "t.npy"
    for array, found in [
        (IDS.reshape(2, -1), "shape (2, 500)"),
        (IDS.astype(float), "float64"),
        (IDS > 3, "bool"),
        (np.array(5), "shape ()"),
        (np.array(["a"]), "<U1"),
    ]:
        refuse(found, source=npy(path, array))
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    refuse("does not read as one", source=str(path))
    refuse("holds 0 tokens", source=npy(path, IDS[:0]))
    path.write_bytes(Path(npy(path, IDS)).read_bytes()[:-1])
    refuse("does not read as one", source=str(path))
    path.write_text("text")
    refuse("does not read as one", source=str(path))
    np.savez(tmp_path / "t.npz", IDS)
    (tmp_path / "t.npz").rename(path)
    refuse("an archive", source=str(path))


def test_bin_whose_length_does_not_fit_its_dtype_is_refused(tmp_path):
    path = tmp_path / "t.bin"
    path.write_bytes(b"12345")
    refuse("a .bin of uint16 must be a multiple of 2 bytes", source=str(path))
    path.write_bytes(b"123456")
    refuse("a .bin of uint32 must be a multiple of 4 bytes", source=str(path), bin_dtype="uint32")


def test_id_outside_the_vocabulary_is_refused_with_its_position(tmp_path):
    ids = IDS.copy()
    ids[[700, 990]] = 97, 500
    good, bad = npy(tmp_path / "good.npy", IDS), npy(tmp_path / "bad.npy", ids)
    refuse(
        "data.source: token ids must be below the vocabulary's size 97, but id 97 is at position 700",
        source=bad,
        vocab_size=97,
    )
    refuse(
        "data.source: token ids must be below the vocabulary's size 98, but id 500 is at position 990",
        source=bad,
        vocab_size=98,
    )
    refuse("data.val_source: token ids must be below", source=good, val_source=bad, vocab_size=97)
    ids[3] = -100
    refuse(
        "data.source: token ids must not be negative, but id -100 is at position 3",
        source=npy(tmp_path / "bad.npy", ids),
    )
    ids[3] = 2**32
    refuse("but id 4294967296 is at position 3", source=npy(tmp_path / "bad.npy", ids))


def test_token_file_must_leave_tokens_for_both_splits(tmp_path):
    refuse("must leave tokens for training and validation", source=npy(tmp_path / "t.npy", IDS[:1]))
    tokens = prepare_tokens(DataConfig(source=npy(tmp_path / "t.npy", IDS[:2])))
    assert (len(tokens.train), len(tokens.val)) == (1, 1)


def test_validation_data_must_be_of_the_same_kind(tmp_path):
    refuse("data.val_source: must be of the same kind", source=npy(tmp_path / "t.npy", IDS), val_source=ASYNCIO)


def test_bad_tokenizer_and_bad_vocabulary_are_refused(tmp_path):
    refuse("data.tokenizer: must be a readable", source=ASYNCIO, tokenizer=str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    refuse("does not parse", source=npy(tmp_path / "t.npy", IDS), tokenizer=str(tmp_path / "bad.json"))
    refuse("data.vocab_size: a byte-level BPE needs at least 257", source=ASYNCIO, vocab_size=256)


def test_a_path_that_is_too_long_is_one_line(tmp_path):
    for suffix in ("", ".bin"):
        with pytest.raises(InputError, match=r"^data\.source: must be [^\n]+ check the path$"):
            prepare_tokens(DataConfig(source="x" * 300 + suffix), tmp_path)


def test_bytes_of_ids_that_the_tokenizer_lacks_are_unknown(tmp_path):
    tokenizer = str(tmp_path / "tokenizer.json")
    train_tokenizer(["to be or not to be"], 300).save(tokenizer)
    np.array([5, 6, 7, 8] * 20, np.uint16).tofile(tmp_path / "a.bin")
    np.array([5, 6, 7, 350] * 20, np.uint16).tofile(tmp_path / "b.bin")
    found = [
        prepare_tokens(DataConfig(source=str(tmp_path / name), tokenizer=tokenizer, vocab_size=400))
        for name in ("a.bin", "b.bin")
    ]
    assert [tokens.bytes_per_token for tokens in found] == [1.0, None]


def test_what_is_given_and_not_used_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("some text of a few words " * 50)
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "a.bin")
    given = {"text_field": "story", "bin_dtype": "uint16", "end_of_text": "<|endoftext|>", "copy": "always"}
    unused = {}
    for name in ("a.txt", "a.bin"):
        said = []
        prepare_tokens(DataConfig(source=str(tmp_path / name), **given), tmp_path / "cache", said.append)
        unused[name] = {line.split(" ")[0] for line in said if " is not used: " in line}
    assert unused["a.txt"] == {"data.text_field", "data.bin_dtype", "data.copy"}
    assert unused["a.bin"] == {"data.text_field", "data.end_of_text"}


@pytest.mark.parametrize(("name", "used"), [("b.jsonl", True), ("b.md", False)])
def test_whether_a_field_is_used_depends_on_the_files_and_not_on_how_they_are_named(tmp_path, name, used):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.txt").write_text("some text of a few words " * 50)
    (folder / name).write_text('{"story": "a story of a few words"}\n')
    for source in (folder, folder / "*"):
        said = []
        prepare_tokens(DataConfig(source=str(source), text_field="story"), tmp_path / "cache", said.append)
        assert any(line.startswith("data.text_field is not used") for line in said) is not used


def test_a_line_says_that_a_tokenizer_was_trained_on_a_part_of_the_text(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "a.txt").write_text("".join(random.choice(list("ACGT"), 600_000)))
    said = []
    prepare_tokens(DataConfig(source=str(tmp_path / "a.txt"), vocab_size=260), tmp_path / "cache", said.append)
    assert "words hardly repeat, so the tokenizer was trained on one in 16 parts of the text" in said[0]


def test_ids_of_text_are_kept_with_the_run_however_many_they_are(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("some text of a few words " * 500)
    for module in (tokens_module, prepare_module):
        monkeypatch.setattr(module, "LARGE_BYTES", 100)
    tokens = prepare_tokens(DataConfig(source=str(tmp_path / "a.txt")), tmp_path / "cache")
    assert tokens.files  # those of the cache
    assert save_tokens(tokens, tmp_path / "kept", "never")
    shutil.rmtree(tmp_path / "cache")
    assert load_tokens(tmp_path / "kept").fingerprint == tokens.fingerprint


class Full(FileIO):
    """A file on a disk that has room for 10,000 bytes more."""

    def write(self, content):
        if self.tell() + len(content) > 10_000:
            super().write(content[: 10_000 - self.tell()])
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


def test_a_cache_whose_disk_is_full_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("".join(f"line {number} of some text\n" for number in range(5000)))
    config = DataConfig(source=str(tmp_path / "a.txt"))
    expected = prepare_tokens(config, tmp_path / "cache")
    unnamed = encode_module._unnamed
    monkeypatch.setattr(
        encode_module,
        "_unnamed",
        lambda folder: Full(tempfile.mkstemp(dir=tmp_path)[1], "w+") if folder else unnamed(folder),
    )
    found = prepare_tokens(config, tmp_path / "other")
    assert found.fingerprint == expected.fingerprint
