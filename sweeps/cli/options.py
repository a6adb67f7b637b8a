"""The command line of `sweeps/run.py`. The values of its options are checked by `sweeps.spec.load`."""

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.cli.mistyped import SweepParser, choice_hint
from sweeps.rundir.folder import RUNS
from sweeps.spec.load import FLAGS
from sweeps.spec.settings import METHODS, OFF, OPTUNA, SCHEDULERS, is_own, mask_password

SCRIPT = "python sweeps/run.py"
AUTO = Path("--resume=auto")  # no path that a user can give
LOOPBACK = "127.0.0.1"
FIXED = ("config", "name", "compare")  # cannot change when a sweep is resumed

_ROOT = Path(__file__).resolve().parents[2]
CONFIGS = next(path for name in ("lmsweep_configs", "configs") if (path := _ROOT / name).is_dir())
"""The shipped configs: a package beside this one where lmsweep is installed, configs/ in a checkout."""
DEFAULT_CONFIG = CONFIGS / "quick.yaml"

DESCRIPTION = """\
Search the hyperparameters of small Transformer language models with Ray Tune and Optuna. A YAML file describes the
sweep, options change it, and all results go to runs/<name>. Where an option is not given, the file decides.
"""

EXAMPLES = """\
examples:
  {prog} --search optuna
      the quick sweep: two model sizes, a few minutes on two CPU cores
  {prog} --set data.source=my_text.txt --set train.steps=1000 --name mine --trials 32
      your own text, longer runs, more trials
  {prog} --resume runs/quick --trials 32
      continue a sweep that was stopped or killed, or add trials to it

exit codes:
  0 a trial completed   2 wrong input   3 another process uses the run's folder
  1 no trial completed, or the disk is full or the cluster gone
  129 terminal closed   130 interrupted   143 terminated
  After 1, 129, 130 and 143 the sweep can be resumed.
"""


@dataclass(frozen=True)
class Options:
    """The parsed command line; None for an option that was not given."""

    config: Path
    resume: Path | None
    """The folder of a sweep; AUTO for runs/<name> if it holds one."""
    retry: str | None
    runs: Path
    search: str | None
    start_with: str | None
    """The folder of another sweep, or its name."""
    scheduler: str | None
    trials: int | None
    time: str | None
    compare: list[str] | None
    seed: int | None
    slots: int | str | None
    set: tuple[str, ...]
    """`PATH=VALUE` texts, in order."""
    name: str | None
    address: str | None
    dashboard: bool
    dashboard_host: str
    wandb: str | None
    storage: str | None
    dry_run: bool
    tokens_per_s: tuple[str, ...]
    """`N` or `SIZE=N` texts; see `sweeps.cli.rates`."""
    measure: bool
    timings: bool

    @property
    def flags(self) -> dict[str, Any]:
        """The options that `load_spec` takes as keyword arguments."""
        return {name: getattr(self, name) for name in FLAGS}


def parser(prog: str = SCRIPT) -> argparse.ArgumentParser:
    """The parser of the command line. A mistake is reported in one line, with exit code 2."""
    p = SweepParser(
        prog=prog,
        usage=f"{prog} [-h] [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES.format(prog=prog),
        allow_abbrev=False,
    )
    start = p.add_argument_group("start or continue")
    start.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"a YAML file, or a shipped sweep: {', '.join(shipped_configs())} (default: quick)",
    )
    start.add_argument("--name", help="name of the run's folder in runs/")
    start.add_argument("--runs", type=Path, metavar="DIR", help="where runs' folders are (default: runs)")
    start.add_argument(
        "--resume",
        type=lambda text: AUTO if text == "auto" else Path(text),
        metavar="RUN|auto",
        help="continue the sweep in this folder, with --trials extend it; auto: that of runs/<name>, if there is one",
    )
    start.add_argument("--retry", choices=("failed",), help="with --resume: train failed trials again, as new trials")
    start.add_argument("--start-with", metavar="RUN", help="try the best settings of this run first")
    model = p.add_argument_group("model, data and training")
    model.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="set any field, e.g. optim.lr=1e-3 (no longer searched), 'space.optim.beta2=[0.9, 0.99]' or 'sizes=[]'; "
        "repeatable",
    )
    search = p.add_argument_group("what is tried")
    search.add_argument(
        "--search",
        type=_method,
        metavar="METHOD",
        help=f"{', '.join(METHODS)}; or your sampler, module:Class or hub:package. optuna is gp for 300 trials, "
        "then tpe; experiments runs the file's list",
    )
    search.add_argument(
        "--scheduler", choices=SCHEDULERS, metavar="NAME", help=f"early stopping: {', '.join(SCHEDULERS)}"
    )
    search.add_argument(
        "--compare", type=_paths, metavar="PATH[,PATH]", help="search each choice of these fields on its own"
    )
    search.add_argument("--seed", type=int, metavar="N", help="seed of the search")
    spent = p.add_argument_group("how much is spent")
    spent.add_argument("--trials", type=int, metavar="N", help="number of trials, shared among the sizes")
    spent.add_argument(
        "--time", metavar="DURATION", help="wall time, e.g. 1h30m; without a number of trials, as many as fit"
    )
    spent.add_argument("--dry-run", action="store_true", help="print the resolved config and its cost, then exit")
    spent.add_argument(
        "--measure", action="store_true", help="with --dry-run: how long it takes, by training each size for seconds"
    )
    spent.add_argument(
        "--tokens-per-s",
        action="append",
        default=[],
        metavar="N",
        help="with --dry-run: how long it takes at N tokens/s a trial; SIZE=N for one size; repeatable",
    )
    place = p.add_argument_group("where it runs")
    place.add_argument(
        "--slots", type=_slots, metavar="auto|N", help="trials that each device trains at once; auto measures it"
    )
    place.add_argument("--address", metavar="RAY", help="a Ray cluster (default: RAY_ADDRESS, else this machine)")
    place.add_argument(
        "--storage",
        metavar="URL",
        help="database of the studies (default: study.db in the run's folder); on --resume, it must be given again",
    )
    watch = p.add_argument_group("how it is watched")
    watch.add_argument(
        "--wandb",
        choices=("off", "offline", "online"),
        metavar="MODE",
        help="off, offline or online (default: online if there is an API key, else offline)",
    )
    watch.add_argument("--no-dashboard", dest="dashboard", action="store_false", help="do not start Ray's dashboard")
    watch.add_argument(
        "--dashboard-host", metavar="HOST", default=LOOPBACK, help="where it listens (default: this machine only)"
    )
    watch.add_argument("--timings", action="store_true", help="print at the end when each stage was reached")
    return p


def _paths(text: str) -> list[str]:
    return [path for path in text.split(",") if path]


def _method(text: str) -> str:
    if text not in METHODS and not is_own(text):
        names = ", ".join(METHODS)
        rule = f"must be one of {names}, module:Class or hub:package (got {text!r})"
        raise argparse.ArgumentTypeError(rule + (choice_hint("search", text) or f"; write --search {OPTUNA}"))
    return text


def _slots(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be auto or a number of slots (got {text!r}); write --slots 4")
    return text if text == "auto" else int(text)


def parse(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> Options:
    """Parse `argv`, by default the process's own arguments. A mistake exits with code 2 after one line.

    >>> parse(["--config", "grid", "--trials", "6"]).config.name
    'grid.yaml'
    """
    command_line = parser(prog)
    values = vars(command_line.parse_args(argv))
    if values["resume"] not in (None, AUTO):
        if values["runs"] is not None:
            rule = f"is where new runs go, and --resume names a folder (got both, --runs {values['runs']})"
            command_line.error(f"--runs: {rule}; leave --runs out")
        fixed = [f"--{name}" for name in FIXED if values[name] is not None]
        if fixed:
            command_line.error(
                f"--resume: a resumed sweep keeps its config, name and compare "
                f"(got {', '.join(fixed)}); leave that out, or start another sweep"
            )
        values["config"] = values["resume"] / "sweep.yaml"
    if values["start_with"] is not None and values["resume"] not in (None, AUTO):
        rule = f"is for a new sweep, and --resume continues one (got both, --start-with {values['start_with']})"
        command_line.error(f"--start-with: {rule}; leave one of them out")
    if values["retry"] and values["resume"] is None:
        command_line.error(f"--retry: is for a sweep that is resumed (got {values['retry']}); add --resume RUN")
    if (values["measure"] or values["tokens_per_s"]) and not values["dry_run"]:
        option = "--measure" if values["measure"] else "--tokens-per-s"
        command_line.error(f"{option}: is for the dry run, which was not asked for; add --dry-run, or leave this out")
    if values["measure"] and values["tokens_per_s"]:
        command_line.error("--measure: must not come with --tokens-per-s (got both); leave one out")
    config = DEFAULT_CONFIG if values["config"] is None else find_config(values["config"])
    return Options(
        **{
            **values,
            "runs": values["runs"] or RUNS,
            "config": config,
            "set": tuple(values["set"]),
            "tokens_per_s": tuple(values["tokens_per_s"]),
        }
    )


def shipped_configs() -> list[str]:
    """Names of the configs that come with lmsweep."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def find_config(path: Path) -> Path:
    """`path`, or the shipped config of that name if there is no such file: `ablation` or `ablation.yaml`."""
    shipped = CONFIGS / f"{path.stem}.yaml"
    named = path.name == str(path) and path.suffix in ("", ".yaml")
    return shipped if named and not path.is_file() and shipped.is_file() else path


def resume_command(options: Options, folder: str, storage: str | None, prog: str = SCRIPT, mlflow: str = OFF) -> str:
    """The command that resumes the sweep in `folder`, to be typed where this command was typed.

    The addresses of the studies' database `storage` and of `mlflow` must be given again: no file keeps a password, for
    which `***` stands, and an address that is only in the folder is not followed.
    """
    words = [*_typed(prog), "--resume", folder]
    if options.address is not None:
        words += ["--address", options.address]
    if not options.dashboard:
        words.append("--no-dashboard")
    elif options.dashboard_host != LOOPBACK:
        words += ["--dashboard-host", options.dashboard_host]
    if storage is not None:
        words += ["--storage", mask_password(storage)]
    if mlflow != OFF:
        words += ["--set", f"tracking.mlflow={mlflow}"]
    return shlex.join(words)


def _typed(prog: str) -> list[str]:
    """The command as it was typed, without its arguments; for a notebook or another program, one that does the same."""
    script = Path(sys.argv[0])
    interpreter_and_script = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv[1:])]
    if prog == SCRIPT:
        ours = script.name == "run.py"
        return interpreter_and_script if ours else [sys.executable, str(_ROOT / "sweeps" / "run.py")]
    if script.name == "lmsweep.py":  # python -m lmsweep, python lmsweep.py
        return [*interpreter_and_script, "run"]
    if script.stem != "lmsweep":
        return [sys.executable, str(_ROOT / "lmsweep.py"), "run"]
    return ["lmsweep" if shutil.which("lmsweep") == sys.argv[0] else sys.argv[0], "run"]
