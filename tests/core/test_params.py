"""Parameter counts and FLOPs against PyTorch's own count, the formulas written out, and a published model."""

import itertools
import subprocess
import sys

import pytest

from lmcore.config import ModelConfig
from lmcore.model import TransformerLM
from lmcore.params import count_parameters, estimate_parameters, flops_per_token

SMALL = {"vocab_size": 37, "d_model": 8, "num_layers": 3, "num_heads": 2, "d_ff": 12, "context_length": 16}
SWITCHES = list(
    itertools.product(["pre", "post", "none"], ["rope", "none"], ["swiglu", "gelu", "silu", "relu"], [False, True])
)


@pytest.mark.parametrize(("norm", "positions", "ffn", "tied"), SWITCHES)
def test_count_parameters_equals_what_pytorch_counts(norm, positions, ffn, tied):
    config = ModelConfig(**SMALL, norm=norm, positions=positions, ffn=ffn, tie_embeddings=tied)
    weights = TransformerLM(config).slot_state_dict(0)
    count = count_parameters(config)
    assert count.total == int(count) == sum(tensor.numel() for tensor in weights.values())
    assert count.non_embedding == sum(
        tensor.numel() for name, tensor in weights.items() if name not in ("token_embeddings.weight", "lm_head.weight")
    )


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_shared_key_value_heads_and_norms_of_heads_are_counted_as_pytorch_counts_them(num_kv_heads, qk_norm):
    config = ModelConfig(**SMALL | {"d_model": 16, "num_heads": 4}, num_kv_heads=num_kv_heads, qk_norm=qk_norm)
    weights = TransformerLM(config).slot_state_dict(0)
    count = count_parameters(config)
    assert count.total == sum(tensor.numel() for tensor in weights.values())
    assert count.attention == sum(
        tensor.numel() for name, tensor in weights.items() if "attn" in name and "proj" in name
    )
    assert count.norm == sum(tensor.numel() for name, tensor in weights.items() if "ln" in name or "norm" in name)
    assert count.total - estimate_parameters(config) == count.norm


def test_counts_and_flops_of_grouped_query_attention_are_those_computed_by_hand():
    config = ModelConfig(**SMALL | {"num_heads": 4}, num_kv_heads=1, qk_norm=True)  # 2 channels a head
    attention = 3 * (8 * 8 + 8 * 2 + 8 * 2 + 8 * 8)  # q, k, v, output
    norms = 7 * 8 + 3 * 2 * 2
    count = count_parameters(config)
    assert (count.attention, count.norm) == (attention, norms) == (480, 68)
    assert flops_per_token(config) == 6 * (480 + 3 * 3 * 8 * 12 + 68 + 37 * 8) + 12 * 3 * 16 * 8


@pytest.mark.parametrize(("ffn", "matrices"), [("swiglu", 3), ("gelu", 2), ("silu", 2), ("relu", 2)])
@pytest.mark.parametrize(("tied", "vocab_matrices"), [(True, 1), (False, 2)])
def test_the_estimate_is_the_textbook_formula(ffn, matrices, tied, vocab_matrices):
    config = ModelConfig(**SMALL, ffn=ffn, tie_embeddings=tied)
    assert estimate_parameters(config) == 3 * (4 * 8**2 + matrices * 8 * 12) + vocab_matrices * 37 * 8


@pytest.mark.parametrize(("norm", "positions", "ffn", "tied"), SWITCHES)
def test_estimate_and_exact_count_differ_by_the_norm_weights_alone(norm, positions, ffn, tied):
    config = ModelConfig(**SMALL, norm=norm, positions=positions, ffn=ffn, tie_embeddings=tied)
    count = count_parameters(config)
    assert count.total - estimate_parameters(config) == count.norm == {"pre": 7, "post": 6, "none": 0}[norm] * 8


def test_tying_removes_the_head_and_nothing_else():
    tied = count_parameters(ModelConfig(**SMALL, tie_embeddings=True))
    untied = count_parameters(ModelConfig(**SMALL, tie_embeddings=False))
    assert untied.total - tied.total == untied.head == 37 * 8
    assert tied.non_embedding == untied.non_embedding
    assert tied.head == 0


def test_the_count_of_llama_2_7b_is_the_published_one():
    llama = ModelConfig(vocab_size=32_000, d_model=4096, num_layers=32, num_heads=32, d_ff=11_008, context_length=4096)
    assert count_parameters(llama).total == 6_738_415_616


def test_the_count_of_mistral_7b_whose_query_heads_share_keys_is_the_published_one():
    shape = {"vocab_size": 32_000, "d_model": 4096, "num_layers": 32, "num_heads": 32, "d_ff": 14_336}
    mistral = ModelConfig(**shape, num_kv_heads=8, context_length=4096)
    assert count_parameters(mistral).total == 7_241_732_096


def test_flops_per_token_counts_the_head_once_tied_or_not():
    expected = 6 * (3 * (4 * 8**2 + 3 * 8 * 12) + 7 * 8 + 37 * 8) + 12 * 3 * 16 * 8
    for tied in (True, False):
        assert flops_per_token(ModelConfig(**SMALL, tie_embeddings=tied)) == expected


def test_counting_does_not_load_torch():
    code = "import sys, lmcore.params; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
