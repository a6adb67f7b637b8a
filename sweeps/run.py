"""Search hyperparameters: `python sweeps/run.py --search optuna`, or `lmsweep run`. See `--help`.

Exit codes: 0 a trial completed; 1 none did, or the disk is full, or the database, the folder or the cluster is gone;
2 wrong input (one line, before Ray starts); 3 another process uses the folder; 129 the terminal was closed; 130
interrupted; 143 terminated. After 1, 129, 130 and 143 the sweep can be resumed.
"""

import atexit
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: import from the checkout, and no file of sweeps/ as a top-level module
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from lmcore.errors import InputError, print_error
from lmcore.terminal.width import terminal_width
from sweeps.cli.dry_run import print_plan
from sweeps.cli.final_tables import FinalTables
from sweeps.cli.interrupts import Interrupts, is_guest
from sweeps.cli.options import AUTO, SCRIPT, Options, parse, resume_command
from sweeps.cli.output import RESUME, fit_hint, lasting_output, plain_lines
from sweeps.cli.rates import Rates, given_rates, measured_rates
from sweeps.cli.start_with import start_with_run
from sweeps.cli.supported import check_system
from sweeps.cli.timings import Timings
from sweeps.cluster.auth import check_dashboard_host
from sweeps.cluster.private_folder import RayStartError
from sweeps.provenance.replayed import check_trained
from sweeps.provenance.resume import resumed_spec
from sweeps.provenance.same_sweep import resumed_as
from sweeps.provenance.sweep_file import check_unedited
from sweeps.provenance.timed import keep_timings
from sweeps.rundir.disk_full import UnwritableError, end_sweep_if_unwritable
from sweeps.rundir.folder import FolderInUseError, RunFolder
from sweeps.rundir.kept_data import find_data, gone_note, kept_fingerprint, tokens_beside
from sweeps.rundir.leftovers import holds_nothing, is_whole
from sweeps.rundir.ray_job import check_lasting
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.sweep import run_sweep


@lasting_output()
def main(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> int:
    """Run the sweep that the command line describes, print its table, and return the exit code.

    Args:
        argv: the arguments; by default those of this process.
        prog: the command as the user typed it, for help and hints.
    """
    timings = Timings.of_command()
    timings.mark("command_imported")
    try:
        options = parse(argv, prog)
    except SystemExit as stop:  # after --help, or a mistake that has been printed
        if not is_guest():
            raise
        return int(stop.code or 0)
    console = Console(soft_wrap=not sys.stdout.isatty())
    say = plain_lines(console)
    interrupts = Interrupts()
    interrupts.say = say
    interrupts.install()
    folder = None

    def resume_hint() -> str:
        return interrupts.resume_hint if folder is not None and folder.sweep_yaml.exists() else ""

    try:
        spec, folder, resume = load_sweep(options)
        timings.mark("config_read")
        kept = kept_tokens(options, folder, resume)
        retry = resume and options.retry is not None
        if options.retry is not None and not resume:
            say(f"Note: {folder.display} holds no sweep yet, so --retry has no effect.")
        if options.dry_run:
            gone = find_data(spec.data, kept)
            print_plan(spec, rates=rates_for(spec, options))
            if gone is not None and not resume:
                say(f"Note: {gone_note(gone)}.")
            if retry:
                say("Note: failed trials that --retry trains again are not counted.")
            return 0
        check_system(prog)
        for note in spec.notes:
            say(f"Note: {note}.")
        check_lasting(folder)
        check_dashboard_host(options.dashboard_host)
        dashboard = options.dashboard_host if options.dashboard else None
        again = resume_command(options, folder.display, spec.search.storage, prog, spec.tracking.mlflow)
        interrupts.resume_hint = f"{RESUME}{again}"
        with FinalTables(folder, prog, spec.search.storage, console) as tables:
            with end_sweep_if_unwritable(full_disks_only=True):
                outcome = run_sweep(
                    spec,
                    folder,
                    options.address,
                    dashboard,
                    console,
                    interrupts,
                    resume,
                    kept,
                    retry,
                    anew=options.resume is AUTO,
                    timings=timings,
                    on_last_trials=tables.prepare,
                )
            say(f"{len(outcome.statuses)} trials in {outcome.seconds:.0f} s\n")
            tables.print()
        timings.mark("tables_made")
        keep_timings(folder, timings.stages)
        if options.timings:
            say(f"\n{timings.table()}")
        return outcome.exit_code
    except InputError as error:
        print_error(error)
        return 2
    except RayStartError as error:
        print(f"{error}{resume_hint()}", file=sys.stderr)
        return 1
    except FolderInUseError as error:
        print_error(error)
        return 3
    except UnwritableError as error:
        assert folder is not None
        print(f"\n{error.line(folder.path)}{resume_hint() if error.resumable else ''}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, SystemExit) as stop:  # Ray turns SIGTERM into SystemExit while it starts
        if interrupts.ended_with is None:  # otherwise it has been said why
            print(f"\n{fit_hint(f'stopped{resume_hint()}', terminal_width(sys.stderr))}", file=sys.stderr)
        return 143 if isinstance(stop, SystemExit) else interrupts.exit_code
    finally:
        interrupts.restore()


def load_sweep(options: Options) -> tuple[SweepSpec, RunFolder, bool]:
    """The sweep, its folder, and whether it is resumed: a new one, or with `--resume` the one that was started there.

    Raises:
        InputError: the file, an option, or the folder to resume is wrong.
    """
    if options.resume not in (None, AUTO):
        folder = RunFolder.of_sweep(options.resume)
        check_trained(folder)
        check_unedited(folder)
        return resumed_spec(folder, options.set, **options.flags), folder, True
    spec = load_spec(options.config, options.set, **options.flags)
    if options.start_with is not None:
        spec = start_with_run(spec, options.start_with, options.runs)
    folder = RunFolder.named(spec.name, options.runs)
    if options.resume is AUTO and is_whole(folder.sweep_yaml):
        check_unedited(folder)  # also if the sweep starts anew: what was edited would be lost
        if not holds_nothing(folder):
            check_trained(folder)
            return resumed_as(spec, folder), folder, True
    return spec, folder, False


def kept_tokens(options: Options, folder: RunFolder, resume: bool) -> Path | None:
    """Where the tokens are if the data's own files are gone: in the folder of the run that is resumed, or of the run
    that wrote the config, unless `--set` names other data."""
    if resume:
        return folder.tokens if kept_fingerprint(folder.tokens) is not None else None
    if any(text.startswith("data.") for text in options.set):
        return None
    return tokens_beside(options.config)


def rates_for(spec: SweepSpec, options: Options) -> Rates | None:
    """How fast trials train, for the dry run: measured (imports torch), given, or not known."""
    if options.measure:
        return measured_rates(spec)
    return given_rates(options.tokens_per_s, spec.size_names) if options.tokens_per_s else None


if __name__ == "__main__":
    atexit.register(gc.freeze)  # or the interpreter would spend 0.6 s on garbage before it exits
    sys.exit(main())
