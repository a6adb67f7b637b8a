"""A Ray of the sweep's own on this machine."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeps.cluster.private_folder import private_folder

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


@contextmanager
def local_ray(dashboard: str | None, remove_later: Callable[[Path], None]) -> Iterator[Any]:
    """Start Ray with its files in a private folder; stop it and delete the folder at the end. Yields Ray's context.

    `sweeps.cluster.auth.require_token` comes first. The arguments are those of `sweeps.cluster.connect`.
    """
    import ray

    with private_folder(remove_later) as folder:
        try:
            with hangups_delayed():
                # With address="local" Ray never joins a cluster that somebody else started on this machine.
                context = ray.init(
                    address="local",
                    include_dashboard=dashboard is not None,
                    dashboard_host=dashboard or "127.0.0.1",
                    num_cpus=256,  # as many as it is to claim: enough for all trials that anybody would run at a time
                    _temp_dir=str(folder),
                    **QUIET,
                )
            yield context
        finally:
            ray.shutdown()


@contextmanager
def hangups_delayed() -> Iterator[None]:
    """Block SIGHUP in this block, and in every process that is started in it for as long as that process lives.

    When a terminal is closed, all of its processes are sent SIGHUP. Ray's must not end before the driver, which still
    saves what is running.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
