"""The byte-level BPE is deterministic and lossless, and encoding adds only end-of-text tokens."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lmcore.corpus import encode as encode_module
from lmcore.corpus import pieces as pieces_module
from lmcore.corpus import tokenizer as tokenizer_module
from lmcore.corpus.encode import token_bytes
from lmcore.corpus.text import END_OF_TEXT
from lmcore.corpus.tokenizer import LONGEST_WORD, load_tokenizer, train_tokenizer, vocabulary_size
from lmcore.errors import InputError
from tests.corpora import encode_documents, read_documents

JSON_PACKAGE = str(Path(sysconfig.get_path("stdlib"), "json"))


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return read_documents(JSON_PACKAGE)


@pytest.fixture(scope="module")
def bpe(documents) -> Tokenizer:
    return train_tokenizer(documents, 400)


def decode(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    return tokenizer.decode(ids.tolist(), skip_special_tokens=False)


def test_end_of_text_is_0_and_every_byte_has_a_token(bpe):
    assert bpe.token_to_id(END_OF_TEXT) == 0
    assert vocabulary_size(bpe) == bpe.get_vocab_size() == 400
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(bpe.get_vocab())


def test_training_in_another_process_gives_the_same_file(bpe):
    code = (
        "from lmcore.corpus.tokenizer import train_tokenizer; from tests.corpora import read_documents; "
        f"print(train_tokenizer(read_documents({JSON_PACKAGE!r}), 400).to_str())"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert again.stdout.rstrip("\n") == bpe.to_str()


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_any_text_round_trips(bpe, text):
    ids = encode_documents(bpe, [text])
    assert decode(bpe, ids) == (text + END_OF_TEXT if text else "")
    assert token_bytes(bpe)[ids].sum() == len(text.encode("utf-8"))


def test_end_of_text_follows_each_document_and_is_plain_text_inside_one(bpe):
    ids = encode_documents(bpe, ["a", f"b{END_OF_TEXT}c"])
    assert np.flatnonzero(ids == 0).tolist() == [1, len(ids) - 1]
    assert decode(bpe, ids) == f"a{END_OF_TEXT}b{END_OF_TEXT}c{END_OF_TEXT}"


def test_no_documents_give_no_tokens(bpe):
    assert encode_documents(bpe, []).shape == (0,)


def test_cutting_long_documents_into_pieces_changes_no_token(bpe, documents, monkeypatch):
    tricky = ["a\n\nb\n c\nd e\n\n\nf\n'll\n" * 20, *documents]
    whole = encode_documents(bpe, tricky)
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 300)
    monkeypatch.setattr(encode_module, "BATCH_CHARS", 500)
    np.testing.assert_array_equal(encode_documents(bpe, tricky), whole)


def test_bytes_of_the_tokens_are_the_utf8_bytes_of_the_text(bpe, documents):
    ids = encode_documents(bpe, documents)
    size = sum(len(document.encode("utf-8")) for document in documents)
    assert token_bytes(bpe)[ids].sum() == size
    assert len(ids) < size / 1.5  # the BPE compresses


def test_vocabulary_too_small_for_all_bytes_is_refused(documents):
    assert vocabulary_size(train_tokenizer(documents, 257)) == 257
    with pytest.raises(InputError, match=r"^data\.vocab_size: .*at least 257 .* got 256; "):
        train_tokenizer(documents, 256)


def test_words_without_end_are_cut_for_training_and_everything_else_is_left_alone(documents):
    dna = "".join(np.random.default_rng(0).choice(list("ACGT"), 3 * LONGEST_WORD))
    cut = [dna[start : start + LONGEST_WORD] for start in range(0, len(dna), LONGEST_WORD)]
    assert train_tokenizer([dna], 300).to_str() == train_tokenizer(cut, 300).to_str()
    pieces = list(tokenizer_module._long_words_cut(f"a {dna} b"))
    assert pieces == [f"a {cut[0]}", cut[1], cut[2] + " b"]
    assert [list(tokenizer_module._long_words_cut(text)) for text in documents] == [[text] for text in documents]


def test_saved_tokenizer_loads(bpe, tmp_path):
    path = tmp_path / "tokenizer.json"
    bpe.save(str(path))
    assert load_tokenizer(path).to_str() == bpe.to_str()


def test_truncation_padding_and_template_of_a_loaded_tokenizer_are_ignored(bpe, documents, tmp_path):
    theirs = Tokenizer.from_str(bpe.to_str())
    theirs.enable_truncation(8)
    theirs.enable_padding(length=16)
    theirs.post_processor = processors.TemplateProcessing(single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)])
    path = tmp_path / "tokenizer.json"
    theirs.save(str(path))
    np.testing.assert_array_equal(encode_documents(load_tokenizer(path), documents), encode_documents(bpe, documents))


def test_tokenizer_without_end_of_text_and_with_gaps_in_its_ids(tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "b": 70_000, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    assert vocabulary_size(words) == 70_001
    ids = encode_documents(words, ["a b", "b z"])
    assert ids.dtype == np.uint32
    assert ids.tolist() == [0, 70_000, 70_000, 3]


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff", json.dumps({"model": 1}).encode()])
def test_invalid_tokenizer_file_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^data\.tokenizer: .*does not parse [^\n]*; [^\n]+$"):
        load_tokenizer(path)


def test_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^data\.tokenizer: .*No such file"):
        load_tokenizer(tmp_path / "none.json")
