"""Names of processes in Ray's dashboard."""

from collections.abc import Callable

_set_title: Callable[[str], None] | None = None


def show_in_dashboard(title: str) -> None:
    """Set the title that Ray's dashboard and `ps` show for this process; an actor's own name cannot change.

    Ray sets the title around each call of an actor's method, to the names of class and method and back to that of the
    class, so it would replace this one within a second. From the first title of ours on, it cannot in this process.
    """
    from ray import _raylet

    global _set_title
    if _set_title is None:
        _set_title = _raylet.setproctitle  # type: ignore[attr-defined]
        _raylet.setproctitle = _ignore  # type: ignore[attr-defined]
    assert _set_title is not None
    _set_title(f"ray::{title}")


def _ignore(title: str) -> None:
    """Called by Ray in place of what sets the title."""
