"""The coordinate check without its figure: `python -m lmcore.coordinates`. `lmsweep coordcheck` draws it too.

Prints a table of slopes and a verdict, and writes `coordinates.json` to --out. Exit codes: 0 flat; 1 not flat; 2 wrong
input (one line); 130 interrupted.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.coordinates.options import FILE, parser
from lmcore.coordinates.slopes import FLAT, Coordinate, Slopes, means, slopes
from lmcore.durable import write_file
from lmcore.errors import InputError, print_error
from lmcore.runfile.paths import apply
from lmcore.runfile.run_file import load_run
from lmcore.terminal.console import print_out
from lmcore.terminal.table import Column, FittedTable

SMALL = RunSpec(
    model=ModelConfig(d_model=64, num_layers=2, num_heads=4, d_ff=176, context_length=64, parametrization="mup"),
    train=TrainConfig(batch_size=8),
)
"""The run that is widened without --config."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parser("python -m lmcore.coordinates").parse_args(argv)
    try:
        run = _run(options)
        rows = _measure(run, options)
        found = slopes(rows)
        flat = all(one.flat for one in found)
        print_out(f"Mean absolute change of activations by update {options.steps}, by width:\n")
        print_out(_table(rows, found, options.out))
        print_out(f"\n{_verdict(found, flat)}")
        _write(options.out, run, rows, found, flat)
    except InputError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0 if flat else 1


def _run(options: argparse.Namespace) -> RunSpec:
    """The run at the width that it has in the file."""
    run = SMALL if options.config is None else load_run(options.config, options.size)[0]
    if options.parametrization is None:
        return run
    bases: dict[str, Any] = {}
    if options.parametrization == "standard":
        bases = {"model.base_width": None, "model.base_head_dim": None}
    return apply(run, {"model.parametrization": options.parametrization, **bases})


def _measure(run: RunSpec, options: argparse.Namespace) -> list[Coordinate]:
    widths = sorted(set(options.widths))
    if len(widths) < 2:
        raise InputError(f"--widths: must be at least two, to compare (got {widths[0]}); give another")
    # torch takes seconds to import, so mistakes in the command line and the file are reported first.
    from lmcore.coordinates.record import at_width, coordinates
    from lmcore.corpus.prepare import prepare_tokens

    runs = [at_width(run, width) for width in widths]
    _make_folder(options.out)
    tokens = prepare_tokens(run.data)
    return [row for one in runs for row in coordinates(one, tokens, options.steps, options.seeds)]


def _make_folder(out: Path) -> None:
    """Make the folder of the results, before anything is trained. InputError if it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / FILE).touch()
    except OSError as error:
        rule = f"must be a folder that can be written (got {out}: {error.strerror})"
        raise InputError(f"--out: {rule}; give another") from None


def _write(out: Path, run: RunSpec, rows: list[Coordinate], found: list[Slopes], flat: bool) -> None:
    document = {
        "run": run.model_dump(),
        "flat_slope": FLAT,
        "flat": flat,
        "slopes": [{name: _finite(value) for name, value in one._asdict().items()} for one in found],
        "rows": [{name: _finite(value) for name, value in row._asdict().items()} for row in rows],
    }
    write_file(out / FILE, [json.dumps(document, indent=1).encode()])


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(rows: list[Coordinate], found: list[Slopes], out: Path) -> FittedTable:
    """For each kind its change by the last update at every width, and both slopes."""
    last = max(row.step for row in rows)
    widths = sorted({row.width for row in rows})
    columns = [Column("activation"), *(Column(str(width), 1, right=True) for width in widths)]
    slope_columns = [Column("slope", right=True), Column("slope of the size at start", right=True)]
    table = FittedTable([*columns, *slope_columns], more=str(out / FILE))
    for one in found:
        changes = means([row for row in rows if row.kind == one.kind and row.step == last], lambda row: row.change)
        table.add(one.kind, *(f"{changes[width]:.3g}" for width in widths), f"{one.change:+.2f}", f"{one.initial:+.2f}")
    return table


def _verdict(found: list[Slopes], flat: bool) -> str:
    if flat:
        return f"Flat: no slope is steeper than {FLAT}. A learning rate can carry over from width to width."
    steep = ", ".join(one.kind for one in found if not one.flat)
    return f"Not flat, with a slope steeper than {FLAT}: {steep}. The best learning rate will depend on the width."


if __name__ == "__main__":
    sys.exit(main())
