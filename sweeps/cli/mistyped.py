"""What a mistyped word of `lmsweep run` was probably meant to be: a field, a file, a run, another tool's option.

lmsweep run --lr 1e-3      --lr is not an option; write --set optim.lr=1e-3
lmsweep run runs/quick     runs/quick is a run's folder; resume it with --resume runs/quick
"""

import argparse
import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path

from lmcore.errors import OneLineParser
from lmcore.run_folders import is_run, run_hint
from lmcore.runfile.paths import ALIASES, plain_types
from lmcore.terminal.mistyped import ALIKE, OTHER_NAMES, bare
from sweeps.rundir.folder import RUNS
from sweeps.spec.load import SETTABLE
from sweeps.spec.other_tools import METHOD_WORDS, SCHEDULER_WORDS
from sweeps.spec.settings import METHODS, SCHEDULERS

INSTEAD = {
    "timeout": "--time {}s",
    "time-budget": "--time {}s",
    "time-budget-s": "--time {}s",
    "max-time": "--time {}s",
    "time-limit": "--time {}s",
    "hours": "--time {}h",
    "minutes": "--time {}m",
    "no-wandb": "--wandb off",
    "wandb-off": "--wandb off",
    "wandb-project": "--set tracking.project={}",
    "wandb-entity": "--set tracking.entity={}",
    "data": "--set data.source={}",
    "corpus": "--set data.source={}",
    "text": "--set data.source={}",
    "width": "--set model.d_model={}",
    "dim": "--set model.d_model={}",
    "depth": "--set model.num_layers={}",
    "warmup": "--set optim.warmup_fraction={}",
    "bs": "--set train.batch_size={}",
    "b": "--set train.batch_size={}",
    "bf16": "--set train.dtype=bfloat16",
    "fp32": "--set train.dtype=float32",
    "cpu": "--set train.device=cpu",
    "gpu": "--set train.device=cuda",
    "cuda": "--set train.device=cuda",
    "jobs": "--set search.concurrent={}",
    "n-jobs": "--set search.concurrent={}",
    "j": "--set search.concurrent={}",
    "workers": "--set search.concurrent={}",
    "num-workers": "--set search.concurrent={}",
    "parallel": "--set search.concurrent={}",
    "max-concurrent": "--set search.concurrent={}",
}
"""By option of another tool, without dashes: what to write."""
GPUS = ("gpus", "num-gpus", "n-gpus", "gpus-per-trial", "devices", "num-devices")
EVERY_GPU = "is not an option, because a sweep uses every GPU that it sees; set CUDA_VISIBLE_DEVICES to use fewer"
FIELDS = {
    **{other: path for other, path in ALIASES.items() if path in SETTABLE},
    **{path.rpartition(".")[2]: path for path in reversed(SETTABLE) if "." in path},
}
"""Dotted path by the last name of a field, or by its name in other projects; the first path of that name."""
VALUE = "VALUE"


class SweepParser(OneLineParser):
    """A parser of a command that makes a sweep. A mistake says what to write instead, in one line, with exit code 2."""

    def mistyped(self, words: Sequence[str]) -> str:
        """What to say about words that are neither options nor arguments of this command."""
        word, *others = words
        if not word.startswith("-"):
            return _positional(word)
        value = word.partition("=")[2] or next((one for one in others[:1] if not one.startswith("--")), "")
        name = word.partition("=")[0]
        if bare(word) in GPUS:
            return f"{name} {EVERY_GPU}"
        meant = _meant(bare(word), value, [option for option in self._option_string_actions if option != "--help"])
        return super().mistyped(words) if meant is None else f"{name} is not an option; write {meant}"

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            rule = f"must be one of {', '.join(map(str, action.choices))} (got {value!r})"
            raise argparse.ArgumentError(action, rule + choice_hint(action.dest, str(value)))


def choice_hint(option: str, value: str) -> str:
    """The remedy for a search method or a scheduler that there is not: `; write --search gp`, or nothing.

    >>> choice_hint("search", "asha"), choice_hint("scheduler", "halving")
    ('; write --scheduler asha', '; write --scheduler asha')
    """
    word = value.lower().replace("-", "").replace("_", "").removesuffix("sampler").removesuffix("pruner")
    own, other = (METHODS, METHOD_WORDS), (SCHEDULERS, SCHEDULER_WORDS)
    tables = {"search": own, "scheduler": other}
    if option not in tables:
        return ""
    for flag in (option, *(name for name in tables if name != option)):
        names, words = tables[flag]
        same = [name for name in names if name.replace("-", "") == word]
        if found := same or words.get(word, []):
            return "; write " + " or ".join(f"--{flag} {name}" for name in found)
    close = difflib.get_close_matches(value.lower(), tables[option][0], 1)
    return f"; write --{option} {close[0]}" if close else ""


def _meant(name: str, value: str, options: Sequence[str]) -> str | None:
    """What to write instead of an option called `name`; None if nothing is like it."""
    if name in INSTEAD:
        form = INSTEAD[name] if not value or value[-1:].isdigit() else INSTEAD[name].replace("{}s", "{}")
        return form.format(value or VALUE)
    for option in options:
        if name in OTHER_NAMES.get(option, "").split():
            return _with_value(option, value)
    field = name.replace("-", "_")
    if path := FIELDS.get(field):
        return _setting(path, value)
    for start, own in (("no_", "false"), ("disable_", "false"), ("use_", value or "true")):
        if field.startswith(start) and (path := FIELDS.get(field.removeprefix(start))):
            return _setting(path, own)
    near = {bare(option): _with_value(option, value) for option in options}
    if name not in near and (whole := [own for own in FIELDS if f"_{own}".endswith(f"_{field}")]):  # --layers
        return _setting(FIELDS[min(whole, key=len)], value)
    near = {**{field.replace("_", "-"): _setting(path, value) for field, path in FIELDS.items()}, **near}
    close = difflib.get_close_matches(name, near, 1, cutoff=ALIKE)
    return near[close[0]] if close else None


def _setting(path: str, value: str) -> str:
    default = "true" if bool in plain_types(path) else VALUE
    return f"--set {shlex.quote(f'{path}={value or default}')}"


def _with_value(option: str, value: str) -> str:
    return f"{option} {shlex.quote(value)}" if value else option


def _positional(word: str) -> str:
    """What to say about a word that is no option: all that `lmsweep run` takes are options."""
    from sweeps.cli.options import shipped_configs

    path, quoted = Path(word), shlex.quote(word)
    run = run_hint(path, "")
    if is_run(path):
        return f"{word} is a run's folder; resume it with --resume {quoted}"
    if word.partition("=")[0] in SETTABLE:
        return f"{word} sets a field; write --set {quoted}"
    shipped = path.stem in shipped_configs() and path.name == word
    if (path.suffix in (".yaml", ".yml") and (path.is_file() or not run)) or shipped:
        also = f", or resume the run of that name with --resume {run}" if is_run(RUNS / word) else ""
        return f"{word} is a sweep's file; give it with --config {quoted}{also}"
    if is_run(RUNS / word):
        return f"{word} is a run in {RUNS}/; resume it with --resume {run}"
    if path.is_file():
        return f"{word} is a file; train on it with --set {shlex.quote(f'data.source={word}')}"
    if run:
        return f"{word} is not a run's folder; resume one with --resume {run}"
    return f"unrecognized arguments: {word}: all that this command takes are options"
