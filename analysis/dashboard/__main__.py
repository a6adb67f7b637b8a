"""A local page that shows a sweep: `lmsweep dashboard RUN`, or `python -m analysis.dashboard RUN`.

The folder is only read, so this works while the sweep runs, after a crash, after the end, and from any machine that
sees the folder. Exit codes: 0 after Ctrl-C; 2 with one line on stderr when the folder is not a sweep's or is damaged,
when no trial has started and no process runs the sweep, or when the port is taken.
"""

import argparse
import signal
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from analysis.dashboard.server import LOOPBACK, make_server
from analysis.runs.driver import driver_of
from analysis.runs.load import load
from analysis.runs.manifest import RunError, read_manifest
from lmcore.errors import InputError, OneLineParser, print_error
from lmcore.study_database import STORAGE_HELP, confirmed_storage

SCRIPT = "python -m analysis.dashboard"
HIGHEST_PORT = 65535
EXAMPLES = """\
examples:
  {prog} runs/quick
      prints the page's address, and shows it until Ctrl-C
  {prog} runs/quick --port 8300 --open
      always at the same address, and opened at once
"""


def main(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> int:
    """Serve the page until Ctrl-C, and return the exit code. `prog` is the command as the user typed it."""
    description = "Show a sweep on a local page, while it runs or afterwards."
    parser = OneLineParser(prog=prog, description=description, epilog=EXAMPLES.format(prog=prog), allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="the sweep's folder: runs/<name>")
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser of this machine")
    parser.add_argument("--storage", metavar="URL", help=STORAGE_HELP)
    options = parser.parse_args(argv)
    try:
        check(options.run, options.storage)
        server = make_server(options.run, options.storage, options.port)
    except (RunError, InputError) as error:
        print_error(error)
        return 2
    except OSError as error:
        rule = f"--port must be a free port of {LOOPBACK} that you may use, but {options.port} is not"
        print_error(f"{rule} ({error.strerror}); choose another, or leave it out for a free one")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), server:
        print(server.url, flush=True)
        print("Open it in a browser on this machine. Ctrl-C ends the page; the sweep goes on.", flush=True)
        if options.open:
            webbrowser.open(server.url)
        server.serve_forever()
    return 0


def check(folder: Path, storage: str | None) -> None:
    """Raise RunError or InputError if there will be nothing to show. A sweep that has only begun is waited for."""
    alive = driver_of(folder).alive
    try:
        manifest = read_manifest(folder)
        confirmed_storage(manifest.get("storage"), storage, str(folder / "manifest.json"))
        if not alive:
            load(folder, storage)
    except RunError:
        if not alive:
            raise


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"must be from 1 to {HIGHEST_PORT} (got {text})")
    return port


if __name__ == "__main__":
    sys.exit(main())
