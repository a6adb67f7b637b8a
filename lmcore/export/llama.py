"""A model of the default architecture as the folder of a Hugging Face Llama, which transformers and others load.

The same numbers under other names: nothing is permuted, because rotary positions are in Llama's half-split form here
too, and nothing is rounded: weights stay float32. transformers itself is not needed. What Llama cannot be (another
norm, feed-forward network, or no positions) is refused; nothing is approximated.
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from tokenizers import Tokenizer
from torch import Tensor

from lmcore.config import ModelConfig
from lmcore.durable import replace
from lmcore.errors import InputError
from lmcore.export.trained_model import end_of_text_token
from lmcore.model import HEAD

ARCHITECTURE = {"norm": "pre", "positions": "rope", "ffn": "swiglu"}
"""Fields of `ModelConfig` that make a Llama; tied or not, both are."""

# Part by part of a dotted name; parts that are not here are called the same.
NAMES = {
    "token_embeddings": "model.embed_tokens",
    "layers": "model.layers",
    "attn": "self_attn",
    "output_proj": "o_proj",
    "ffn": "mlp",
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "ln_final": "model.norm",
}


def check_llama(config: ModelConfig) -> None:
    """Raise InputError, naming the fields at fault, unless a Llama has this architecture."""
    wrong = {name: getattr(config, name) for name in ARCHITECTURE if getattr(config, name) != ARCHITECTURE[name]}
    if wrong:
        fields = ", ".join(f"model.{name}" for name in wrong)
        wanted = ", ".join(ARCHITECTURE[name] for name in wrong)
        raise InputError(
            f"{fields}: must be {wanted} to be exported as a Llama, which has no other "
            f"(got {', '.join(wrong.values())}); choose a trial of the default architecture"
        )


def llama_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A slot's plain weights (`TransformerLM.slot_state_dict`) under Hugging Face's names."""
    return {".".join(NAMES.get(part, part) for part in name.split(".")): weight for name, weight in weights.items()}


def llama_config(config: ModelConfig, end_of_text: int | None = None) -> dict[str, Any]:
    """config.json of a model; `end_of_text` is the id of the token that ends a document, where there is one.

    Raises:
        InputError: no Llama has this architecture.
    """
    check_llama(config)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        # The name in transformers 4 and in most other readers, then the one in transformers 5.
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_embeddings,
        # Written even where there is none: transformers would take 1 and 2, which are ordinary tokens here.
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


def llama_files(config: ModelConfig, weights: Mapping[str, Tensor], tokenizer_json: str | None) -> dict[str, bytes]:
    """The files of the folder by name; without `tokenizer_json` there are none of a tokenizer.

    Args:
        weights: a slot's plain weights, as `TransformerLM.slot_state_dict` gives them.

    Raises:
        InputError: no Llama has this architecture.
    """
    config = config.model_copy(update={"tie_embeddings": HEAD not in weights})  # tying is a slot's own matter
    tokenizer = None if tokenizer_json is None else Tokenizer.from_str(tokenizer_json)
    name, end_of_text = (tokenizer and end_of_text_token(tokenizer)) or (None, None)
    files = {
        "config.json": _json(llama_config(config, end_of_text)),
        "generation_config.json": _json(
            {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "pad_token_id": end_of_text}
        ),
        "model.safetensors": safetensors.torch.save(
            {name: weight.contiguous() for name, weight in llama_weights(weights).items()}, metadata={"format": "pt"}
        ),
    }
    if tokenizer is not None and tokenizer_json is not None:
        described = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.context_length,
            "clean_up_tokenization_spaces": False,  # transformers 4 would drop spaces before punctuation
        }
        files["tokenizer.json"] = _adding_nothing(tokenizer, tokenizer_json).encode("utf-8")
        files["tokenizer_config.json"] = _json(described if name is None else described | {"eos_token": name})
    return files


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` as the folder `out`, which appears whole or not at all; it may exist if it is empty.

    A kill leaves at most a hidden folder `.NAME.*` beside it. Raises OSError where the disk refuses.
    """
    out = Path(os.path.realpath(out))  # a symbolic link goes on pointing where it does
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        for name, content in files.items():
            with (temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _adding_nothing(tokenizer: Tokenizer, tokenizer_json: str) -> str:
    """The tokenizer.json, as it is unless it puts special tokens around every text: in training there were none."""
    if not tokenizer.encode("").ids:
        return tokenizer_json
    return json.dumps({**json.loads(tokenizer_json), "post_processor": None}, ensure_ascii=False, indent=2)


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
