"""best/next.yaml: the size that a sweep would train next, larger than all that it has trained."""

from pathlib import Path
from typing import Any, NamedTuple

from lmcore.errors import InputError
from lmcore.printable import printable
from lmcore.runfile.yaml_file import parse_yaml

PATH = Path("best") / "next.yaml"


class NextSize(NamedTuple):
    """A model that was not trained, and what it is to be trained on.

    >>> analysis.load("runs/ladder").manifest["next"].N
    1049600.0
    """

    name: str
    N: float
    """Parameters without embedding and output head."""
    D: float
    """Training tokens."""
    flops: float
    """Of its training."""


def read_next_size(folder: Path) -> NextSize | None:
    """What the run's best/next.yaml describes; None without such a file, or if it is no run's file."""
    try:
        values = parse_yaml((folder / PATH).read_text(encoding="utf-8"), PATH.name).values
        return _size(values)
    except (OSError, UnicodeDecodeError, InputError, ValueError, TypeError, AttributeError, KeyError):
        return None


def _size(values: dict[str, Any]) -> NextSize | None:
    from lmcore.config import ModelConfig  # pydantic takes a moment
    from lmcore.params import count_parameters, flops_per_token

    model, train = ModelConfig.model_validate(values["model"]), values["train"]
    parameters = count_parameters(model).non_embedding
    if train.get("steps"):
        tokens = float(train["steps"]) * float(train["batch_size"]) * model.context_length
    else:
        tokens = float(train.get("tokens") or train["tokens_per_parameter"] * parameters)
    name = printable(str(values.get("name") or "next")).removeprefix("best-")
    return NextSize(name, float(parameters), tokens, flops_per_token(model) * tokens)
