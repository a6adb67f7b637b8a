"""Sizes and experiments: named overrides of the base run. `sweeps.spec.sweep_spec` checks what they override."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict

from lmcore.config import Config
from lmcore.runfile.paths import FieldError, show


def _check_name(name: str, max_length: int) -> str:
    """The name, if it is safe as the name of a file or folder."""
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{max_length - 1}}}", name) or ".." in name:
        raise FieldError(
            "",
            f"must begin with a letter or digit and continue with up to {max_length - 1} of A-Z a-z 0-9 . _ - "
            f"without '..' (got {show(name)}); it becomes a file name, so choose one without / and spaces",
        )
    return name


Name = Annotated[str, AfterValidator(partial(_check_name, max_length=64))]
SizeName = Annotated[str, AfterValidator(partial(_check_name, max_length=32))]


class _Variant(Config):
    """A name and, beside it, overrides of the base run by dotted path."""

    model_config = ConfigDict(extra="allow")

    name: Name

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Size(_Variant):
    """A model size. Each has its own study, and trials of different sizes are never compared.

    >>> Size.model_validate({"name": "xs", "model.d_model": 64}).overrides
    {'model.d_model': 64}
    """

    name: SizeName
    """Name of the size, up to 32 characters; its study and its trials' ids begin with it."""


class Experiment(_Variant):
    """One entry of an ablation: a named set of overrides that is trained once for each size.

    >>> Experiment.model_validate({"name": "tied", "model.tie_embeddings": True}).overrides
    {'model.tie_embeddings': True}
    """

    name: Name
    """Name of the experiment, up to 64 characters, as tables and trackers show it."""


def check_unique_names(section: str, variants: Sequence[_Variant]) -> None:
    """FieldError if two names of a section are equal or differ only in case: some file systems ignore case."""
    seen: set[str] = set()
    for name in (variant.name for variant in variants):
        if name.casefold() in seen:
            raise FieldError(f"{section}.{name}.name", f"must be unique (got {name!r} twice); rename one")
        seen.add(name.casefold())
