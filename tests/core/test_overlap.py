"""Validation windows that occur in the training data are counted, wherever they are there."""

import numpy as np

from lmcore.config import DataConfig
from lmcore.corpus import overlap
from lmcore.corpus.overlap import WINDOW, val_in_train
from lmcore.corpus.prepare import prepare_tokens

RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.integers(0, 500, 50_000).astype(np.uint16)


def windows_in(train, val):
    """The reference: every window is looked for by its bytes."""
    text = train.tobytes()
    count = len(val) // WINDOW
    found = [val[i * (len(val) // count) :][:WINDOW].tobytes() in text for i in range(count)]
    return sum(found) / count


def test_the_share_is_that_of_a_search_by_bytes(monkeypatch):
    monkeypatch.setattr(overlap, "CHUNK", 777)  # windows lie across chunks
    fresh = RANDOM.integers(0, 500, 3000).astype(np.uint16)
    for val in (TRAIN[1234:9999], fresh, np.concatenate([fresh, TRAIN[333:2333]]), TRAIN[-WINDOW:], TRAIN[:WINDOW]):
        assert val_in_train(TRAIN, val) == windows_in(TRAIN, val)


def test_data_shorter_than_a_window_are_unknown():
    assert val_in_train(TRAIN, TRAIN[: WINDOW - 1]) is None
    assert val_in_train(TRAIN[: WINDOW - 1], TRAIN) is None


def test_a_line_says_that_validation_data_are_training_data(tmp_path):
    TRAIN.tofile(tmp_path / "train.bin")
    TRAIN[:20_000].tofile(tmp_path / "val.bin")
    lines = []
    config = DataConfig(source=str(tmp_path / "train.bin"), val_source=str(tmp_path / "val.bin"))
    assert prepare_tokens(config, say=lines.append).val_in_train == 1
    assert lines[-1] == "Note: 100% of the validation data are also in the training data"
