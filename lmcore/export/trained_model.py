"""A trained model, out of a checkpoint of its run: where exporting (`lmcore.export.llama`) and sampling start.

Weights and config are all that it takes; the data need not be there. To train on, `Trainer.restore_slot` reads the same
files, moments included.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from lmcore.checkpoint import CheckpointError, read_checkpoint
from lmcore.config import RunSpec
from lmcore.corpus.tokenizer import END_OF_TEXT_NAMES
from lmcore.model import TransformerLM

WEIGHTS = "model."  # how the names of weights begin in a checkpoint; those of moments begin otherwise


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What a run has made of its weights so far."""

    run: RunSpec
    """The run, complete."""
    step: int
    """Updates made; fewer than `run.train.steps` where it had not ended."""
    model: TransformerLM
    """K = 1, float32, on the CPU."""
    data_fingerprint: str
    """Of the tokens that it was trained on (`Tokens.fingerprint`)."""
    last_row: Mapping[str, Any] | None
    """Its last report up to then."""


def read_trained_model(src: str | os.PathLike[str]) -> TrainedModel:
    """The model in a checkpoint that `Trainer.save_slot` wrote.

    Raises:
        CheckpointError: the file is damaged, or is not a slot's.
        OSError: it could not be read.
    """
    tensors, meta = read_checkpoint(src)
    try:
        run = RunSpec.model_validate(meta["run"])
        model = TransformerLM(run.model)
        weights = {name.removeprefix(WEIGHTS): t for name, t in tensors.items() if name.startswith(WEIGHTS)}
        model.load_slot_state_dict(0, weights)
        return TrainedModel(run, meta["step"], model, meta["data_fingerprint"], meta["last_row"])
    except (KeyError, TypeError, ValueError):  # pydantic's ValidationError is a ValueError
        raise CheckpointError(f"{src}: is a checkpoint, but not a slot's; give one that save_slot wrote") from None


def end_of_text_token(tokenizer: Tokenizer) -> tuple[str, int] | None:
    """Name and id of the token that ended each document in training; None where the tokenizer has no such token."""
    found = ((name, tokenizer.token_to_id(name)) for name in END_OF_TEXT_NAMES)
    return next(((name, i) for name, i in found if i is not None), None)
