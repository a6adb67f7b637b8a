"""What somebody probably meant who typed an option that a command does not have."""

import difflib
from collections.abc import Iterable

ALIKE = 0.6  # the least similarity of two spellings, as difflib measures it

OTHER_NAMES = {
    "--out": "output output-dir out-dir outdir save save-dir dest destination folder to o",
    "--runs": "output output-dir out out-dir outdir save-dir log-dir logdir local-dir results-dir storage-path o",
    "--name": "run-name study-name experiment-name exp-name sweep-name",
    "--config": "file yaml config-file cfg sweep-config c f",
    "--resume": "restore continue resume-from resume-path",
    "--dry-run": "dry plan simulate what-if n",
    "--search": "sampler method algorithm algo search-alg search-method search-algorithm strategy tuner",
    "--scheduler": "pruner pruning early-stopping early-stop early-terminate stopper",
    "--trials": "n-trials num-trials num-samples n-samples samples max-trials max-evals n-iter n-iters count run-cap n",
    "--time": "timeout time-budget time-budget-s max-time duration walltime wall-time hours time-limit",
    "--slots": "pack packed population trials-per-gpu trials-per-device",
    "--address": "ray-address cluster head ray",
    "--no-dashboard": "without-dashboard dashboard-off",
    "--storage": "db database database-url db-url study-storage",
    "--seed": "random-seed random-state rng-seed",
    "--from": "source recorded table input i",
    "--trial": "id trial-id checkpoint ckpt",
    "--max-tokens": "max-new-tokens max-length length num-tokens tokens n",
    "--temperature": "temp t",
    "--watch": "follow live loop tail f w",
    "--interval": "every refresh period",
    "--json": "format-json as-json j",
    "--brief": "short tables no-figures",
    "--because": "reason why message comment m",
    "--include": "undo unexclude remove restore",
    "--check": "test verify",
}
"""By option of ours: what other tools and other commands call it, without dashes."""


def nearest_option(word: str, options: Iterable[str]) -> str | None:
    """The option of a command that `word` was probably meant to be, or None.

    >>> nearest_option("--colums", ["--columns", "--out"]), nearest_option("--output-dir", ["--columns", "--out"])
    ('--columns', '--out')
    """
    known = [option for option in options if option.startswith("--")]
    name = bare(word)
    for option in known:
        if name in (bare(option), *OTHER_NAMES.get(option, "").split()):
            return option
    close = difflib.get_close_matches(name, [bare(option) for option in known], 1, cutoff=ALIKE)
    return f"--{close[0]}" if close else None


def bare(option: str) -> str:
    """An option without dashes in front and its value, in lower case: `--Batch_Size=4` is `batch-size`."""
    return option.partition("=")[0].lstrip("-").replace("_", "-").lower()
