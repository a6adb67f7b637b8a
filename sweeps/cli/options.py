"""The command line of `sweeps/run.py`: its options and nothing else. What they say is checked by `sweeps.spec.load`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcore.errors import OneLineParser
from sweeps.spec.settings import METHODS, SCHEDULERS

DEFAULT_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quick.yaml"

DESCRIPTION = """\
Search the hyperparameters of small Transformer language models with Ray Tune and Optuna.

A sweep is described by a YAML file; options change it. Everything it learns goes to runs/<name>.
"""

EXAMPLES = """\
examples:
  python sweeps/run.py --search optuna
      the shipped quick sweep: two model sizes, a few minutes on two CPU cores
  python sweeps/run.py --config configs/ablation.yaml --dry-run
      the resolved spec, parameter counts, tokens and FLOPs, before anything is spent
  python sweeps/run.py --set data.source=my_text.txt --set train.steps=1000 --name mine --trials 32
      your own text, longer runs, more trials
  python sweeps/run.py --set optim.lr=1e-3 --set 'space.optim.beta2=[0.9, 0.99]'
      fix a field that the file searches, search another one differently
  python sweeps/run.py --resume runs/quick --trials 32
      go on with a sweep that was stopped or killed, or that is to have more trials
  python sweeps/run.py --address head:6379
      the same on a Ray cluster

exit codes:
  0 done   1 no trial completed, or the disk is full or the cluster gone   2 wrong input
  3 the run's folder is in use   130 interrupted   143 terminated; after 1, 130 and 143 the sweep can be resumed
"""

LOOPBACK = "127.0.0.1"
FIXED = ("config", "name", "search", "scheduler", "seed")  # options that a sweep cannot be resumed with


@dataclass(frozen=True)
class Options:
    """The command line, parsed; None where an option was not given."""

    config: Path
    resume: Path | None
    search: str | None
    scheduler: str | None
    trials: int | None
    seed: int | None
    slots: int | str | None
    set: tuple[str, ...]
    """`PATH=VALUE` texts, in order."""
    name: str | None
    address: str | None
    dashboard: bool
    dashboard_host: str
    wandb: str | None
    dry_run: bool

    @property
    def flags(self) -> dict[str, Any]:
        """The options that `load_spec` takes by name."""
        return {
            name: getattr(self, name) for name in ("search", "scheduler", "trials", "seed", "slots", "name", "wandb")
        }


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; a mistake exits with code 2 and one line."""
    p = OneLineParser(
        prog="python sweeps/run.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sweep = p.add_argument_group("what is swept")
    sweep.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the sweep's YAML file (default: configs/quick.yaml of this repository)",
    )
    sweep.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change one field of the file, e.g. optim.lr=1e-3, search.concurrent=2, sizes=[]; may be repeated; "
        "a field that is set is no longer searched",
    )
    sweep.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with the sweep in this folder: its unfinished trials, then the rest, or more of them with --trials",
    )
    sweep.add_argument("--name", help="name of the run's folder below runs/ (default: the file's)")
    search = p.add_argument_group("how it is searched")
    search.add_argument(
        "--search",
        choices=METHODS,
        help="who proposes hyperparameters; optuna is TPE, experiments runs the file's list (default: the file's)",
    )
    search.add_argument("--scheduler", choices=SCHEDULERS, help="who stops trials early (default: the file's)")
    search.add_argument(
        "--trials", type=int, metavar="N", help="trials in all, dealt out to the sizes in turn (default: the file's)"
    )
    search.add_argument("--seed", type=int, metavar="N", help="seed of the search (default: the file's)")
    place = p.add_argument_group("where it runs and is shown")
    place.add_argument(
        "--slots",
        type=_slots,
        metavar="auto|N",
        help="trials that each device trains side by side; auto measures how many are worthwhile (default: the file's)",
    )
    place.add_argument(
        "--address", metavar="RAY", help="address of a Ray cluster (default: RAY_ADDRESS, else this machine)"
    )
    place.add_argument("--no-dashboard", dest="dashboard", action="store_false", help="without the Ray dashboard")
    place.add_argument(
        "--dashboard-host",
        metavar="HOST",
        default=LOOPBACK,
        help="where the dashboard of a Ray that is started here listens (default: this machine alone)",
    )
    place.add_argument(
        "--wandb",
        choices=("off", "offline", "online"),
        help="tracking with wandb (default: online with a key, else offline files)",
    )
    place.add_argument("--dry-run", action="store_true", help="print the resolved spec and what it costs, and stop")
    return p


def _slots(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be auto or a number of slots (got {text!r}); write --slots 4")
    return text if text == "auto" else int(text)


def parse(argv: Sequence[str] | None = None) -> Options:
    """The options in `argv`, by default the process's own; SystemExit(2) after one line if they are wrong."""
    command_line = parser()
    values = vars(command_line.parse_args(argv))
    if values["resume"] is not None:
        fixed = [f"--{name}" for name in FIXED if values[name] is not None]
        if fixed:
            rule = "goes on with a sweep as it was begun"
            command_line.error(
                f"--resume: {rule} (got also {', '.join(fixed)}); leave that out, or begin another sweep"
            )
        values["config"] = values["resume"] / "sweep.yaml"
    config = values["config"] or DEFAULT_CONFIG
    return Options(**{**values, "config": config, "set": tuple(values["set"])})


def resume_command(options: Options, folder: str, storage: str | None) -> str:
    """What to type, where this command was typed, to go on with the sweep in `folder`.

    `storage` is the address of its studies where that holds a password, with *** in its place: no file keeps it.
    """
    words = [sys.orig_argv[0], sys.argv[0], "--resume", folder]
    if options.address is not None:
        words += ["--address", options.address]
    if not options.dashboard:
        words.append("--no-dashboard")
    elif options.dashboard_host != LOOPBACK:
        words += ["--dashboard-host", options.dashboard_host]
    if storage is not None:
        words += ["--set", f"search.storage={storage}"]
    return shlex.join(words)
