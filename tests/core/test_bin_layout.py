"""The bytes of a .bin tell its type, its byte order and its head; what they do not tell is read as uint16."""

import numpy as np
import pytest

from lmcore.config import BinType, DataConfig
from lmcore.corpus.bin_layout import BIN_TYPES, bin_layout
from lmcore.corpus.prepare import prepare_tokens
from lmcore.errors import InputError

RANDOM = np.random.default_rng(0)
WORDS = np.minimum(RANDOM.zipf(1.2, 40_000) - 1, 2**40)


def ids_below(vocab_size):
    """Ids with the frequencies of words: most are small."""
    return WORDS % vocab_size


def written(folder, ids, bin_dtype, head=b""):
    path = folder / "t.bin"
    path.write_bytes(head + ids.astype(BIN_TYPES[bin_dtype]).tobytes())
    return path


def head_of(magic, count):
    head = np.zeros(256, "<i4")
    head[:3] = magic, 1, count
    return head.tobytes()


def test_every_type_of_the_config_has_a_numpy_type():
    assert set(BIN_TYPES) == set(BinType.__args__)


@pytest.mark.parametrize("vocab_size", [65, 300, 2048, 50257, 65_000])
@pytest.mark.parametrize("bin_dtype", ["uint16", "uint32", "int64", "uint16-big-endian", "uint32-big-endian"])
def test_the_type_of_ids_of_text_is_recognised_and_read(tmp_path, vocab_size, bin_dtype):
    ids = ids_below(vocab_size)
    path = written(tmp_path, ids, bin_dtype)
    assert bin_layout(path, "auto", None, "data.source").bin_dtype == bin_dtype
    tokens = prepare_tokens(DataConfig(source=str(path)))
    assert np.concatenate([tokens.train, tokens.val]).tolist() == ids.tolist()


@pytest.mark.parametrize("vocab_size", [100_277, 128_256, 256_000])
@pytest.mark.parametrize("bin_dtype", ["uint32", "int64", "uint32-big-endian"])
def test_ids_above_65535_are_recognised_and_read(tmp_path, vocab_size, bin_dtype):
    ids = ids_below(vocab_size)
    ids[::97] = vocab_size - 1
    path = written(tmp_path, ids, bin_dtype)
    assert bin_layout(path, "auto", None, "data.source").bin_dtype == bin_dtype
    tokens = prepare_tokens(DataConfig(source=str(path)))
    assert np.concatenate([tokens.train, tokens.val]).tolist() == ids.tolist()
    assert tokens.vocab_size == vocab_size


@pytest.mark.parametrize("vocab_size", [97, 2048, 50257, 65536])
def test_random_ids_are_uint16(tmp_path, vocab_size):
    ids = RANDOM.integers(0, vocab_size, 40_000)
    assert bin_layout(written(tmp_path, ids, "uint16"), "auto", None, "data.source").bin_dtype == "uint16"


def test_bytes_of_text_are_8_bit_ids(tmp_path):
    text = " ".join(map(str, ids_below(5000))).encode()
    path = tmp_path / "t.bin"
    path.write_bytes(text)
    tokens = prepare_tokens(DataConfig(source=str(path)))
    assert np.asarray(tokens.train).tolist() == list(text)[: len(tokens.train)]
    assert "read as uint8, because the bytes at even and odd places are alike" in tokens.readings[0].line


@pytest.mark.parametrize(("magic", "bin_dtype"), [(20240520, "uint16"), (20240801, "uint32")])
def test_the_head_of_llm_c_is_read_past(tmp_path, magic, bin_dtype):
    ids = ids_below(50257)
    path = written(tmp_path, ids, bin_dtype, head_of(magic, len(ids)))
    tokens = prepare_tokens(DataConfig(source=str(path)))
    assert np.concatenate([tokens.train, tokens.val]).tolist() == ids.tolist()
    assert f"because its head has the magic number {magic}" in tokens.readings[0].line


def test_a_file_with_a_head_that_was_cut_off_is_refused(tmp_path):
    ids = ids_below(50257)
    path = written(tmp_path, ids[:-5], "uint16", head_of(20240520, len(ids)))
    with pytest.raises(InputError, match=r"^data\.source: must have the 40,000 ids .* has 39,995; [^\n]+$"):
        prepare_tokens(DataConfig(source=str(path)))


def test_16_bit_ids_of_a_larger_vocabulary_are_refused_and_read_when_told(tmp_path):
    path = written(tmp_path, ids_below(60_000), "uint16")
    with pytest.raises(InputError, match=r"^data\.source: ids of a vocabulary of 128,256 need 32 bits, .*; write it"):
        prepare_tokens(DataConfig(source=str(path), vocab_size=128_256))
    told = prepare_tokens(DataConfig(source=str(path), vocab_size=128_256, bin_dtype="uint16"))
    assert told.vocab_size == 128_256


def test_uint16_is_refused_where_zeros_show_wider_ids(tmp_path):
    path = written(tmp_path, ids_below(2048), "uint32")
    with pytest.raises(InputError, match=r"^data\.source: .* uint16, but .* 2 of every 4 bytes are zero, .*uint32$"):
        prepare_tokens(DataConfig(source=str(path), bin_dtype="uint16"))


def test_another_type_is_read_as_it_was_told(tmp_path):
    ids = ids_below(2048)
    path = written(tmp_path, ids, "int64")
    tokens = prepare_tokens(DataConfig(source=str(path), bin_dtype="int64"))
    assert np.concatenate([tokens.train, tokens.val]).tolist() == ids.tolist()


@pytest.mark.parametrize("content", [b"", b"ab", bytes(1000), bytes(range(256))])
def test_files_that_show_nothing_are_uint16(tmp_path, content):
    path = tmp_path / "t.bin"
    path.write_bytes(content)
    assert bin_layout(path, "auto", None, "data.source")[:3] == ("uint16", 0, "")
