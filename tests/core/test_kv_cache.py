"""Reading with a key-value cache gives what reading everything at once gives, and transformers' greedy text."""

import pytest
import torch

from lmcore.export.llama import llama_files, write_folder
from lmcore.export.sampling import generate, next_token_probabilities, tokens_kept
from lmcore.kv_cache import KeyValueCache
from lmcore.model import ModelConfig, TransformerLM

SMALL = {"vocab_size": 97, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "context_length": 24}
ARCHITECTURES = [
    {},
    {"tie_embeddings": True},
    {"num_kv_heads": 2},
    {"num_kv_heads": 1, "qk_norm": True},
    {"norm": "post", "ffn": "gelu"},
    {"norm": "none", "ffn": "relu", "positions": "none"},
    {"positions": "none", "ffn": "silu"},
]


def random_model(seed=0, num_slots=1, tied=None, **changes):
    """A model with weights ten times as large, so that its predictions differ."""
    model = TransformerLM(ModelConfig(**SMALL | changes), num_slots, tied, seeds=range(seed, seed + num_slots))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" not in name and "norm" not in name:
                parameter.mul_(10)
    return model


def text_without_cache(model, prompt, count, seed=0, **how):
    """The text that `generate` promises, each token from one pass over the whole window."""
    context, generator = model.config.context_length, torch.Generator().manual_seed(seed)
    window, text = prompt[-context:], []
    for _ in range(count):
        probabilities = next_token_probabilities(model(torch.tensor([[window]]))[0, 0, -1], **how)
        drawn = torch.rand(1, dtype=torch.float64, generator=generator)
        text.append(int((probabilities.cumsum(0) <= drawn * probabilities.sum()).sum()))
        window = [*window, text[-1]]
        if len(window) > context:
            window = window[-tokens_kept(context) :]
    return text


@pytest.mark.parametrize("changes", ARCHITECTURES)
@torch.no_grad()
def test_reading_in_parts_gives_the_hidden_states_of_reading_at_once(changes):
    tied = [True, False] if "tie_embeddings" in changes else None
    model = random_model(num_slots=2, tied=tied, **changes)
    tokens = torch.randint(0, 97, (2, 3, 24), generator=torch.Generator().manual_seed(1))  # [K, B, T]
    whole = model.hidden(tokens).view(2, 3, 24, -1)
    for parts in ([24], [1] * 24, [9, 1, 1, 13], [1, 23]):
        cache = KeyValueCache(model.config)
        read = [model.hidden(part, cache=cache).view(2, 3, part.shape[2], -1) for part in tokens.split(parts, dim=2)]
        assert cache.length == 24
        torch.testing.assert_close(torch.cat(read, dim=2), whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_cleared_cache_is_a_new_one():
    model, cache = random_model(), KeyValueCache(ModelConfig(**SMALL))
    model.hidden(torch.tensor([[[1, 2, 3]]]), cache=cache)
    cache.clear()
    tokens = torch.tensor([[[4, 5], [6, 7]]])  # also of another batch size
    assert torch.equal(model.next_logits(tokens, cache), model.next_logits(tokens, KeyValueCache(model.config)))


@torch.no_grad()
def test_more_tokens_than_the_context_and_another_batch_are_refused():
    model, cache = random_model(), KeyValueCache(ModelConfig(**SMALL))
    model.hidden(torch.zeros(1, 1, 20, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="context_length = 24 tokens fit, got 5 after 20 in the cache"):
        model.hidden(torch.zeros(1, 1, 5, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="holds a batch of 1, got 2"):
        model.hidden(torch.zeros(1, 2, 1, dtype=torch.long), cache=cache)
    assert cache.length == 20


@pytest.mark.parametrize("changes", ARCHITECTURES)
@torch.no_grad()
def test_the_text_is_that_without_a_cache_also_beyond_the_context(changes):
    model = random_model(**changes)
    for seed, prompt in enumerate([[5], list(range(50))]):
        for how in ({"temperature": 0}, {"temperature": 0.8}, {"temperature": 1.5, "top_k": 20, "top_p": 0.9}):
            assert list(generate(model, prompt, 40, seed=seed, **how)) == text_without_cache(
                model, prompt, 40, seed, **how
            )


@torch.no_grad()
def test_a_context_of_one_token_is_enough():
    model = random_model(context_length=1)
    assert list(generate(model, [5, 6], 5, temperature=0)) == text_without_cache(model, [5, 6], 5, temperature=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "changes", [{}, {"tie_embeddings": True}, {"num_kv_heads": 2}, {"qk_norm": True, "num_kv_heads": 1}]
)
def test_the_greedy_text_is_that_of_transformers_token_by_token(tmp_path, changes, seed):
    transformers = pytest.importorskip("transformers")
    model = random_model(seed, context_length=96, **changes)
    write_folder(tmp_path / "out", llama_files(model.config, model.slot_state_dict(0), None))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    drawn = torch.randint(0, 97, (4, 32), generator=torch.Generator().manual_seed(seed))
    seen: set[int] = set()
    for prompt in (row[: 1 + 10 * n] for n, row in enumerate(drawn)):
        count = 96 - len(prompt)
        ids = theirs.generate(
            prompt[None], attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=count
        )
        ours = list(generate(model, prompt.tolist(), count, temperature=0))
        assert ours == ids[0, len(prompt) :].tolist()
        seen |= set(ours)
    assert len(seen) > 10  # not one token again and again
