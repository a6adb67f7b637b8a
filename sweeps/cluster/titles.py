"""Names of processes in Ray's dashboard."""


def show_in_dashboard(title: str) -> None:
    """Set the title that Ray's dashboard and `ps` show for this process; an actor's own name cannot change."""
    from ray._raylet import setproctitle  # type: ignore[attr-defined]

    setproctitle(f"ray::{title}")
