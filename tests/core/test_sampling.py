"""Sampling follows the formula, is reproducible by seed, and decodes to text piece by piece."""

import itertools
import sysconfig
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from lmcore.corpus.tokenizer import train_tokenizer
from lmcore.errors import InputError
from lmcore.export.sampling import generate, next_token_probabilities, prompt_tokens, text_pieces
from lmcore.model import ModelConfig, TransformerLM
from tests.corpora import read_documents

SMALL = {"vocab_size": 97, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64, "context_length": 8}
LOGITS = torch.tensor([0.4, 0.1, 0.3, 0.2]).log() + 5


def small_model(**changes):
    """A model with weights ten times as large, so that its predictions differ."""
    model = TransformerLM(ModelConfig(**SMALL, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" not in name:
                parameter.mul_(10)
    return model


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(read_documents(str(Path(sysconfig.get_path("stdlib"), "json"))), 400)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4, 0.1, 0.3, 0.2]),
        ({"temperature": 0.5}, [16 / 30, 1 / 30, 9 / 30, 4 / 30]),  # proportional to squares
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 1e-300}, [1, 0, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_k": 2}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 9}, [0.4, 0.1, 0.3, 0.2]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        ({"top_p": 0.39}, [1, 0, 0, 0]),
        ({"top_p": 0.41}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.89}, [4 / 9, 0, 3 / 9, 2 / 9]),
        ({"top_p": 1.0}, [0.4, 0.1, 0.3, 0.2]),
        ({"top_k": 2, "top_p": 0.5}, [1, 0, 0, 0]),  # top_k leaves 4/7 for the first token, which reaches top_p
    ],
)
def test_probabilities_follow_the_formula(options, expected):
    probabilities = next_token_probabilities(LOGITS, **options)
    torch.testing.assert_close(probabilities, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-12)


def test_equal_logits_have_equal_probabilities_and_minus_infinity_has_none():
    assert next_token_probabilities(torch.zeros(5)).tolist() == [0.2] * 5
    assert next_token_probabilities(torch.zeros(5), temperature=0).tolist() == [1, 0, 0, 0, 0]
    assert next_token_probabilities(torch.tensor([0.0, -torch.inf])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("norm", "ffn", "positions", "tied"),
    [
        *itertools.product(["pre"], ["swiglu"], ["rope"], [False, True]),
        ("post", "gelu", "rope", False),
        ("none", "relu", "none", True),
        ("pre", "silu", "none", False),
    ],
)
def test_temperature_0_takes_the_argmax_for_every_architecture(norm, ffn, positions, tied):
    model = small_model(norm=norm, ffn=ffn, positions=positions, tie_embeddings=tied)
    tokens = [3, 1, 4]
    for _ in range(5):  # up to the context of 8; test_kv_cache.py goes beyond it
        tokens.append(int(model(torch.tensor([[tokens]]))[0, 0, -1].argmax()))
    for greedy in ({"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}):
        assert list(generate(model, [3, 1, 4], 5, **greedy)) == tokens[3:]


def test_ids_are_reproducible_by_seed_and_the_global_generator_is_unchanged():
    model = small_model()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (list(generate(model, [5], 30, seed=seed)) for seed in (7, 7, 8))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)
    assert list(generate(model, [5], 20, seed=7)) == first[:20]


def test_token_frequencies_match_their_probabilities():
    model = small_model()
    wanted = next_token_probabilities(model(torch.tensor([[[5]]]))[0, 0, -1], 0.8)
    drawn = torch.tensor([next(generate(model, [5], 1, seed=seed)) for seed in range(2000)])
    found = drawn.bincount(minlength=97) / 2000
    assert (found - wanted).abs().max() < 4 * (0.25 / 2000) ** 0.5


def test_a_prompt_longer_than_the_context_is_cut_to_its_end():
    model = small_model()
    prompt = list(range(40))
    assert list(generate(model, prompt, 5)) == list(generate(model, prompt[-8:], 5))


def test_the_stop_token_ends_the_text_and_is_not_yielded():
    model = small_model()
    ids = list(generate(model, [5], 30))
    stop = ids[10]
    assert list(generate(model, [5], 30, stop=stop)) == ids[: ids.index(stop)]


def test_invalid_prompts_and_models_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match="at least one token"):
        next(generate(model, [], 1))
    with pytest.raises(ValueError, match=r"0\.\.96"):
        next(generate(model, [97], 1))
    with pytest.raises(ValueError, match="K = 2"):
        next(generate(TransformerLM(model.config, 2), [1], 1))
    with torch.no_grad():
        model.lm_head.weight[0, 5] = torch.nan
    with pytest.raises(InputError, match="diverged"):
        next(generate(model, [1], 1))


@pytest.mark.parametrize("prompt", ["", "def ", "naïve \U0001f600"])
def test_pieces_join_to_the_decoded_text(bpe, prompt):
    before = prompt_tokens(bpe, prompt, 400, end_of_text=0)
    ids = bpe.encode(" for x in 'é\U0001f600ß':\n\treturn 1").ids
    pieces = list(text_pieces(bpe, before, ids))
    assert "".join(pieces) == " for x in 'é\U0001f600ß':\n\treturn 1"
    assert len(pieces) > 10  # as they arrive
    assert "\U0001f600" in "".join(pieces)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_invalid_utf8_becomes_replacement_characters(bpe):
    smiley = bpe.encode("\U0001f600").ids
    ids = [*smiley[:2], *bpe.encode("a").ids, *smiley, *smiley[:1]]
    expected = bpe.decode(ids)
    assert "".join(text_pieces(bpe, bpe.encode("x").ids, ids)) == expected
    assert expected.count("\N{REPLACEMENT CHARACTER}") >= 2


def test_unknown_tokens_have_no_text(bpe):
    ids = bpe.encode("a b").ids
    assert "".join(text_pieces(bpe, [0], [ids[0], 5000, *ids[1:]])) == "a b"


def test_a_prompt_is_encoded_as_plain_text_and_an_empty_one_as_end_of_text(bpe):
    assert prompt_tokens(bpe, "", 400, end_of_text=0) == [0]
    assert 0 not in prompt_tokens(bpe, "<|endoftext|>", 400)
    with pytest.raises(InputError, match="PROMPT: must be of the model's 100 tokens"):
        prompt_tokens(bpe, "def ", 100)
    with pytest.raises(InputError, match="PROMPT: must not be empty"):
        prompt_tokens(Tokenizer(models.BPE()), "", 100)
