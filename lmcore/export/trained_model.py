"""Loading a trained model, without optimizer and data, from a checkpoint of its run.

To continue training, `Trainer.restore_slot` reads the same file with the optimizer's moments.
"""

import os
from dataclasses import dataclass

from lmcore.checkpoint import CheckpointError, read_checkpoint
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.model import TransformerLM

WEIGHTS = "model."  # prefix of the names of weights in a checkpoint; moments have others


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model and the state of its training run.

    >>> trained = read_trained_model("runs/quick/trials/xs-0003/step-000000200.safetensors")
    >>> logits = trained.model(tokens)  # [1, B, T] -> [1, B, T, V]
    """

    run: RunSpec
    step: int  # updates made; fewer than run.train.steps if the run has not ended
    model: TransformerLM  # K = 1, float32, on the CPU
    data_fingerprint: str  # Tokens.fingerprint of the training data
    last_row: Row | None  # the run's last report before the checkpoint


def read_trained_model(src: str | os.PathLike[str]) -> TrainedModel:
    """Load the model from a checkpoint that `Trainer.save_slot` wrote.

    Raises CheckpointError if the file is damaged or is not a slot's checkpoint, OSError if it cannot be read.
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
