"""The command `lmsweep`, with one subcommand for each thing to do. See `lmsweep --help`.

Each command is the `main` of one module, and only that module is imported: the list of commands appears without loading
torch, Ray or pandas. In a checkout, `python sweeps/run.py` and the other scripts are the same commands.

    >>> import lmsweep
    >>> lmsweep.main(["run", "--config", "quick", "--dry-run"])  # doctest: +SKIP
    0
"""

import atexit
import difflib
import gc
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

COMMANDS = {
    "run": ("sweeps.run", "search hyperparameters, or resume a search"),
    "status": ("analysis.status", "show how far a sweep is, while it runs or afterwards"),
    "dashboard": ("analysis.dashboard.__main__", "show a sweep on a local page, while it runs or afterwards"),
    "report": ("analysis.report", "write tables, figures and fitted scaling laws"),
    "export": ("sweeps.export", "save a trial's model as a Hugging Face Llama folder"),
    "generate": ("sweeps.generate", "sample text from a trial's model"),
    "replay": ("sweeps.replay", "try a search setting on recorded runs, without training"),
    "coordcheck": ("analysis.coordcheck", "check that activations keep their size as a model widens"),
    "exclude": ("sweeps.exclude", "keep a trial, but have searches and tables ignore it"),
    "cluster-token": ("sweeps.cluster_token", "make a Ray cluster's token, or check that a cluster demands it"),
}
"""Module and summary of each command."""

EXAMPLES = """\
examples:
  lmsweep run                           the quick sweep that comes with lmsweep
  lmsweep run --config grid --dry-run   the cost of another shipped sweep
  lmsweep status runs/quick
  lmsweep report runs/quick
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: the process's arguments) begins with; returns its exit code."""
    if argv is None:  # this process is the command
        atexit.register(gc.freeze)  # or the interpreter would spend 0.6 s on garbage before it exits
    name, *arguments = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if name == "--version":
        print(f"lmsweep {_version()}")
        return 0
    if name not in COMMANDS:
        [nearest] = difflib.get_close_matches(name, COMMANDS, 1, cutoff=0)
        print(f"lmsweep: {name!r} is not a command; did you mean {nearest}? see lmsweep --help", file=sys.stderr)
        return 2
    if name != "run" and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `lmsweep report RUN | head` ends quietly
    code: int = import_module(COMMANDS[name][0]).main(arguments, prog=f"lmsweep {name}")
    return code


def usage() -> str:
    """The help text: every command with its summary."""
    commands = "".join(f"  {name:<15}{summary}\n" for name, (_, summary) in COMMANDS.items())
    return (
        "usage: lmsweep COMMAND ...\n\n"
        "Hyperparameter search for small Transformer language models.\n\n"
        f"commands (lmsweep COMMAND --help describes each):\n{commands}\n"
        f"{EXAMPLES}"
    )


def _version() -> str:
    try:
        return version("lmsweep")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
