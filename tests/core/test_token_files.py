"""Shards are one stream in the order of their numbers; what cannot be training data says what to give instead."""

import os

import numpy as np
import pytest

from lmcore.config import DataConfig
from lmcore.corpus import tokens as tokens_module
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.token_files import check_ids
from lmcore.corpus.tokens import load_tokens, save_tokens
from lmcore.errors import InputError

IDS = np.random.default_rng(0).integers(0, 3000, 12_000).astype(np.uint16)


def shards(folder, pattern="part-{}.bin"):
    """Twelve shards, of which the tenth sorts before the second by letters."""
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(np.split(IDS, 12)):
        path = folder / pattern.format(number)
        np.save(path, part) if path.suffix == ".npy" else part.tofile(path)
    return folder


def all_ids(tokens):
    return np.concatenate([tokens.train, tokens.val]).tolist()


@pytest.mark.parametrize("pattern", ["part-{}.bin", "part-{}.npy"])
def test_a_folder_and_a_pattern_of_shards_are_one_stream(tmp_path, pattern):
    folder = shards(tmp_path / "data", pattern)
    (folder / "meta.pkl").write_bytes(b"\x80\x04never unpickled")
    (folder / "info.json").write_text("{}")
    for source in (folder, folder / pattern.format("*")):
        tokens = prepare_tokens(DataConfig(source=str(source)))
        assert all_ids(tokens) == IDS.tolist()
        line = "data.source: 12 files, 12,000 tokens read"
        skipped = f"; 2 skipped (first: {folder}/info.json, not a .npy or .bin)" if source == folder else ""
        assert tokens.readings[0].line == line + skipped


def test_shards_for_training_and_validation_in_one_folder_are_two_sources(tmp_path):
    folder = shards(tmp_path, "fineweb_train_{:06}.bin")
    IDS[:500].tofile(folder / "fineweb_val_000000.bin")
    with pytest.raises(InputError) as refusal:
        prepare_tokens(DataConfig(source=str(folder)))
    source, val_source = f"{folder}/fineweb_train_*.bin", f"{folder}/fineweb_val_*.bin"
    assert f"give data.source: '{source}' and data.val_source: '{val_source}'" in str(refusal.value)
    tokens = prepare_tokens(DataConfig(source=source, val_source=val_source))
    assert (np.asarray(tokens.train).tolist(), np.asarray(tokens.val).tolist()) == (IDS.tolist(), IDS[:500].tolist())


def test_the_folder_of_nanogpt_says_which_files_to_give(tmp_path):
    for name in ("train.bin", "val.bin"):
        IDS.tofile(tmp_path / name)
    for name in ("meta.pkl", "input.txt", "prepare.py"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=r"give data\.source: \S+/train\.bin and data\.val_source: \S+/val\.bin$"):
        prepare_tokens(DataConfig(source=str(tmp_path)))


def test_a_pattern_without_files_and_shards_of_two_types_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"^data\.source: must match files, but .* matches none; [^\n]+$"):
        prepare_tokens(DataConfig(source=str(tmp_path / "*.bin")))
    folder = shards(tmp_path / "data")
    IDS.astype(np.uint32).tofile(folder / "part-12.bin")
    with pytest.raises(InputError, match=r"^data\.source: all files must have ids of one type, but .*; [^\n]+$"):
        prepare_tokens(DataConfig(source=str(folder)))


def test_a_small_shard_has_the_type_of_the_others(tmp_path):
    ids = (IDS % 200).astype(np.uint32)
    ids[:11_990].tofile(tmp_path / "a0.bin")
    ids[11_990:].tofile(tmp_path / "a1.bin")
    assert all_ids(prepare_tokens(DataConfig(source=str(tmp_path)))) == ids.tolist()


@pytest.mark.parametrize("dtype", ["u1", ">u2"])
def test_so_has_one_that_shows_only_that_its_ids_are_no_wider_than_16_bits(tmp_path, dtype):
    ids = np.minimum(np.random.default_rng(0).zipf(1.5, 14_000), 250).astype(dtype)
    ids[ids == 0] = 1
    ids[:13_000].tofile(tmp_path / "a0.bin")
    ids[13_000:].tofile(tmp_path / "a1.bin")
    assert all_ids(prepare_tokens(DataConfig(source=str(tmp_path)))) == ids.tolist()


def test_a_split_of_the_data_that_is_not_for_training_is_recognised_by_its_name(tmp_path):
    folder = shards(tmp_path / "data", "retrieval_{}.bin")
    assert all_ids(prepare_tokens(DataConfig(source=str(folder)))) == IDS.tolist()
    IDS.astype(np.uint16).tofile(folder / "test_0.bin")
    with pytest.raises(InputError, match=r"data.source: '.*retrieval_\*.bin' and data.val_source: '.*test_\*.bin'$"):
        prepare_tokens(DataConfig(source=str(folder)))


@pytest.mark.parametrize("copy", ["auto", "always", "never"])
def test_large_token_files_stay_where_they_are_and_small_ones_are_copied(tmp_path, monkeypatch, copy):
    folder = shards(tmp_path / "data")
    tokens = prepare_tokens(DataConfig(source=str(folder)))
    for limit, copied in ((1 << 30, copy != "never"), (1000, copy == "always")):
        monkeypatch.setattr(tokens_module, "LARGE_BYTES", limit)
        assert save_tokens(tokens, tmp_path / "kept", copy) is copied
        assert (tmp_path / "kept" / "train.npy").exists() is copied
        again = load_tokens(tmp_path / "kept")
        assert all_ids(again) == IDS.tolist()
        assert again.fingerprint == tokens.fingerprint
        assert again.readings == tokens.readings


def test_files_that_were_not_copied_are_read_again_only_if_they_were_touched(tmp_path):
    path = tmp_path / "t.bin"
    IDS.tofile(path)
    save_tokens(prepare_tokens(DataConfig(source=str(path))), tmp_path / "kept", "never")
    os.utime(path, ns=(0, 0))
    assert all_ids(load_tokens(tmp_path / "kept")) == IDS.tolist()
    changed = IDS.copy()
    changed[5] += 1
    changed.tofile(path)
    with pytest.raises(InputError, match=r"t\.bin: the tokens must have fingerprint .*; restore them"):
        load_tokens(tmp_path / "kept")
    path.unlink()
    with pytest.raises(InputError, match=r"^data\.source: its files must stay where they are, .*No such file"):
        load_tokens(tmp_path / "kept")


def test_other_processes_get_small_tokens_in_memory_and_large_ones_as_paths(tmp_path, monkeypatch):
    tokens = prepare_tokens(DataConfig(source=str(shards(tmp_path / "data"))))
    assert isinstance(tokens.for_other_processes().train, np.ndarray)
    monkeypatch.setattr(tokens_module, "LARGE_BYTES", 1000)
    sent = tokens.for_other_processes()
    assert sent.train is tokens.train
    assert all_ids(sent) == IDS.tolist()


@pytest.mark.parametrize(
    ("ids", "likely"),
    [
        ([5] * 4000 + [50256], "50256 is GPT-2's end of text: its vocabulary has 50,257 ids: set data.vocab_size"),
        ([5] * 4000 + [40000], r"raise data.vocab_size \(the largest id seen is 40000\)"),
        ([20240520, 60000] + [5] * 4000, "only the start has such ids, like the head of another format"),
        ([5] * 4000 + [-100], "drop padding and ignore marks"),
    ],
)
def test_ids_out_of_range_say_what_is_probably_wrong(ids, likely):
    with pytest.raises(InputError, match=rf"^data\.source: token ids must .*; {likely}"):
        check_ids(np.array(ids), 32_000)
    assert check_ids(np.array([3, 31_999]), 32_000) == 31_999
