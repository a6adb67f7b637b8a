"""Search hyperparameters: `python sweeps/run.py --search optuna`. See `--help`.

Exit codes: 0 done, 1 no trial completed, or the disk is full or the cluster gone, 2 wrong input (one line, before Ray
starts), 3 the folder is in use, 130 interrupted, 143 terminated. After 1, 130 and 143 a sweep can be resumed.
"""

import os
import subprocess
import sys
from pathlib import Path

# As a script this file has sweeps/ in front of sys.path; its neighbours must not pass for top-level modules there.
ROOT = Path(__file__).resolve().parent.parent
if sys.path and Path(sys.path[0]).resolve() == ROOT / "sweeps":
    sys.path[0] = str(ROOT)

from rich.console import Console  # noqa: E402

from lmcore.errors import InputError  # noqa: E402
from sweeps.cli.dry_run import print_plan  # noqa: E402
from sweeps.cli.interrupts import Interrupts  # noqa: E402
from sweeps.cli.options import parse, resume_command  # noqa: E402
from sweeps.cluster.auth import check_dashboard_host  # noqa: E402
from sweeps.provenance.resume import resumed_spec  # noqa: E402
from sweeps.rundir.disk_full import UnwritableError, end_sweep_if_unwritable  # noqa: E402
from sweeps.rundir.folder import FolderInUseError, RunFolder  # noqa: E402
from sweeps.spec.load import load_spec  # noqa: E402
from sweeps.spec.settings import without_password  # noqa: E402
from sweeps.spec.sweep_spec import SweepSpec  # noqa: E402
from sweeps.sweep import run_sweep  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Parse, validate, run, print the table; the process's exit code."""
    options = parse(argv)
    console = Console(soft_wrap=not sys.stdout.isatty())
    interrupts = Interrupts()
    interrupts.install()
    folder = None
    try:
        if options.resume is None:
            spec = load_spec(options.config, options.set, **options.flags)
        else:
            folder = RunFolder.of_sweep(options.resume)
            spec = resumed_spec(folder, options.set, **options.flags)
        if options.dry_run:
            print_plan(spec)
            return 0
        for note in spec.notes:
            console.print(f"Note: {note}.", highlight=False)
        folder = folder or RunFolder.named(spec.name)
        dashboard = options.dashboard_host if options.dashboard else None
        check_dashboard_host(options.dashboard_host)
        interrupts.remedy = f"; go on with {resume_command(options, folder.display, asked_for_again(spec))}"
        resume = options.resume is not None
        with end_sweep_if_unwritable(full_disks_only=True):
            outcome = run_sweep(spec, folder, options.address, dashboard, console, interrupts, resume)
        console.print(f"{len(outcome.statuses)} trials in {outcome.seconds:.0f} s\n", highlight=False)
        # -P: not an analysis/ of the user's
        table = [sys.executable, "-P", "-m", "analysis.report", "--brief", folder.display]
        report = subprocess.run(
            table,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
            check=False,
        )
        if report.returncode:
            print(f"no table; try again: python analysis/report.py {folder.display}", file=sys.stderr)
        return outcome.exit_code
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except UnwritableError as error:
        assert folder is not None
        begun = folder.sweep_yaml.exists()
        print(f"\n{error.line(folder.path)}{interrupts.remedy if begun else ''}", file=sys.stderr)
        return 1
    except FolderInUseError as error:
        print(error, file=sys.stderr)
        return 3
    except (KeyboardInterrupt, SystemExit) as stop:  # SystemExit is how Ray takes a SIGTERM while it starts
        begun = folder is not None and folder.sweep_yaml.exists()
        print(f"\nstopped{interrupts.remedy if begun else ''}", file=sys.stderr)
        return 143 if isinstance(stop, SystemExit) else interrupts.exit_code


def asked_for_again(spec: SweepSpec) -> str | None:
    """The address of the studies, with *** for its password, where it has one: sweep.yaml does not keep that."""
    if spec.search.storage is None:
        return None
    shown = without_password(spec.search.storage)
    return None if shown == spec.search.storage else shown


if __name__ == "__main__":
    sys.exit(main())
