"""Sizes and experiments: named overrides of the base run; which overrides are allowed is checked in
`sweeps.spec.sweep_spec`."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict

from lmcore.config import Config
from lmcore.runfile.paths import FieldError, show


def _name_of(max_length: int) -> Any:
    pattern = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{max_length - 1}}}")

    def check(name: str) -> str:
        if not pattern.fullmatch(name) or ".." in name:
            raise FieldError(
                "",
                f"must begin with a letter or digit and go on with up to {max_length - 1} of A-Z a-z 0-9 . _ - "
                f"without '..' (got {show(name)}); it names files, so leave out what a path could use",
            )
        return name

    return Annotated[str, AfterValidator(check)]


Name = _name_of(64)
SizeName = _name_of(32)


class _Variant(Config):
    """A name, and overrides of the base run by dotted path beside it."""

    model_config = ConfigDict(extra="allow")

    @property
    def overrides(self) -> dict[str, Any]:
        """Values by dotted path."""
        return dict(self.model_extra or {})


class Size(_Variant):
    """A model size: trials of different sizes are never compared, each has its own study."""

    name: SizeName
    """Also the name of its study and the beginning of its trials' ids."""


class Experiment(_Variant):
    """One run of an ablation."""

    name: Name
    """As tables and wandb show it."""


def check_unique_names(section: str, variants: Sequence[_Variant]) -> None:
    """FieldError if two variants of a section have one name."""
    seen: set[str] = set()
    for variant in variants:
        # Names become files, and not every file system tells xs from XS.
        if variant.name.casefold() in seen:
            raise FieldError(
                f"{section}.{variant.name}.name", f"must be unique (got {variant.name!r} twice); rename one"
            )
        seen.add(variant.name.casefold())
