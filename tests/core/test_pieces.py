"""Documents are cut where it changes no token, in the same places however they were read."""

import itertools

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from lmcore.corpus import pieces as pieces_module
from lmcore.corpus.encode import fits_of, fits_words
from lmcore.corpus.pieces import pieces, split_at
from tests.corpora import encode_documents

RANDOM = np.random.default_rng(0)
WORDS = ["the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "was", "he", "I", "his", "from"]
SENTENCES = [" ".join(RANDOM.choice(WORDS, 9)) + "." for _ in range(1500)]
TEXTS = {
    "lf": "\n".join(SENTENCES),
    "crlf": "\r\n".join(SENTENCES),
    "no line breaks": " ".join(SENTENCES),
    "blank lines": "\n\n".join(SENTENCES),
    "chinese": "".join(f"{''.join(RANDOM.choice(list('我你他是的在有人大小'), 12))}。" for _ in range(3000)),
    "tabs": "\t".join(SENTENCES[:300]) + "\n" + "  ".join(SENTENCES),
}
GPT4 = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def trained(pre_tokenizer, model=None, trainer=None, normalizer=None):
    tokenizer = Tokenizer(models.BPE() if model is None else model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainer or trainers.BpeTrainer(vocab_size=600, show_progress=False)
    tokenizer.train_from_iterator(TEXTS.values(), trainer)
    return tokenizer


TOKENIZERS = {
    "gpt2": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "gpt4": lambda: trained(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(GPT4, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    ),
    "sentencepiece": lambda: trained(pre_tokenizers.Metaspace(prepend_scheme="first")),
    "bert": lambda: trained(
        pre_tokenizers.BertPreTokenizer(),
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[UNK]"], show_progress=False),
        normalizers.BertNormalizer(),
    ),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("kind", TEXTS)
def test_tokens_are_those_of_the_whole_document(tokenizer, kind, monkeypatch):
    text = TEXTS[kind]
    tokenizer.encode_special_tokens = True
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 4000)
    found = list(pieces([(text, True)], fits_of(tokenizer)))
    assert len(found) > 4
    if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.Metaspace) and kind == "chinese":
        assert not all(piece.whole_words for piece in found)  # for it, text without spaces is a single word
    else:
        assert all(piece.whole_words for piece in found)
        assert encode_documents(tokenizer, [text]).tolist() == whole


@pytest.mark.parametrize("kind", TEXTS)
def test_pieces_do_not_depend_on_how_the_text_was_read(kind, monkeypatch):
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 1000)
    text = TEXTS[kind]
    whole = list(pieces([(text, True)], fits_words))
    for _ in range(5):
        cuts = [0, *sorted(RANDOM.integers(0, len(text), 20)), len(text)]
        fragments = [(text[a:b], b == len(text)) for a, b in itertools.pairwise(cuts)]
        assert list(pieces(fragments, fits_words)) == whole
    assert "".join(piece.text for piece in whole) == text
    assert [piece.ends_document for piece in whole] == [False] * (len(whole) - 1) + [True]


def test_text_without_a_place_to_cut_is_cut_anyway_and_says_so(monkeypatch):
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 1000)
    dna = "".join(RANDOM.choice(list("ACGT"), 5500))
    found = list(pieces([(dna, True)], fits_words))
    assert [len(piece.text) for piece in found] == [1000] * 4 + [1500]
    assert [piece.whole_words for piece in found] == [False] * 4 + [True]


def test_separators_are_found_wherever_fragments_are_cut():
    text = "one<|end|>two<|end|><|end|>three</s>four"
    for size in range(1, len(text) + 1):
        fragments = [(text[i : i + size], i + size >= len(text)) for i in range(0, len(text), size)]
        documents, begun = [], ""
        for part, ends in split_at(fragments, ("<|end|>", "</s>")):
            begun += part
            if ends:
                documents.append(begun)
                begun = ""
        assert documents == ["one", "two", "", "three", "four"]


def test_if_every_cut_changes_tokens_the_cuts_are_at_line_breaks(monkeypatch):
    llama2 = trained(None, normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 4000)
    found = list(pieces([(TEXTS["lf"], True)], fits_of(llama2)))
    assert len(found) > 4
    assert all(piece.whole_words for piece in found)
    assert all(piece.text.endswith(".\n") for piece in found[:-1])
