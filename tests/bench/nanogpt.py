"""nanoGPT's model, from a checkout that the user names; nothing of it is part of this project."""

import importlib.util
from pathlib import Path
from typing import Any


def nanogpt(folder: Path, *, layers: int, heads: int, width: int, context: int, vocabulary: int) -> Any:
    """Its GPT without biases and dropout, an nn.Module: tokens x, y [B, T] -> logits and mean loss."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shape = {"n_layer": layers, "n_head": heads, "n_embd": width, "block_size": context, "vocab_size": vocabulary}
    return module.GPT(module.GPTConfig(dropout=0.0, bias=False, **shape))
