"""What a worker process is called: Ray's dashboard and `ps` show process titles."""


def show_in_dashboard(title: str) -> None:
    """Name this process. An actor's own name is fixed when it is made, and ours serve one trial after the other."""
    from ray._raylet import setproctitle

    setproctitle(f"ray::{title}")
