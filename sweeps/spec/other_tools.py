"""Words of wandb's sweeps, Ray Tune and other tools: in an entry of the space, and for methods and schedulers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmcore.runfile.paths import show

RANGE, LOG_RANGE = "{low: ..., high: ...}", "{low: ..., high: ..., log: true}"
CHOICES = "{choices: [...]}"

OURS = {
    "values": CHOICES,
    "probabilities": CHOICES,
    "categorical": CHOICES,
    "choice": CHOICES,
    "grid_search": CHOICES,
    "grid": CHOICES,
    "options": CHOICES,
    "min": RANGE,
    "max": RANGE,
    "lower": RANGE,
    "upper": RANGE,
    "uniform": RANGE,
    "randint": RANGE,
    "int_uniform": RANGE,
    "loguniform": LOG_RANGE,
    "log_uniform": LOG_RANGE,
    "log_uniform_values": LOG_RANGE,
    "lograndint": LOG_RANGE,
    "quniform": "{low: ..., high: ..., step: ...}",
    "q_uniform": "{low: ..., high: ..., step: ...}",
    "qrandint": "{low: ..., high: ..., step: ...}",
    "q": "{low: ..., high: ..., step: ...}",
    "mu": RANGE,
    "sigma": RANGE,
    "normal": RANGE,
    "lognormal": LOG_RANGE,
}
"""What to write in place of each word."""

_BAYES, _TPE, _QMC, _ASHA, _HYPERBAND = ("gp", "optuna"), ("tpe",), ("qmc",), ("asha",), ("hyperband",)
METHOD_WORDS: dict[str, Sequence[str]] = {
    **dict.fromkeys(("bayes", "bayesian", "bo", "bayesopt", "skopt", "ax", "botorch", "gaussianprocess"), _BAYES),
    **dict.fromkeys(("hyperopt", "parzen", "bohb", "nevergrad"), _TPE),
    **dict.fromkeys(("sobol", "halton", "lhs", "latinhypercube", "quasirandom"), _QMC),
    **dict.fromkeys(("cma", "evolution", "evolutionary", "genetic", "es"), ("cmaes",)),
    **dict.fromkeys(("rs", "randomsearch", "uniform", "basicvariant"), ("random",)),
    **dict.fromkeys(("gridsearch", "bruteforce", "exhaustive"), ("grid",)),
    **dict.fromkeys(("ablation", "ablations", "list"), ("experiments",)),
    **dict.fromkeys(("auto", "default", "optunasearch"), ("optuna",)),
}
"""By a search method's name elsewhere, in lower case without dashes: the names of ours."""
SCHEDULER_WORDS: dict[str, Sequence[str]] = {
    **dict.fromkeys(("sha", "halving", "successivehalving", "asynchyperband", "asyncsuccessivehalving"), _ASHA),
    **dict.fromkeys(("hb", "bohb", "hyperbandforbohb"), _HYPERBAND),
    **dict.fromkeys(("medianstopping", "medianstoppingrule", "percentile"), ("median",)),
    **dict.fromkeys(("off", "no", "false", "nop", "fifo", "null", "never"), ("none",)),
}
"""The same for schedulers."""


def rule_for(value: Any) -> str | None:
    """The rule that an entry breaks which is written for another tool, with what to write; None for any other entry.

    >>> rule_for({"values": [1, 2]})
    'must be written as {choices: [...]} (got values, which is a word of wandb or Ray Tune); write {choices: [1, 2]}'
    """
    if isinstance(value, str):  # tune.loguniform(1e-4, 1e-1)
        called = re.fullmatch(r"(?:ray\.)?(?:tune\.)?(\w+)\((.*)\)", value.strip())
        if called is None or called[1] not in OURS:
            return None
        word, numbers = called[1], [part.strip() for part in called[2].strip("[]() ").split(",")]
        return _rule(word, OURS[word], _filled(OURS[word], *numbers))
    if not isinstance(value, Mapping):
        return None
    if set(value) == {"value"}:
        rule = "must have several values to choose from"
        return f"{rule} (got value, which is a word of wandb); set the field outside the space"
    kind = str(value.get("distribution", ""))
    word = next((key for key in value if key in OURS), "distribution" if "distribution" in value else None)
    if word is None:
        return None
    wanted = OURS.get(kind) or OURS.get(word, RANGE)
    inner = value[word] if isinstance(value[word], list) else value.get("values")
    if isinstance(inner, list):
        shown = _filled(wanted, *map(_plain, inner))
    else:
        names = ("min", "max") if {"min", "max"} & set(value) else ("lower", "upper")
        ends = [value.get(name) for name in names]
        shown = wanted if None in ends else _filled(wanted, *map(_plain, ends))
    return _rule(word, wanted, shown)


def _rule(word: str, wanted: str, shown: str) -> str:
    return f"must be written as {wanted} (got {word}, which is a word of wandb or Ray Tune); write {shown}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else show(value)


def _filled(form: str, *values: str) -> str:
    """The form with its dots replaced: `{low: 0.1, high: 0.2}`."""
    if form == CHOICES:
        return f"{{choices: [{', '.join(values)}]}}"
    if form.count("...") != len(values):
        return form
    for value in values:
        form = form.replace("...", value, 1)
    return form
