"""Reading with a key-value cache gives what reading everything at once gives, and transformers' greedy text."""

import pytest
import torch

from lmcore.export.decoder import Decoder
from lmcore.export.llama import llama_files, write_folder
from lmcore.export.sampling import generate, next_token_probabilities, tokens_kept
from lmcore.model import ModelConfig, TransformerLM

SMALL = {"vocab_size": 97, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "context_length": 24}
ARCHITECTURES = [
    {},
    {"tie_embeddings": True},
    {"num_kv_heads": 2},
    {"num_kv_heads": 1, "qk_norm": True},
    {"norm": "post", "ffn": "gelu", "rope_theta": 100.0, "norm_eps": 1e-2},
    {"norm": "none", "ffn": "relu", "positions": "none"},
    {"positions": "none", "ffn": "silu"},
    {"parametrization": "mup", "base_width": 16, "base_head_dim": 2},
    {"parametrization": "mup", "base_width": 16, "tie_embeddings": True, "norm": "post"},
]


def random_model(seed=0, **changes):
    """A model with weights ten times as large and norms other than 1, so that its predictions differ."""
    model = TransformerLM(ModelConfig(**SMALL | changes), seeds=[seed])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" in name or "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
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
def test_reading_in_parts_gives_the_logits_of_the_model(changes):
    model = random_model(**changes)
    tokens = torch.randint(0, 97, (24,), generator=torch.Generator().manual_seed(1)).tolist()
    whole = model(torch.tensor([[tokens]]))[0, 0]
    for parts in ([24], [1] * 24, [9, 1, 1, 13], [1, 23]):
        decoder, read = Decoder(model), 0
        for part in parts:
            logits = decoder.read(tokens[read : read + part])
            read += part
            torch.testing.assert_close(logits, whole[read - 1], rtol=1e-4, atol=1e-4)
        assert decoder.length == 24


def test_every_field_of_the_architecture_is_known_here():
    """A new one must be computed by the decoder, and tried in ARCHITECTURES."""
    assert set(ModelConfig.model_fields) == {
        *("vocab_size", "d_model", "num_layers", "num_heads", "num_kv_heads", "d_ff", "context_length", "norm"),
        *("positions", "qk_norm", "ffn", "tie_embeddings", "rope_theta", "norm_eps", "dropout"),
        *("parametrization", "base_width", "base_head_dim"),
    }


def test_a_slot_of_several_is_read_through_its_view():
    model = TransformerLM(ModelConfig(**SMALL), 2, [False, True], seeds=[0, 1])
    for slot in (0, 1):
        view = model.slot_view(slot)
        expected = view(torch.tensor([[[1, 2, 3]]]))[0, 0, -1]
        torch.testing.assert_close(Decoder(view).read([1, 2, 3]), expected.detach(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="got K = 2; take one with slot_view"):
        Decoder(model)


def test_a_cleared_decoder_is_a_new_one():
    model = random_model()
    decoder = Decoder(model)
    decoder.read([1, 2, 3])
    decoder.clear()
    assert torch.equal(decoder.read([4, 5]), Decoder(model).read([4, 5]))


def test_tokens_that_do_not_fit_are_refused():
    decoder = Decoder(random_model())
    decoder.read([0] * 20)
    with pytest.raises(ValueError, match="1 to 4 tokens fit after 20 others, got 5"):
        decoder.read([0] * 5)
    with pytest.raises(ValueError, match=r"token ids must lie in 0\.\.96, got 5\.\.97"):
        decoder.read([5, 97])
    with pytest.raises(ValueError, match="got 0"):
        decoder.read([])
    assert decoder.length == 20


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
