"""best/next.yaml: the size that a sweep would train next, larger than all that it has trained.

A sweep that compares arms writes one for each: best/next-tied.yaml.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lmcore.errors import InputError
from lmcore.printable import printable
from lmcore.runfile.yaml_file import parse_yaml

STEM = Path("best") / "next"


class NextSize(NamedTuple):
    """A model that was not trained, and what it is to be trained on.

    >>> analysis.load("runs/ladder").manifest["next"][""].N
    1049600.0
    """

    name: str
    N: float
    """Parameters without embedding and output head."""
    D: float
    """Training tokens."""
    flops: float
    """FLOPs of training it."""


def read_next_sizes(folder: Path, arms: Iterable[str | None]) -> dict[str, NextSize]:
    """By arm, "" without arms: what best/next.yaml describes. What has no such file, or none of a run, is left out."""
    found = {arm or "": _read(folder / f"{STEM}-{arm}.yaml" if arm else folder / f"{STEM}.yaml") for arm in arms}
    return {arm: one for arm, one in found.items() if one is not None}


def _read(path: Path) -> NextSize | None:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), path.name).values
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
