"""Ray's dashboard of a cluster that this process started, started once trials train.

Its server takes more than two seconds of CPU to start, which the training processes need first.
"""

import threading
from collections.abc import Callable
from types import TracebackType

from lmcore.runfile.paths import one_line
from sweeps.cluster.dashboard import dashboard_line
from sweeps.cluster.local_ray import hangups_delayed
from sweeps.cluster.reaper import kill_processes_of

WAIT_S = 3.0
"""How long after `start` the server is started: the proxies of the first trials start then, too."""
END_S = 5.0
SERVER = b"/dashboard/dashboard.py"


class LateDashboard:
    """A block at whose end the dashboard, if it was started, is ended.

    Args:
        host: where it listens; None for no dashboard.
        private: whether the user alone reads what `say` prints (`sweeps.cluster.dashboard.dashboard_line`).
        say: called with the line that tells its address, or why it did not start. Called from a thread.
        wait_s: how long `start` waits.

    Example:
        with LateDashboard("127.0.0.1", private=True, say=print) as dashboard:
            dashboard.start()
            tune_all(order, pool, callbacks, folder, concurrent=4)
    """

    def __init__(self, host: str | None, private: bool, say: Callable[[str], None], wait_s: float = WAIT_S) -> None:
        self._host = host
        self._private = private
        self._say = say
        self._wait_s = wait_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="Ray dashboard", daemon=True)

    def __enter__(self) -> "LateDashboard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._thread.ident is None:
            return
        from ray._private.worker import _global_node

        # The server would take a second to end, for which `ray.shutdown` would wait.
        if _global_node is not None:
            kill_processes_of(_global_node.get_session_dir_path(), SERVER)
        self._thread.join(END_S)

    def start(self) -> None:
        """Start the dashboard in a few seconds. Returns at once."""
        if self._host is not None:
            self._thread.start()

    def _serve(self) -> None:
        """Start the server and wait: Linux kills a process of Ray's when the thread ends that started it."""
        if self._over.wait(self._wait_s):
            return
        try:
            url = start_dashboard()
        except Exception as error:  # Ray raises exceptions of many kinds; a sweep can do without the dashboard
            if not self._over.is_set():
                reason = one_line(str(error)) or type(error).__name__
                self._say(f"Note: Ray's dashboard did not start ({reason}); the sweep goes on without it.")
            return
        with dashboard_line(url, self._private) as line:
            self._say(line)
            self._over.wait()


def start_dashboard() -> str:
    """Start the dashboard's server on the host that `ray.init` was given; returns its address.

    >>> start_dashboard()  # doctest: +SKIP
    'http://127.0.0.1:8265'
    """
    from ray._private.worker import _global_node

    if _global_node is None:
        raise ConnectionError("Ray has ended")
    with hangups_delayed():
        _global_node.start_api_server(include_dashboard=True, raise_on_failure=True)
    return f"http://{_global_node.webui_url}"
