"""Tokens are fingerprinted, read-only, and unchanged by saving and loading."""

import json
import math
import pickle

import numpy as np
import pytest

from lmcore.corpus.tokens import Tokens, check_windows, load_tokens, save_tokens
from lmcore.errors import InputError

IDS = np.random.default_rng(0).integers(0, 97, size=1000)


@pytest.fixture
def tokens() -> Tokens:
    return Tokens.of(IDS[:900], IDS[900:], 97, bytes_per_token=2.5, tokenizer_json='{"é": 1}\r\n')


def test_ids_get_the_smallest_dtype_and_the_callers_array_stays_writable():
    assert Tokens.of(IDS, IDS, 2**16).train.dtype == np.uint16
    assert Tokens.of(IDS, IDS, 2**16 + 1).train.dtype == np.uint32
    mine = IDS.astype(np.uint16)
    kept = Tokens.of(mine, mine, 97).train
    assert np.shares_memory(kept, mine)
    mine[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 0


def test_fingerprint_depends_on_tokens_split_dtype_and_vocabulary_only(tokens):
    changed = IDS.copy()
    changed[950] += 1
    variants = [
        Tokens.of(changed[:900], changed[900:], 97),
        Tokens.of(IDS[:901], IDS[901:], 97),
        Tokens.of(IDS[:900].astype(np.uint32), IDS[900:], 97),
        Tokens.of(IDS[:900], IDS[900:], 98),
    ]
    assert len({tokens.fingerprint, *(variant.fingerprint for variant in variants)}) == 5
    assert Tokens.of(IDS[:900].astype(">u8"), IDS[900:], 97).fingerprint == tokens.fingerprint
    strided = np.repeat(IDS.astype(np.uint16), 2)[::2]
    assert Tokens.of(strided[:900], strided[900:], 97).fingerprint == tokens.fingerprint


def test_unigram_entropy_uses_the_validation_tokens():
    assert Tokens.of([5], [0, 1, 2, 3], 97).unigram_entropy == pytest.approx(math.log(4))
    assert Tokens.of([5], [3, 3], 97).unigram_entropy == 0
    assert Tokens.of([5], [1, 1, 1, 2], 97).unigram_entropy == pytest.approx(
        -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    )


def test_a_window_needs_one_token_more_than_the_context(tokens):
    check_windows(tokens, 99)
    with pytest.raises(InputError, match=r"^model\.context_length: the validation data .* 101 tokens, but has 100, "):
        check_windows(tokens, 100)
    with pytest.raises(InputError, match=r"the training data .*fewer tokens than one window"):
        check_windows(Tokens.of(IDS[:10], IDS, 97), 10)


@pytest.mark.parametrize("mmap", [True, False])
def test_saved_tokens_load_unchanged(tokens, tmp_path, mmap):
    save_tokens(tokens, tmp_path / "run" / "tokens")
    loaded = load_tokens(tmp_path / "run" / "tokens", mmap=mmap)
    for ours, theirs in ((loaded.train, tokens.train), (loaded.val, tokens.val)):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
        assert not ours.flags.writeable
        assert type(ours) is np.ndarray
    for name in ("vocab_size", "fingerprint", "bytes_per_token", "tokenizer_json"):
        assert getattr(loaded, name) == getattr(tokens, name)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["tokens"]  # nothing temporary is left


def test_saved_tokens_without_a_tokenizer_load_unchanged(tmp_path):
    save_tokens(Tokens.of(IDS, IDS, 97), tmp_path / "tokens")
    loaded = load_tokens(tmp_path / "tokens")
    assert loaded.bytes_per_token is None
    assert loaded.tokenizer_json is None
    assert not (tmp_path / "tokens" / "tokenizer.json").exists()


def test_saving_can_replace_the_folder_that_the_tokens_are_mapped_from(tokens, tmp_path):
    save_tokens(tokens, tmp_path / "tokens")
    loaded = load_tokens(tmp_path / "tokens")
    save_tokens(Tokens.of(loaded.train, loaded.val, 500), tmp_path / "tokens")
    again = load_tokens(tmp_path / "tokens")
    assert again.vocab_size == 500
    np.testing.assert_array_equal(again.train, tokens.train)
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_tokens_can_be_pickled(tokens, tmp_path):
    save_tokens(tokens, tmp_path / "tokens")
    unpickled = pickle.loads(pickle.dumps(load_tokens(tmp_path / "tokens")))
    np.testing.assert_array_equal(unpickled.train, tokens.train)
    assert unpickled.fingerprint == tokens.fingerprint


@pytest.mark.parametrize("name", ["train.npy", "val.npy"])
def test_changed_token_is_refused(tokens, tmp_path, name):
    folder = tmp_path / "tokens"
    save_tokens(tokens, folder)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=r"tokens: the tokens must have fingerprint [0-9a-f]{12} .*; restore"):
        load_tokens(folder)
    assert load_tokens(folder, verify=False).fingerprint == tokens.fingerprint


def test_changed_tokenizer_is_refused(tokens, tmp_path):
    save_tokens(tokens, tmp_path / "tokens")
    (tmp_path / "tokens" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json must have the digest recorded"):
        load_tokens(tmp_path / "tokens")


def test_folder_of_another_format_is_refused(tokens, tmp_path):
    path = tmp_path / "tokens" / "meta.json"
    save_tokens(tokens, path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(InputError, match="a file is damaged"):
        load_tokens(path.parent)


@pytest.mark.parametrize("name", ["train.npy", "val.npy", "meta.json", "tokenizer.json"])
def test_incomplete_folder_is_refused_in_one_line(tokens, tmp_path, name):
    folder = tmp_path / "tokens"
    save_tokens(tokens, folder)
    path = folder / name
    if name != "tokenizer.json":  # a truncated tokenizer.json loads, and fails the digest check
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=r"^[^\n]+: must be a whole folder of tokens[^\n]*; [^\n]+$"):
            load_tokens(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"^[^\n]+: must be a whole folder of tokens[^\n]*No such file[^\n]+$"):
        load_tokens(folder)
