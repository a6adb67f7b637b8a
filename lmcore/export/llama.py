"""Exporting a model of the default architecture as a Hugging Face Llama folder, for transformers and other readers.

With `model.qk_norm`, which Llama lacks, it is a Qwen3 folder: a Llama with RMSNorm over the heads of q and k.

The weights are renamed, not changed: rotary positions already have Llama's half-split form, and all weights stay
float32. Only the multipliers of muP (`lmcore.parametrization`), which Llama lacks, become part of the weights that they
act on: the gain of the final norm, and q_proj or its norm. Architectures that neither has are refused. Dropout is not
in the folder, as it only trains. transformers is not needed.

    files = llama_files(model.config, model.slot_state_dict(0), tokens.tokenizer_json, tokens.end_of_text)
    write_folder(Path("exported"), files)
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from tokenizers import Tokenizer
from torch import Tensor

from lmcore.config import ModelConfig
from lmcore.durable import new_folder
from lmcore.errors import InputError
from lmcore.model import HEAD
from lmcore.parametrization import parametrization_of

ARCHITECTURE = {"norm": "pre", "positions": "rope", "ffn": "swiglu"}
"""Fields of `ModelConfig` that make a Llama, or a Qwen3. All others may have any value."""
# Llama's and Qwen3's names of the parts of our dotted names. Parts that are not listed have the same name.
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


def with_multipliers(config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with which a model without multipliers computes the same logits."""
    parametrization = parametrization_of(config)
    factors = {"ln_final.weight": parametrization.logit_multiplier(config)}
    if (scale := parametrization.attention_scale(config)) is not None:
        query = "attn.q_norm.weight" if config.qk_norm else "attn.q_proj.weight"
        factors |= dict.fromkeys((name for name in weights if name.endswith(query)), scale * math.sqrt(config.head_dim))
    return {name: weight * factors[name] if factors.get(name, 1) != 1 else weight for name, weight in weights.items()}


def llama_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a slot (`TransformerLM.slot_state_dict`) under Hugging Face's names."""
    return {".".join(NAMES.get(part, part) for part in name.split(".")): weight for name, weight in weights.items()}


def unlike_llama(config: ModelConfig) -> dict[str, str]:
    """The fields that neither a Llama nor a Qwen3 can have, with their values.

    >>> unlike_llama(ModelConfig(ffn="gelu"))
    {'model.ffn': 'gelu'}
    """
    values = {name: getattr(config, name) for name in ARCHITECTURE}
    return {f"model.{name}": value for name, value in values.items() if value != ARCHITECTURE[name]}


def llama_config(config: ModelConfig, end_of_text: int | None = None) -> dict[str, Any]:
    """The content of config.json. `end_of_text` is the id of the end-of-text token, if the tokenizer has one.

    >>> llama_config(ModelConfig(qk_norm=True))["architectures"]
    ['Qwen3ForCausalLM']

    Raises InputError if Llama does not have this architecture.
    """
    if wrong := unlike_llama(config):
        wanted = ", ".join(ARCHITECTURE[name.removeprefix("model.")] for name in wrong)
        raise InputError(
            f"{', '.join(wrong)}: must be {wanted} to be exported as a Llama, which has no other "
            f"(got {', '.join(wrong.values())}); choose a trial of the default architecture"
        )
    if config.qk_norm:
        # Layer types are written because readers would otherwise make some layers attend to a sliding window.
        family = {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "use_sliding_window": False,
            "layer_types": ["full_attention"] * config.num_layers,
        }
    else:
        family = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "mlp_bias": False}
    return {
        **family,
        "dtype": "float32",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        # transformers 4 and most other readers use the first name, transformers 5 the second.
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_embeddings,
        # Written even if null, because transformers defaults to 1 and 2, which are ordinary tokens here.
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        # Padding is end of text, as generation_config.json and the tokenizer say. Here it would keep transformers from
        # training the embedding of that token.
        "pad_token_id": None,
    }


def llama_files(
    config: ModelConfig, weights: Mapping[str, Tensor], tokenizer_json: str | None, end_of_text: int | None = None
) -> dict[str, bytes]:
    """The files of the exported folder by name, from weights as `TransformerLM.slot_state_dict` returns them.

    `end_of_text` is the id of the token that ended documents in training (`Tokens.end_of_text`). Without
    `tokenizer_json` there are no tokenizer files. Raises InputError if Llama does not have this architecture.
    """
    config = config.model_copy(update={"tie_embeddings": HEAD not in weights})  # each slot may be tied or not
    tokenizer = None if tokenizer_json is None else Tokenizer.from_str(tokenizer_json)
    name = None if tokenizer is None or end_of_text is None else tokenizer.id_to_token(end_of_text)
    ending = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text)
    special_tokens = {} if name is None else dict.fromkeys(("bos_token", "eos_token", "pad_token"), name)
    weights = with_multipliers(config, weights)
    renamed = {name: weight.contiguous() for name, weight in llama_weights(weights).items()}
    files = {
        "config.json": _json(llama_config(config, end_of_text)),
        "generation_config.json": _json({**ending, "max_new_tokens": max(1, config.context_length // 2)}),
        "model.safetensors": safetensors.torch.save(renamed, metadata={"format": "pt"}),
    }
    if tokenizer is not None and tokenizer_json is not None:
        if tokenizer.encode("").ids:
            # The tokenizer adds special tokens to every text, but training added none.
            plain = json.loads(tokenizer_json) | {"post_processor": None}
            tokenizer_json = json.dumps(plain, ensure_ascii=False, indent=2)
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.context_length,
            "clean_up_tokenization_spaces": False,  # transformers 4 would drop spaces before punctuation
            "padding_side": "left",  # so that a batch of prompts can be continued
            "model_input_names": ["input_ids", "attention_mask"],  # by default also token types, which models refuse
            **special_tokens,
        }
        files["tokenizer.json"] = tokenizer_json.encode("utf-8")
        files["tokenizer_config.json"] = _json(tokenizer_config)
        files["special_tokens_map.json"] = _json(special_tokens)
    return files


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` as the folder `out`, atomically. Raises OSError if `out` exists and is not an empty folder."""
    out = Path(os.path.realpath(out))  # write to the target of a symbolic link instead of replacing the link
    with new_folder(out) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
