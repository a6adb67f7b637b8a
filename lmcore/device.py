"""From `auto` to a decision: device, dtype, compile mode and threads of a run.

Decided once, before training, and written down with the run, because curves are bit-reproducible only under the same
choice. Does not ask any device itself, so that a driver without torch can decide for its workers.
"""

from lmcore.config import RunSpec, TrainConfig
from lmcore.errors import InputError


def resolve(train: TrainConfig, cuda: bool) -> TrainConfig:
    """`train` with every `auto` replaced; `cuda` says whether the run will find a CUDA device.

    Raises:
        InputError: `train.device: cuda` where there is none.
    """
    if train.device == "cuda" and not cuda:
        raise InputError("train.device: cuda needs a GPU and there is none; use device: auto or device: cpu")
    device = ("cuda" if cuda else "cpu") if train.device == "auto" else train.device
    on_cuda = device == "cuda"
    return train.model_copy(
        update={
            "device": device,
            "dtype": ("bfloat16" if on_cuda else "float32") if train.dtype == "auto" else train.dtype,
            "compile": on_cuda if train.compile == "auto" else train.compile,
            "cuda_graphs": on_cuda and train.cuda_graphs is not False,
            "threads": 1 if train.threads == "auto" else train.threads,
        }
    )


def resolve_run(run: RunSpec, cuda: bool) -> RunSpec:
    """`run` with its train config resolved."""
    return run.model_copy(update={"train": resolve(run.train, cuda)})
