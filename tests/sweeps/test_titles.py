"""Processes keep the titles that they are given, whatever methods of theirs are called."""

import subprocess

import pytest
import ray

TITLE = "engine 0: xs-0000, xs-0001"


def worker():
    """The class of an asyncio actor, like the training worker. Made here, so that Ray pickles it by value."""

    class Worker:
        async def show(self, title):
            import os

            from sweeps.cluster.titles import show_in_dashboard

            show_in_dashboard(title)
            return os.getpid()

        async def ping(self):
            pass

    return Worker


def proxy():
    """The class of an actor whose methods run in its main thread, like a trial's proxy."""

    class Proxy:
        def show(self, title):
            import os

            from sweeps.cluster.titles import show_in_dashboard

            show_in_dashboard(title)
            return os.getpid()

        def ping(self):
            pass

    return Proxy


@pytest.mark.ray
@pytest.mark.parametrize("make", [worker, proxy])
def test_a_title_stays_when_methods_are_called(make, cluster):
    actor = ray.remote(make()).remote()
    pid = ray.get(actor.show.remote(TITLE))
    for _ in range(3):
        ray.get(actor.ping.remote())
    shown = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == f"ray::{TITLE}"
    ray.kill(actor)
