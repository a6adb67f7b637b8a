"""Fixtures of all tests: one torch thread, no network, and a small corpus of real text."""

import os

import numpy as np
import pytest

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# On every CPU `dtype: auto` is float32 here, also in the processes that tests start.
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"
# As sweeps.cluster.auth settles it for a sweep. Ray reads it once, whichever test comes to Ray first.
os.environ.setdefault("RAY_AUTH_MODE", "token")


def pytest_addoption(parser):
    """Here because pytest reads options before it comes to tests/faults."""
    parser.addoption(
        "--faults",
        choices=("smoke", "today", "all"),
        default="smoke",
        help="which of tests/faults: those marked smoke, the part of the others that is due today, or all",
    )
    parser.addoption("--faults-json", metavar="FILE", help="write the table of faults to this file")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Under pytest-xdist, tests that share a cluster, or a control sweep, stay in one process."""
    for item in items:
        if item.path.parent.name == "faults":
            if item.get_closest_marker("ray") or "control" in item.fixturenames:
                item.add_marker(pytest.mark.xdist_group("faults"))
        elif item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(autouse=True)
def _one_thread():
    """Bitwise promises hold for one thread, and two cores are shared by everything that runs."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_tokens():
    """Tokens of a Markov chain over 97 symbols: learnable, and made in no time."""
    from lmcore.corpus.tokens import Tokens

    rng = np.random.default_rng(0)
    successors = rng.integers(0, 97, size=(97, 4))
    stream = np.empty(24_000, dtype=np.uint16)
    token = 0
    for i, choice in enumerate(rng.integers(0, 4, size=len(stream))):
        token = successors[token, choice]
        stream[i] = token
    return Tokens.of(train=stream[:20_000], val=stream[20_000:], vocab_size=97)
