"""How a cluster's devices are shared by engines and trials."""

import pytest

from lmcore.config import TrainConfig
from lmcore.device import Machine, resolve
from lmcore.errors import InputError
from sweeps.cluster.nodes import Node
from sweeps.cluster.ray_cluster import Cluster, engine_options
from sweeps.engine.roster import Engine, choose_node


def node(cpus=256, gpus=0, cores=None, name="a"):
    return Node(name, f"host-{name}", "10.0.0.1", 1, cpus, gpus, cpus if cores is None else cores, 2**33)


def train(cuda=False, threads=1):
    return resolve(TrainConfig(threads=threads), Machine(cuda))


@pytest.mark.parametrize(
    ("nodes", "how", "engines"),
    [
        ([node(cores=2)], train(), 2),
        ([node(cores=7)], train(threads=2), 3),
        ([node(gpus=4, cores=64)], train(cuda=True), 4),
        ([node(8)], train(), 8),
        ([node(9)], train(threads=2), 4),
        ([node(3, gpus=8)], train(cuda=True), 3),
        ([node(8), node(2), node(1)], train(), 11),
        ([node(8, gpus=2), node(64)], train(cuda=True), 2),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_each_device_gets_an_engine_and_each_engine_room_for_its_trials_proxies(nodes, how, engines, local):
    where = Cluster(tuple(nodes), local=local)
    assert where.engines(how) == engines
    spare = where.cpus - engines * where.engine_cpus(how)
    assert spare / where.proxy_cpus(how) >= 16 * engines or local


def test_proxies_of_a_joined_cluster_take_what_engines_leave_and_at_most_a_tenth_of_a_cpu():
    assert Cluster((node(8),), local=False).proxy_cpus(train()) == 0.001  # 8 x 0.03 CPUs for 128 proxies
    assert Cluster((node(64, gpus=8),), local=False).proxy_cpus(train(cuda=True)) == 0.1
    assert Cluster((node(12, gpus=8),), local=False).proxy_cpus(train(cuda=True)) == 0.033
    assert Cluster((node(2),)).proxy_cpus(train()) == 1.0


@pytest.mark.parametrize(
    ("where", "how"), [(node(cores=2), train(threads=4)), (node(cores=0), train()), (node(gpus=0), train(cuda=True))]
)
def test_a_cluster_without_room_for_one_engine_is_refused_in_one_line(where, how):
    with pytest.raises(InputError, match=r"train\.threads: an engine must fit") as error:
        Cluster((where,)).engines(how)
    assert "\n" not in str(error.value)


def test_an_engine_holds_its_threads_and_its_gpu_and_is_restarted_when_it_dies():
    assert engine_options(train(threads=2), 2) == {"num_cpus": 2, "max_restarts": -1}
    assert engine_options(train(cuda=True), 0.97) == {"num_cpus": 0.97, "num_gpus": 1, "max_restarts": -1}


def engine(number, where, has_room=True, state="ready"):
    return Engine(number, where, None, None, has_room, state)


def test_engines_go_where_there_is_room_and_where_there_are_fewest_of_them():
    small, large = node(4, name="s"), node(8, name="l")
    free = {"s": {"CPU": 4.0}, "l": {"CPU": 8.0}}
    engines = []
    while (chosen := choose_node([small, large], engines, train(), {"CPU": 0.97}, free)) is not None:
        assert chosen[1]
        engines.append(engine(len(engines), chosen[0], state="starting"))
    assert "".join(e.node.id for e in engines) == "sllsllsllsll"


def test_a_node_that_others_fill_gets_an_engine_last_which_then_waits_for_room():
    busy, idle = node(4, name="b"), node(2, name="i")
    free = {"b": {"CPU": 0.5}, "i": {"CPU": 2.0}}
    first = choose_node([busy, idle], [], train(), {"CPU": 0.97}, free)
    assert first == (idle, True)
    there = [engine(n, idle, state="starting") for n in range(2)]
    assert choose_node([busy, idle], there, train(), {"CPU": 0.97}, free) == (busy, False)
