"""Search hyperparameters: `python sweeps/run.py --search optuna`. See `--help`.

Exit codes: 0 done, 1 no trial completed, 2 wrong input (one line, before Ray starts), 3 the folder is in use,
130 interrupted, 143 terminated.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

# As a script this file has sweeps/ in front of sys.path; its neighbours must not pass for top-level modules there.
ROOT = Path(__file__).resolve().parent.parent
if sys.path and Path(sys.path[0]).resolve() == ROOT / "sweeps":
    sys.path[0] = str(ROOT)

from rich.console import Console  # noqa: E402

from lmcore.errors import InputError  # noqa: E402
from sweeps.folder import FolderInUseError, RunFolder  # noqa: E402
from sweeps.options import parse  # noqa: E402
from sweeps.plan import print_plan  # noqa: E402
from sweeps.spec_file import load_spec  # noqa: E402
from sweeps.sweep import run_sweep  # noqa: E402


class TerminatedError(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt it is nobody's to swallow."""


def main(argv: list[str] | None = None) -> int:
    """Parse, validate, run, print the table; the process's exit code."""
    options = parse(argv)
    console = Console(soft_wrap=not sys.stdout.isatty())
    signal.signal(signal.SIGTERM, _terminate)
    try:
        spec = load_spec(options.config, options.set, **options.flags)
        if options.dry_run:
            print_plan(spec)
            return 0
        for note in spec.notes:
            console.print(f"Note: {note}.", highlight=False)
        outcome = run_sweep(spec, options.address, options.dashboard, console)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except FolderInUseError as error:
        print(error, file=sys.stderr)
        return 3
    except (KeyboardInterrupt, TerminatedError) as stop:
        code = 130 if isinstance(stop, KeyboardInterrupt) else 143
        print(f"\nstopped; the ended trials are kept in {RunFolder.named(spec.name).display}", file=sys.stderr)
        return code
    folder = RunFolder.named(spec.name)
    console.print(f"{len(outcome.statuses)} trials in {outcome.seconds:.0f} s\n", highlight=False)
    subprocess.run(
        [sys.executable, "-m", "analysis.report", folder.display],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        check=False,
    )
    return outcome.exit_code


def _terminate(number: int, frame: FrameType | None) -> None:
    raise TerminatedError


if __name__ == "__main__":
    sys.exit(main())
