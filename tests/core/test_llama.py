"""transformers loads the exported folder as a Llama with the same logits and tokenizer."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lmcore import durable
from lmcore.corpus.tokenizer import train_tokenizer
from lmcore.errors import InputError
from lmcore.export.llama import llama_config, llama_files, llama_weights, write_folder
from lmcore.model import ModelConfig, TransformerLM
from tests.corpora import encode_documents, read_documents

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"vocab_size": 400, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 128, "context_length": 32}


@pytest.fixture(scope="module")
def documents():
    return read_documents(str(Path(sysconfig.get_path("stdlib"), "json")))


@pytest.fixture(scope="module")
def bpe(documents):
    return train_tokenizer(documents, 400)


def model_with_large_weights(config, **slots):
    """A model with weights ten times as large and norms other than 1, so that differences show."""
    model = TransformerLM(config, **slots)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" in name or "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.mul_(10)
    return model


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({}, "LlamaForCausalLM"),
        ({"tie_embeddings": True}, "LlamaForCausalLM"),
        ({"num_kv_heads": 2}, "LlamaForCausalLM"),
        ({"num_kv_heads": 1, "tie_embeddings": True}, "LlamaForCausalLM"),
        ({"qk_norm": True}, "Qwen3ForCausalLM"),
        ({"qk_norm": True, "num_kv_heads": 2, "tie_embeddings": True}, "Qwen3ForCausalLM"),
        ({"parametrization": "mup", "base_width": 24, "base_head_dim": 4}, "LlamaForCausalLM"),
        ({"parametrization": "mup", "base_width": 8, "tie_embeddings": True}, "LlamaForCausalLM"),
        ({"parametrization": "mup", "base_width": 16, "base_head_dim": 12, "qk_norm": True}, "Qwen3ForCausalLM"),
    ],
)
def test_transformers_loads_the_folder_and_computes_our_logits(tmp_path, bpe, changes, family):
    transformers = pytest.importorskip("transformers")
    model = model_with_large_weights(ModelConfig(**SMALL | changes, rope_theta=5000.0, norm_eps=1e-4))
    write_folder(tmp_path / "out", llama_files(model.config, model.slot_state_dict(0), bpe.to_str(), end_of_text=0))
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(theirs).__name__ == family
    assert not any(info.values()), info  # no key is missing, unexpected or of another shape
    assert all(parameter.dtype == torch.float32 for parameter in theirs.parameters())
    x = torch.randint(0, 400, (3, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(x[None])[0], theirs.eval()(x).logits, rtol=1e-5, atol=1e-5)
    ending = theirs.generation_config
    assert (ending.eos_token_id, theirs.config.eos_token_id, theirs.config.bos_token_id) == (0, 0, 0)


def test_each_slot_is_exported_with_its_own_tying(tmp_path):
    model = model_with_large_weights(ModelConfig(**SMALL), num_slots=2, tied=[False, True])
    for slot, tied in enumerate(model.tied):
        files = llama_files(model.config, model.slot_state_dict(slot), None)
        assert json.loads(files["config.json"])["tie_word_embeddings"] == tied
        assert (b'"lm_head.weight"' in files["model.safetensors"]) == (not tied)


def test_the_exported_tokenizer_gives_the_training_ids_and_round_trips(tmp_path, bpe, documents):
    transformers = pytest.importorskip("transformers")
    model = TransformerLM(ModelConfig(**SMALL))
    write_folder(tmp_path / "out", llama_files(model.config, model.slot_state_dict(0), bpe.to_str(), end_of_text=0))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = [theirs(document).input_ids for document in documents]
    assert [token for document in ids for token in (*document, theirs.eos_token_id)] == list(
        encode_documents(bpe, documents)
    )
    assert [theirs.decode(document) for document in ids] == documents
    odd = " ,  . n't \n\n\t\x0b é \U0001f600  "
    assert theirs.decode(theirs(odd).input_ids) == odd
    assert theirs.model_max_length == 32


def test_the_exported_tokenizer_adds_no_special_tokens(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["<s>", "</s>"])
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    model = TransformerLM(ModelConfig(**SMALL))
    write_folder(tmp_path / "out", llama_files(model.config, model.slot_state_dict(0), words.to_str(), end_of_text=1))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("a b").input_ids == list(encode_documents(words, ["a b"]))[:-1] == [2, 3]
    assert theirs.eos_token_id == 1


def test_without_a_tokenizer_no_token_is_marked_as_end_of_text(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = TransformerLM(ModelConfig(**SMALL))
    files = llama_files(model.config, model.slot_state_dict(0), None)
    assert set(files) == {"config.json", "generation_config.json", "model.safetensors"}
    write_folder(tmp_path / "out", files)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (None, None)
    assert (theirs.generation_config.eos_token_id, theirs.generation_config.pad_token_id) == (None, None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"norm": "post"}, r"model.norm: must be pre .*\(got post\)"),
        ({"norm": "none"}, r"model.norm: must be pre .*\(got none\)"),
        ({"positions": "none"}, r"model.positions: must be rope .*\(got none\)"),
        ({"ffn": "gelu"}, r"model.ffn: must be swiglu .*\(got gelu\)"),
        ({"ffn": "silu"}, r"model.ffn: must be swiglu .*\(got silu\)"),
        ({"ffn": "relu", "norm": "post"}, r"model.norm, model.ffn: must be pre, swiglu .*\(got post, relu\)"),
    ],
)
def test_other_architectures_are_refused_by_field(changes, named):
    with pytest.raises(InputError, match=named) as refusal:
        llama_config(ModelConfig(**SMALL, **changes))
    assert "\n" not in str(refusal.value)


def test_renamed_weights_stay_distinct():
    weights = TransformerLM(ModelConfig(**SMALL)).slot_state_dict(0)
    named = llama_weights(weights)
    assert len(named) == len(weights)
    assert "model.layers.1.self_attn.o_proj.weight" in named


def test_an_empty_folder_is_filled_also_through_a_symbolic_link(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    write_folder(tmp_path / "link", {"a": b"1"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "a").read_bytes() == b"1"
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "empty", {"b": b"2"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["a"]


def test_an_error_leaves_no_files_and_a_kill_only_a_hidden_folder(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "out", {"a": b"1"})
    assert not list(tmp_path.iterdir())
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom lmcore import durable\nfrom lmcore.export import llama\n"
        "durable.replace = lambda source, target: os.kill(os.getpid(), 9)\n"
        "llama.write_folder(Path(sys.argv[1]), {'a': b'1'})"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert all(path.name.startswith(".out.") for path in tmp_path.iterdir())


def test_prompts_are_continued_as_a_padded_batch_and_nothing_warns(tmp_path, bpe):
    """In a process of its own, because transformers gives each warning once."""
    pytest.importorskip("transformers")
    model = model_with_large_weights(ModelConfig(**SMALL))
    files = llama_files(model.config, model.slot_state_dict(0), bpe.to_str(), end_of_text=0)
    write_folder(tmp_path / "out", files)
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    assert json.loads(files["special_tokens_map.json"]) == special
    code = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
texts = ["def f", "import json, os"]
batch = tokenizer(texts, return_tensors="pt", padding=True)
assert batch.input_ids[0, 0] == tokenizer.pad_token_id == 0 and batch.input_ids[1, 0] != 0
together = model.generate(**batch, max_new_tokens=9)
for row, text in zip(together, texts):
    alone = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=9)[0]
    assert row[-len(alone):].tolist() == alone.tolist()
writer = pipeline("text-generation", model=sys.argv[1])
assert len(writer(texts, batch_size=2)) == 2 and writer("def f", max_new_tokens=5)
model(**tokenizer("a", return_tensors="pt"), labels=tokenizer("a", return_tensors="pt").input_ids)
assert model.model.embed_tokens.padding_idx is None  # or end of text would not be trained
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "error::UserWarning"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[transformers]" not in done.stderr
    assert "arning" not in done.stderr
