"""A Ray of the sweep's own on this machine, and why it did not start.

Ray raises exceptions of many kinds while it starts, and gives its node half a minute, which is too short on a busy
machine. Here a start has more time, is tried twice, and ends in one line if both tries failed.
"""

import errno
import logging
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lmcore.runfile.paths import one_line
from sweeps.cluster.lean_start import lean_start
from sweeps.cluster.private_folder import RayStartError, private_folder
from sweeps.cluster.reaper import kill_processes_of, processes_of

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
TRIES = 2
PATIENCE_S = 150.0
"""How long Ray's node may take to appear, as long as its process lives."""
REMEDIES = (
    (r"AF_UNIX|socket.*too long|File name too long", "set RAY_TMPDIR to a folder with a short path"),
    (
        r"in use|EADDRINUSE|[Ff]ailed to bind|\bport\b",
        "end the program that holds the port, or unset RAY_*_PORT",
    ),
    (r"[Tt]imed? ?out|overloaded|[Dd]eadline", "run it again when the machine is less busy"),
    (r"temporarily unavailable|can't start new thread|Too many open files", "raise `ulimit -u` and `ulimit -n`"),
    (r"[Mm]emory", "free memory, also in /dev/shm"),
    (r"No module named|cannot import|undefined symbol", "install it again with `pip install -c constraints.txt '.'`"),
)
"""What to do, by what Ray says; the first that fits."""
OTHERWISE = "run it again, and read the logs if it repeats itself"


@contextmanager
def local_ray(
    dashboard: str | None,
    remove_later: Callable[[Path], None],
    say: Callable[[str], None] = print,
    meanwhile: Callable[[], object] = lambda: None,
) -> Iterator[Any]:
    """Start Ray with its files in a private folder; stop it and delete the folder at the end. Yields Ray's context.

    `sweeps.cluster.auth.require_token` comes first. The arguments are those of `sweeps.cluster.connect`. The dashboard
    is not started yet: see `sweeps.cluster.late_dashboard`.

    Raises:
        RayStartError: it did not start, or there is no safe place for its files.
    """
    with ExitStack() as running:
        yield _start(running, dashboard, remove_later, say, meanwhile)


def why_not_started(error: BaseException) -> str:
    """What Ray said, in one line, and what to do about it.

    >>> why_not_started(Exception("The current node timed out during startup."))
    'Ray did not start (The current node timed out during startup); run it again when the machine is less busy'
    """
    text = one_line(str(error)) or type(error).__name__
    reason = re.split(r"(?<=\.) ", text)[0].rstrip(".")
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, text)), OTHERWISE)
    return f"Ray did not start ({reason}); {remedy}"


def _start(
    running: ExitStack,
    dashboard: str | None,
    remove_later: Callable[[Path], None],
    say: Callable[[str], None],
    meanwhile: Callable[[], object],
) -> Any:
    """Start Ray, at the second try if need be; what ends it is left to `running`."""
    for number in range(1, TRIES + 1):
        try:
            with ExitStack() as attempt:
                context = _init(attempt, attempt.enter_context(private_folder(remove_later)), dashboard, meanwhile)
                running.push(attempt.pop_all())
                return context
        except RayStartError as error:
            if number == TRIES or not error.may_pass:
                raise
            if error.logs is not None:
                shutil.rmtree(error.logs.parents[2], ignore_errors=True)  # the second try leaves logs of its own
            say(f"{str(error).partition(';')[0]}; trying once more")
    raise AssertionError


def _init(attempt: ExitStack, folder: Path, dashboard: str | None, meanwhile: Callable[[], object]) -> Any:
    """`ray.init`; whatever it raises becomes a RayStartError."""
    try:
        import ray

        attempt.callback(ray.shutdown)
        threading.Thread(target=meanwhile, name="meanwhile", daemon=True).start()
        with hangups_delayed(), patience(folder), lean_start():
            # With address="local" Ray never joins a cluster that somebody else started on this machine.
            return ray.init(
                address="local",
                include_dashboard=dashboard is not None,
                dashboard_host=dashboard or "127.0.0.1",
                num_cpus=256,  # as many as it is to claim: enough for all trials that anybody would run at a time
                _temp_dir=str(folder),
                **QUIET,
            )
    except Exception as error:
        kill_processes_of(folder)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # `sweeps.rundir.disk_full` says it
        raise RayStartError(why_not_started(error)) from error


@contextmanager
def patience(folder: Path, seconds: float = PATIENCE_S) -> Iterator[None]:
    """Let Ray wait so long for its node in this block, or not at all once the node's process (the raylet) has ended.

    By itself Ray waits for 30 s in either case.
    """
    from ray._private import services

    ask = services.get_node

    def ask_again(*arguments: Any) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return ask(*arguments)  # type: ignore[no-untyped-call]
            except RuntimeError:
                if Path("/proc").exists() and not processes_of(folder, b"/raylet/raylet"):
                    raise ChildProcessError("its raylet has ended") from None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    services.get_node = ask_again
    try:
        yield
    finally:
        services.get_node = ask


def hangups_delayed() -> AbstractContextManager[None]:
    """Block SIGHUP in a block, and in every process that is started in it for as long as that process lives.

    When a terminal is closed, all of its processes are sent SIGHUP. Ray's must not end before the driver, which still
    saves what is running.
    """
    return _hangups_blocked() if hasattr(signal, "SIGHUP") else nullcontext()


@contextmanager
def _hangups_blocked() -> Iterator[None]:
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
