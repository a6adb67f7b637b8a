"""One Ray cluster for all tests that need one in this process."""

import pytest


@pytest.fixture(scope="session")
def cluster():
    """A local cluster of two CPUs without a dashboard."""
    from sweeps.cluster.connect import connect

    with connect(None, dashboard=None) as cluster:
        yield cluster


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """A working directory of its own, so that runs/ goes there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
