"""Fixtures of all tests: one torch thread, no network, and a small corpus of real text."""

import os
import signal

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: several processes share two cores

import hypothesis
import numpy as np
import pytest

# The same examples in every run, however busy the machine is.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# On every CPU `dtype: auto` is float32 here, also in the processes that tests start.
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"
# By default 15: whatever else runs on the machine would leave a sweep next to nothing.
os.environ.setdefault("RAY_worker_niceness", "0")
# As sweeps.cluster.auth settles it for a sweep. Ray reads it once, whichever test comes to Ray first.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# nohup and a shell's `&` leave these ignored, also in the processes that tests start and interrupt.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_addoption(parser):
    """Here because pytest reads options before it comes to tests/faults."""
    parser.addoption(
        "--faults",
        choices=("files", "today", "all"),
        default="files",
        help="which of tests/faults: without sweeps; sweeps marked smoke and the part of the others due today; or all",
    )
    parser.addoption("--faults-json", metavar="FILE", help="write the table of faults to this file")


def pytest_collection_modifyitems(items):
    """The longest first, so that no process is left alone with them."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            import torch

            item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process runs the files that share its Ray cluster; tests of other files go wherever there is room.

    Not by marks: `xdist_group` of pytest-xdist 3.8 has no effect with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByCluster(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = config.rootpath / nodeid.split("::")[0]
            return "cluster" if "cluster, " in file.read_text() else nodeid

    return ByCluster(config, log)


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
