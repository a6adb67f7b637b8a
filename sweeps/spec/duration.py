"""Durations as people write them: `2h`, `1h30m`, `90m`, `45s`, or a number of seconds."""

import math
import re
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BeforeValidator

from lmcore.runfile.paths import FieldError, show

_SECONDS = {"h": 3600, "m": 60, "s": 1}
_PATTERN = re.compile(r"(?=.)(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(value: Any) -> float:
    """Seconds, above 0. FieldError for anything that is not a duration.

    >>> parse_duration("1h30m"), parse_duration(45)
    (5400.0, 45.0)
    """
    seconds = math.nan
    text = "" if isinstance(value, bool) else str(value).replace(" ", "")
    if found := _PATTERN.fullmatch(text):
        seconds = sum(_SECONDS[unit] * float(n) for unit, n in zip("hms", found.groups(), strict=True) if n)
    elif text:
        with suppress(ValueError):
            seconds = float(text)
    if not (math.isfinite(seconds) and seconds > 0):
        raise FieldError("", f"must be a duration above 0 (got {show(value)}); write for example 2h, 1h30m, 90m or 45s")
    return seconds


def show_duration(seconds: float) -> str:
    """A duration in hours, minutes and seconds.

    >>> show_duration(5400), show_duration(45.4)
    ('1h30m', '45s')
    """
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    parts = (f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n)
    return "".join(parts) or "0s"


Duration = Annotated[float, BeforeValidator(lambda value: None if value is None else parse_duration(value))]
"""Seconds, from any of the spellings."""
