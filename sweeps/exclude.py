"""Exclude trials from a sweep, or include them again: `lmsweep exclude RUN TRIAL`. See `--help`.

Exit codes: 0 done; 1 the marks cannot be written: the disk is full, the database is gone, or the folder is read-only; 2
wrong input (one line, nothing changed); 3 a process runs the sweep; 130 interrupted.
"""

import argparse
import difflib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lmcore.errors import InputError, OneLineParser, print_error
from lmcore.printable import printable
from lmcore.run_folders import run_hint
from lmcore.study_database import STORAGE_HELP, check_journal, confirmed_storage, mask_password
from sweeps.rundir.disk_full import UnwritableError, end_sweep_if_unwritable
from sweeps.rundir.folder import FolderInUseError, RunFolder
from sweeps.spec.load import load_kept
from sweeps.spec.sweep_spec import SweepSpec

PROG = "lmsweep exclude"
DESCRIPTION = """\
Exclude trials, for example those that a faulty machine has spoilt.

They are kept and marked, and ignored from then on by the search, by early stopping, by the confirmation (with the runs
that confirm them) and by all tables. The report says which trials are excluded, and why.
"""
EXAMPLES = """\
examples:
  {prog} runs/quick xs-0003 --because "node7 had bad memory"
      mark a trial, and say why
  {prog} runs/quick xs-0003 --include
      take it back
"""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Mark the trials, say so, and return the exit code.

    >>> main(["runs/quick", "xs-0003", "--because", "node7 had bad memory"])  # doctest: +SKIP
    Excluded: xs-0003 (node7 had bad memory)
    Take it back with: lmsweep exclude runs/quick xs-0003 --include
    The search, the confirmation and best/ follow when the sweep is resumed: lmsweep run --resume runs/quick
    0
    """
    options = _parser(prog).parse_args(argv)
    try:
        if options.include and options.because is not None:
            raise InputError("--because: says why trials are excluded, and --include takes that back; leave one out")
        folder = RunFolder(options.run.absolute())
        if not folder.sweep_yaml.is_file():
            rule = f"must be the folder of a sweep, with its sweep.yaml (got {options.run})"
            raise InputError(f"RUN: {rule}; give {run_hint(options.run)}")
        spec = load_kept(folder.sweep_yaml)
        place = f"{folder.display}/sweep.yaml"
        spec = _stored_at(spec, confirmed_storage(spec.search.storage, options.storage, place))
        with end_sweep_if_unwritable(), folder.claimed(resume=True):
            _change(spec, folder, options.trials, options.include, options.because or "")
    except InputError as error:
        print_error(error)
        return 2
    except FolderInUseError as error:
        print(f"{str(error).partition(';')[0]}; stop the sweep first", file=sys.stderr)
        return 3
    except UnwritableError as error:
        print_error(error.line(folder.path))
        return 1
    except KeyboardInterrupt:
        return 130
    words = [*prog.split(), folder.display, *options.trials]
    named = [] if spec.search.storage is None else ["--storage", mask_password(spec.search.storage)]
    if options.include:
        print(f"Included again: {', '.join(options.trials)}")
    else:
        print(f"Excluded: {', '.join(options.trials)}{f' ({printable(options.because)})' if options.because else ''}")
        print(f"Take it back with: {shlex.join([*words, '--include', *named])}")
    resume = shlex.join(["lmsweep", "run", "--resume", folder.display, *named])
    print(f"The search, the confirmation and best/ follow when the sweep is resumed: {resume}")
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        description=DESCRIPTION,
        epilog=EXAMPLES.format(prog=prog),
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the sweep's folder: runs/<name>")
    parser.add_argument("trials", nargs="+", metavar="TRIAL", help="ids of trials, e.g. xs-0003")
    parser.add_argument("--because", metavar="TEXT", help="why, for the report")
    parser.add_argument("--include", action="store_true", help="include the trials again")
    parser.add_argument("--storage", metavar="URL", help=STORAGE_HELP)
    return parser


def _stored_at(spec: SweepSpec, storage: str | None) -> SweepSpec:
    return spec.model_copy(update={"search": spec.search.model_copy(update={"storage": storage})})


def _change(spec: SweepSpec, folder: RunFolder, trials: Sequence[str], include: bool, because: str) -> None:
    """Mark the trials in the studies, or take the marks away. Raises InputError if one is unknown."""
    # Optuna is imported once the command line has been checked.
    from sweeps.study.claims import check_claims
    from sweeps.study.excluded import Exclusions
    from sweeps.study.integrity import check_file
    from sweeps.study.storage import open_storage

    check_journal(folder.study_db)
    if spec.search.storage is None:
        if not folder.study_db.is_file():
            raise InputError(f"{folder.display}: must hold study.db, but has none; run the sweep first")
        check_file(folder.study_db, {}, f"{folder.display}/study.db")
    storage = open_storage(spec.search.storage, folder)
    try:
        check_claims(storage, [spec.study_name(plan) for plan in (*spec.studies, *spec.confirmations)], resume=True)
        exclusions = Exclusions(spec, storage)
        known = exclusions.trials
        for trial in trials:
            if trial not in known:
                nearest = difflib.get_close_matches(trial, known, 3, cutoff=0)
                rule = f"must be a trial of {folder.display} that has started (got {trial!r})"
                raise InputError(f"TRIAL: {rule}; the nearest are {', '.join(nearest) or 'none'}")
            if include and trial not in exclusions.reasons:
                raise InputError(f"--include: {trial} is not excluded; leave it out")
        if include:
            exclusions.remove(trials)
        else:
            exclusions.add(trials, because)
    finally:
        storage.engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
