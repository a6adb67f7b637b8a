"""The model against Hugging Face's Llama, and what its docstring promises."""

import itertools

import pytest
import torch

from lmcore.init import init_tensor
from lmcore.model import ModelConfig, TransformerLM
from lmcore.rotary import interleaved_to_half

SMALL = {"vocab_size": 97, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 128, "context_length": 32}

LLAMA_NAMES = {
    "token_embeddings": "model.embed_tokens",
    "attn": "self_attn",
    "output_proj": "o_proj",
    "ffn": "mlp",
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "ln_final": "model.norm",
    "layers": "model.layers",
}


def tokens(num_slots=1, batch=3, time=32, seed=0):
    return torch.randint(0, 97, (num_slots, batch, time), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("tied", "kv_heads"), [(False, 4), (True, 4), (False, 2)])
def test_logits_equal_hugging_face_llama(tied, kv_heads):
    transformers = pytest.importorskip("transformers")
    config = ModelConfig(**SMALL, tie_embeddings=tied, num_kv_heads=kv_heads)
    torch.manual_seed(0)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=97,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            max_position_embeddings=32,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=tied,
            initializer_range=0.2,  # ten times the usual, so that a difference shows
        )
    ).eval()
    for name, parameter in llama.named_parameters():
        if "norm" in name:  # ones would hide a forgotten norm weight
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    llama_weights = llama.state_dict()
    ours = TransformerLM(config)
    ours.load_slot_state_dict(
        0, {n: llama_weights[".".join(LLAMA_NAMES.get(p, p) for p in n.split("."))] for n in ours.slot_names(0)}
    )
    x = tokens()
    with torch.no_grad():
        theirs = llama(x[0]).logits
        torch.testing.assert_close(ours(x)[0], theirs, rtol=1e-5, atol=1e-5)


def test_no_position_depends_on_a_later_token():
    model = TransformerLM(ModelConfig(**SMALL))
    x = tokens()
    changed = x.clone()
    changed[:, :, 20] = (x[:, :, 20] + 1) % 97
    before, after = model(x), model(changed)
    assert torch.equal(before[:, :, :20], after[:, :, :20])
    assert not torch.equal(before[:, :, 20:], after[:, :, 20:])


def test_without_positions_a_single_layer_cannot_tell_the_order_of_the_past():
    model = TransformerLM(ModelConfig(**SMALL | {"num_layers": 1}, positions="none"))
    x = tokens(time=8)
    permuted = x[:, :, [3, 1, 0, 2, 6, 5, 4, 7]]
    torch.testing.assert_close(model(x)[:, :, -1], model(permuted)[:, :, -1])
    rope = TransformerLM(ModelConfig(**SMALL | {"num_layers": 1}))
    assert (rope(x)[:, :, -1] - rope(permuted)[:, :, -1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("norm", "ffn", "positions", "tied"),
    list(
        itertools.product(["pre", "post", "none"], ["swiglu", "gelu", "silu", "relu"], ["rope", "none"], [False, True])
    ),
)
def test_every_switch_has_exactly_the_tensors_it_needs(norm, ffn, positions, tied):
    config = ModelConfig(**SMALL, norm=norm, ffn=ffn, positions=positions, tie_embeddings=tied)
    model = TransformerLM(config)
    names = set(model.slot_state_dict(0))
    assert ("ln_final.weight" in names) == (norm == "pre")
    assert ("layers.0.ln1.weight" in names) == (norm != "none")
    assert ("layers.0.ffn.w3.weight" in names) == (ffn == "swiglu")
    assert ("lm_head.weight" in names) == (not tied)
    logits = model(tokens())
    assert logits.shape == (1, 3, 32, 97)
    assert logits.isfinite().all()


def test_post_norm_normalizes_the_residual_stream_that_reaches_the_head():
    model = TransformerLM(ModelConfig(**SMALL, norm="post"))
    seen = []
    model.layers[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    model(tokens())
    torch.testing.assert_close(seen[0].square().mean(-1), torch.ones(1, 96), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_shared_key_value_heads_are_those_of_all_query_heads_that_share_them(kv_heads):
    """Reference: a head of its own for every query head, with the rows of the head that it shares."""
    shared, own = TransformerLM(ModelConfig(**SMALL, num_kv_heads=kv_heads)), TransformerLM(ModelConfig(**SMALL))
    weights = shared.slot_state_dict(0)
    for name in weights:
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = weights[name].view(kv_heads, 16, 64)
            weights[name] = heads.repeat_interleave(4 // kv_heads, dim=0).reshape(64, 64)
    own.load_slot_state_dict(0, weights)
    torch.testing.assert_close(shared(tokens()), own(tokens()), rtol=1e-5, atol=1e-6)


def test_a_key_value_head_for_every_query_head_is_the_default():
    default, explicit = (TransformerLM(ModelConfig(**SMALL, num_kv_heads=heads)) for heads in (None, 4))
    assert torch.equal(default(tokens()), explicit(tokens()))


def test_qk_norm_divides_every_head_by_its_root_mean_square():
    model = TransformerLM(ModelConfig(**SMALL, qk_norm=True, num_kv_heads=2), 2)
    attention = model.layers[0].attn
    with torch.no_grad():
        attention.k_norm.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    keys = 100 * torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))  # [K, N, G * D/H]
    attention.k_proj.weight = torch.nn.Parameter(torch.eye(32).expand(2, 32, 32))
    normalized = attention._heads(keys, 5, attention.k_proj, attention.k_norm)  # [K * B, G, T, D/H]
    for slot in range(2):
        for head in range(2):
            own = keys[slot, :, 16 * head : 16 * head + 16]
            expected = own / (own.square().mean(-1, keepdim=True) + 1e-5).sqrt() * attention.k_norm.weight[slot]
            torch.testing.assert_close(normalized[slot, head], expected)


def test_qk_norm_makes_attention_independent_of_the_scale_of_queries_and_keys():
    model = TransformerLM(ModelConfig(**SMALL, qk_norm=True, norm_eps=1e-12))
    before = model(tokens())
    with torch.no_grad():
        model.layers[0].attn.q_proj.weight.mul_(1000)
        model.layers[1].attn.k_proj.weight.mul_(0.01)
    torch.testing.assert_close(model(tokens()), before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attention", [{}, {"num_kv_heads": 2}, {"num_kv_heads": 1, "qk_norm": True}])
def test_slots_of_a_mixed_population_equal_the_models_alone_bitwise(attention):
    config = ModelConfig(**SMALL, **attention)
    tied, seeds = [False, True, False, True, True], [5, 6, 7, 6, 5]
    population = TransformerLM(config, 5, tied=tied, seeds=seeds)
    x = tokens(5, batch=4)
    logits = population(x)
    logits.square().sum((1, 2, 3)).backward(torch.ones(5))
    for k in range(5):
        for alone in (TransformerLM(config, tied=[tied[k]], seeds=[seeds[k]]), population.slot_view(k)):
            alone_logits = alone(x[k : k + 1])
            assert torch.equal(alone_logits[0], logits[k])
            alone_logits.square().sum((1, 2, 3)).backward(torch.ones(1))
            for (name, p), q in zip(population.named_parameters(), alone.parameters(), strict=True):
                expected = torch.zeros_like(p[k]) if q.grad is None else q.grad[0]
                assert torch.equal(p.grad[k], expected), name


def test_a_slots_view_shares_its_weights():
    model = TransformerLM(ModelConfig(**SMALL), 3, tied=[False, True, False])
    view = model.slot_view(1)
    with torch.no_grad():
        view.token_embeddings.weight.fill_(0.25)
    assert (model.token_embeddings.weight[1] == 0.25).all()
    assert (model.token_embeddings.weight[0] != 0.25).any()


def test_initial_weights_depend_on_seed_and_name_alone():
    config = ModelConfig(**SMALL)
    first = TransformerLM(config, 4, tied=[False, False, True, True], seeds=[1, 2, 2, 1])
    torch.manual_seed(99)
    second = TransformerLM(config, 2, seeds=[2, 1])
    for name in second.slot_names(0):
        ours = dict(first.named_parameters())[name]
        theirs = dict(second.named_parameters())[name]
        assert torch.equal(ours[1], theirs[0])
        assert torch.equal(ours[0], theirs[1])
        assert torch.equal(ours[0], ours[3])


def test_initial_weights_have_the_promised_spread():
    gains = TransformerLM(ModelConfig(**SMALL, qk_norm=True)).layers[1].attn.q_norm.weight
    assert torch.equal(gains, torch.ones(1, 16))
    matrix = init_tensor("layers.0.attn.q_proj.weight", torch.Size((512, 512)), 0, num_layers=8)
    residual = init_tensor("layers.0.ffn.w2.weight", torch.Size((512, 512)), 0, num_layers=8)
    # A normal cut at three sigma has 0.9866 of its variance's root.
    assert matrix.std().item() == pytest.approx(0.02 * 0.9866, rel=0.01)
    assert residual.std().item() == pytest.approx(0.02 / 4 * 0.9866, rel=0.01)
    assert matrix.abs().max() <= 0.06
    assert torch.equal(init_tensor("ln_final.weight", torch.Size((8,)), 0, 8), torch.ones(8))


def test_interleaved_weights_give_the_logits_of_rotating_neighbouring_channels():
    """Reference: q and k in the CS336 layout, rotated pairwise as complex numbers."""
    heads, dim, time = 4, 16, 10
    generator = torch.Generator().manual_seed(0)
    q_weight, k_weight = (torch.randn(64, 64, generator=generator) for _ in range(2))
    x = torch.randn(time, 64, generator=generator)
    angle = torch.arange(time)[:, None] * 10_000.0 ** (-torch.arange(0, dim, 2) / dim)
    turn = torch.polar(torch.ones_like(angle), angle)

    def rotated(weight):
        pairs = (x @ weight.T).view(time, heads, dim // 2, 2)
        return torch.view_as_real(torch.view_as_complex(pairs) * turn[:, None]).flatten(-2)

    reference = torch.einsum("thd,shd->hts", rotated(q_weight), rotated(k_weight))
    from lmcore.rotary import rope_tables, rotate

    tables = rope_tables(time, dim, 10_000.0)
    q, k = (
        rotate((x @ interleaved_to_half(w, heads).T).view(time, heads, dim).transpose(0, 1), *tables)
        for w in (q_weight, k_weight)
    )
    torch.testing.assert_close(q @ k.transpose(1, 2), reference, rtol=1e-4, atol=1e-3)


def test_loading_interleaved_permutes_q_and_k_with_their_gains_and_nothing_else():
    model = TransformerLM(ModelConfig(**SMALL, num_kv_heads=2, qk_norm=True), 2)
    weights = model.slot_state_dict(1)
    gains = torch.arange(16.0)
    weights["layers.0.attn.k_norm.weight"] = gains
    model.load_slot_state_dict(0, weights, rope="interleaved")
    heads = {"q_proj.weight": 4, "k_proj.weight": 2}
    for name, loaded in model.slot_state_dict(0).items():
        count = heads.get(name.rpartition("attn.")[2])
        expected = weights[name] if count is None else interleaved_to_half(weights[name], count)
        if name == "layers.0.attn.k_norm.weight":
            expected = torch.cat((gains[::2], gains[1::2]))
        assert torch.equal(loaded, expected)


def test_a_slot_state_dict_round_trips_and_bad_ones_change_nothing():
    model = TransformerLM(ModelConfig(**SMALL), 2, tied=[True, False], seeds=[0, 1])
    other = TransformerLM(ModelConfig(**SMALL), 2, tied=[False, True], seeds=[2, 3])
    other.load_slot_state_dict(1, model.slot_state_dict(0))
    assert all(torch.equal(v, model.slot_state_dict(0)[n]) for n, v in other.slot_state_dict(1).items())
    before = model.slot_state_dict(1)
    good = other.slot_state_dict(0)
    for bad, message in [
        ({n: v for n, v in good.items() if n != "ln_final.weight"}, "lacks ln_final.weight"),
        (good | {"bias": torch.zeros(1)}, "unexpected bias"),
        (good | {"ln_final.weight": torch.zeros(3)}, "shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.load_slot_state_dict(1, bad)
    assert all(torch.equal(v, before[n]) for n, v in model.slot_state_dict(1).items())
    with pytest.raises(ValueError, match="tied"):
        model.load_slot_state_dict(0, good)
    model.load_slot_state_dict(0, good | {"lm_head.weight": good["token_embeddings.weight"]})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 8, dtype=torch.long), "K = 1"),
        (torch.zeros(3, 8, dtype=torch.long), "K, B, T"),
        (torch.zeros(1, 1, 33, dtype=torch.long), "context_length = 32"),
        (torch.full((1, 1, 8), 97), r"0\.\.96"),
        (torch.full((1, 1, 8), -1), r"0\.\.96"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        TransformerLM(ModelConfig(**SMALL))(x)
