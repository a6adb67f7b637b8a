"""Names of processes in Ray's dashboard."""

import os
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


def device_name(device: str) -> str:
    """The device of this process for people: with the number that the machine, not CUDA, knows the GPU by.

    >>> device_name("cpu")
    'cpu'
    """
    # Ray gives each engine a GPU of its own in CUDA_VISIBLE_DEVICES, so inside it is always cuda:0.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return f"{device}:{visible}" if device == "cuda" and visible else device


def _ignore(title: str) -> None:
    """Called by Ray in place of what sets the title."""
