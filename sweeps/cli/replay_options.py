"""The command line of `lmsweep replay`. The values of its options are checked by `sweeps.spec.load`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lmcore.errors import number_type
from sweeps.cli.mistyped import SweepParser
from sweeps.cli.options import DEFAULT_CONFIG, find_config
from sweeps.rundir.folder import RUNS
from sweeps.spec.settings import METHODS, SCHEDULERS

DESCRIPTION = """\
Try a search setting on recorded runs, in seconds and without training.

The sweep of a config is run through its own search and early stopping on a virtual clock. A trial whose setting was
recorded gets its recorded losses; any other gets a prediction from the recorded ones. The result is a run's folder.
"""
EXAMPLES = """\
examples:
  {prog} --config quick --from runs/quick --slots 4
      the trials of a finished sweep are the recorded runs
  {prog} --config my.yaml --from curves.parquet --slots 8 --scheduler median
      a table with one row for each report of a run
  {prog} --config my.yaml --from finals.csv --column optim.lr=lr --column val_loss=loss --scheduler none
      a table of final losses
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The parser of the command line. A mistake is reported in one line, with exit code 2."""
    p = SweepParser(
        prog=prog,
        usage=f"{prog} [-h] --from SOURCE [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES.format(prog=prog),
        allow_abbrev=False,
    )
    recorded = p.add_argument_group("recorded runs")
    recorded.add_argument(
        "--from", dest="source", required=True, type=Path, metavar="SOURCE", help="a CSV or Parquet table, or a run"
    )
    recorded.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="PATH=COLUMN",
        help="the table's column for a field, or for run, step, val_loss, final_val_loss, size or seed; repeatable",
    )
    sweep = p.add_argument_group("the sweep")
    sweep.add_argument("--config", type=Path, metavar="FILE", help="a YAML file, or a shipped sweep (default: quick)")
    sweep.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field; repeatable")
    sweep.add_argument("--search", choices=METHODS, metavar="METHOD", help=", ".join(METHODS))
    sweep.add_argument(
        "--scheduler", choices=SCHEDULERS, metavar="NAME", help=f"early stopping: {', '.join(SCHEDULERS)}"
    )
    sweep.add_argument("--trials", type=int, metavar="N", help="number of trials")
    sweep.add_argument("--seed", type=int, metavar="N", help="seed of the search")
    sweep.add_argument("--name", help="name of the run's folder in runs/ (default: the file's, followed by -replay)")
    sweep.add_argument("--runs", type=Path, metavar="DIR", default=RUNS, help="where runs' folders are (default: runs)")
    clock = p.add_argument_group("the virtual clock")
    whole = number_type(int, "a whole number >= 1", lambda n: n >= 1)
    clock.add_argument("--slots", type=whole, metavar="N", default=1, help="trials at a time (default: 1)")
    positive = number_type(float, "a number > 0", lambda n: n > 0)
    clock.add_argument(
        "--flops-per-s", type=positive, metavar="N", default=1e11, help="speed of one slot (default: 1e11)"
    )
    return p


def parse(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Parse `argv`, by default the process's own arguments. A mistake exits with code 2 after one line.

    >>> parse(["--from", "curves.parquet", "--column", "optim.lr=lr"], "lmsweep replay").column
    {'optim.lr': 'lr'}
    """
    command_line = parser(prog)
    values = command_line.parse_args(argv)
    columns = {}
    for text in values.column:
        name, equals, column = text.partition("=")
        if not equals:
            command_line.error(f"--column: must read PATH=COLUMN (got {text!r}); write for example optim.lr=lr")
        if name in columns:
            command_line.error(f"--column: must name each field once (got {name} twice); leave one out")
        columns[name] = column
    values.column = columns
    values.config = DEFAULT_CONFIG if values.config is None else find_config(values.config)
    return values
