"""A validation window's document is the one whose text it begins in."""

import json
import subprocess
import sys

import numpy as np
import pytest

from lmcore.config import DataConfig
from lmcore.corpus.documents import window_documents
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.tokenizer import train_tokenizer
from lmcore.corpus.tokens import Tokens
from lmcore.corpus.windows import window_starts
from tests.corpora import encode_documents

DOCUMENTS = ["one fish, two fish\n" * 9, "red\n" * 4, "blue fish, old fish, new fish\n" * 7]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(DOCUMENTS, 280)


@pytest.mark.parametrize(("context_length", "windows"), [(8, 10), (3, 1000), (1, 10**6), (20, 1)])
def test_each_window_of_three_documents_begins_in_the_document_of_its_first_token(tokenizer, context_length, windows):
    ids = [encode_documents(tokenizer, [document]) for document in DOCUMENTS]
    val = np.concatenate(ids)
    owner = np.repeat([0, 1, 2], [len(part) for part in ids])  # a document's last token is the end of text
    tokens = Tokens.of(val, val, 280, tokenizer_json=tokenizer.to_str())
    found = window_documents(tokens, context_length, windows)
    assert found.tolist() == owner[window_starts(len(val), context_length, windows)].tolist()
    assert found.dtype == np.int32
    if windows > 100:
        assert set(found) == {0, 1, 2}


def test_documents_of_prepared_text_are_its_files(tmp_path):
    source, validation = tmp_path / "train", tmp_path / "val"
    for folder in (source, validation):
        folder.mkdir()
        for name, text in zip("abc", DOCUMENTS, strict=True):
            (folder / name).write_text(text)
    config = DataConfig(source=str(source), val_source=str(validation), vocab_size=280)
    tokens = prepare_tokens(config, tmp_path / "cache")
    found = window_documents(tokens, 4, 10**6)
    assert found[0] == 0
    assert found[-1] == 2
    assert set(np.diff(found)) == {0, 1}


def test_documents_are_unknown_without_a_tokenizer_or_its_end_of_text_or_one_in_the_data(tokenizer):
    val = encode_documents(tokenizer, DOCUMENTS)
    nameless = json.loads(tokenizer.to_str())
    nameless["added_tokens"] = []
    nameless["model"]["vocab"] = {
        "<end>" if name == "<|endoftext|>" else name: number for name, number in nameless["model"]["vocab"].items()
    }
    assert window_documents(Tokens.of(val, val, 280), 8, 10) is None
    assert window_documents(Tokens.of(val, val, 280, tokenizer_json=json.dumps(nameless)), 8, 10) is None
    without = val[val != 0]
    assert window_documents(Tokens.of(val, without, 280, tokenizer_json=tokenizer.to_str()), 8, 10) is None
    assert window_documents(Tokens.of(val, val, 280, tokenizer_json=tokenizer.to_str()), 8, 10) is not None


def test_the_driver_can_look_documents_up_without_torch():
    code = "import lmcore.corpus.documents, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
