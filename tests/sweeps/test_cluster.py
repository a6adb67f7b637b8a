"""How a cluster's devices are shared by engines and trials."""

import pytest

from lmcore.config import TrainConfig
from lmcore.device import Machine, resolve
from lmcore.errors import InputError
from sweeps.cluster.ray_cluster import Cluster


def cluster(cpus=256, gpus=0, cores=2):
    return Cluster(cpus=cpus, gpus=gpus, cores=cores, memory_bytes=2**33, dashboard_url=None, local=True)


def train(cuda=False, threads=1):
    return resolve(TrainConfig(threads=threads), Machine(cuda))


@pytest.mark.parametrize(
    ("where", "how", "engines", "room"),
    [
        (cluster(cores=2), train(), 2, 254),
        (cluster(cores=7), train(threads=2), 3, 250),
        (cluster(gpus=4, cores=64), train(cuda=True), 4, 252),
        (cluster(gpus=4, cores=64), train(cuda=True, threads=8), 4, 224),
        # A cluster that others started has no spare logical CPUs: at least one trial fits beside each engine.
        (cluster(cpus=8, cores=8), train(), 4, 4),
        (cluster(cpus=9, cores=9), train(threads=2), 3, 3),
        (cluster(cpus=2, cores=2), train(), 1, 1),
        (cluster(cpus=3, gpus=8, cores=3), train(cuda=True), 1, 2),
    ],
)
def test_each_device_gets_an_engine_as_long_as_a_trial_fits_beside_it(where, how, engines, room):
    assert where.engines(how) == engines
    assert where.room_for_trials(how) == room >= engines


@pytest.mark.parametrize(
    ("where", "how"),
    [(cluster(cores=2), train(threads=4)), (cluster(cpus=1, cores=1), train()), (cluster(gpus=0), train(cuda=True))],
)
def test_a_cluster_without_room_for_one_engine_and_one_trial_is_refused_in_one_line(where, how):
    with pytest.raises(InputError, match=r"train\.threads: an engine and a trial must fit") as error:
        where.engines(how)
    assert "\n" not in str(error.value)


def test_an_engine_holds_its_threads_and_its_gpu_and_is_restarted_when_it_dies():
    assert cluster().engine_options(train(threads=2)) == {"num_cpus": 2, "max_restarts": -1}
    assert cluster(gpus=1).engine_options(train(cuda=True)) == {"num_cpus": 1, "num_gpus": 1, "max_restarts": -1}
