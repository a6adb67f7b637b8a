"""The command line of the coordinate check, which `python -m lmcore.coordinates` and `lmsweep coordcheck` share."""

from pathlib import Path

from lmcore.errors import OneLineParser, number_type

DESCRIPTION = """\
Coordinate check: train models of several widths for a few updates, and see whether their activations keep their size.

With muP (model.parametrization: mup) they do, and a learning rate that suits a narrow model suits a wide one. The exit
code is 0 if all slopes are flat, and 1 if not.
"""
EXAMPLES = """\
examples:
  {prog}
      a small model on the standard library, with muP
  {prog} --parametrization standard
      the same without, which fails
  {prog} --config my.yaml --widths 128 256 512 1024 --out check
      the last size of a sweep's file, with its data and optimizer
"""
FILE = "coordinates.json"
"""What is written to --out: every number, the slopes and the verdict."""


def parser(prog: str) -> OneLineParser:
    """The parser; `prog` is the command as the user typed it."""
    p = OneLineParser(prog=prog, description=DESCRIPTION, epilog=EXAMPLES.format(prog=prog), allow_abbrev=False)
    p.add_argument("--config", metavar="FILE", help="a sweep's YAML file; its base run is widened (default: none)")
    p.add_argument("--size", metavar="NAME", help="which of the file's sizes (default: the last)")
    p.add_argument(
        "--parametrization",
        choices=("standard", "mup"),
        help="instead of the file's model.parametrization (default without a file: mup)",
    )
    count = number_type(int, "a whole number >= 1", lambda n: n >= 1)
    p.add_argument(
        "--widths", type=count, nargs="+", default=[64, 128, 256, 512], metavar="D", help="default: 64 128 256 512"
    )
    p.add_argument("--steps", type=count, default=5, metavar="N", help="updates (default: 5)")
    p.add_argument("--seeds", type=count, default=2, metavar="N", help="seeds to average over (default: 2)")
    p.add_argument("--out", type=Path, default=Path("coordcheck"), metavar="DIR", help="folder (default: coordcheck)")
    return p
