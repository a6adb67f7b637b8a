"""search.method: module:Class and hub:package. OptunaHub is replaced by a module, as no test may use the network."""

import sys
import types

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from test_ledger import SPACE, drive, in_memory

from lmcore.errors import InputError
from sweeps.spec.settings import SearchConfig
from sweeps.study.own_sampler import check_sampler, create_sampler, find_sampler

OWN = """
import optuna

class Middle(optuna.samplers.BaseSampler):
    def __init__(self, seed=None):
        self.seed = seed
    def infer_relative_search_space(self, study, trial):
        return {}
    def sample_relative(self, study, trial, search_space):
        return {}
    def sample_independent(self, study, trial, name, distribution):
        if hasattr(distribution, "choices"):
            return distribution.choices[trial.number % 2]
        return (distribution.low + distribution.high) / (2 + trial.number)

class Seedless(Middle):
    def __init__(self):
        super().__init__()

class Demanding(Middle):
    def __init__(self, wanted):
        super().__init__()

class Stranger:
    pass
"""


@pytest.fixture
def module(in_tmp):
    (in_tmp / "my_samplers.py").write_text(OWN)
    yield
    sys.modules.pop("my_samplers", None)
    find_sampler.cache_clear()


def test_a_class_in_the_working_directory_proposes_every_trial(module):
    ended = drive(in_memory("my_samplers:Middle", trials=4))
    assert [live.run.optim.lr for live in ended.values()] == [(1e-4 + 1e-1) / (2 + n) for n in range(4)]
    assert all(set(live.trial.params) == set(SPACE) for live in ended.values())


def test_a_sampler_gets_a_seed_if_it_takes_one(module):
    assert create_sampler("my_samplers:Middle", seed=7).seed == 7
    assert create_sampler("my_samplers:Seedless", seed=7).seed is None


def test_one_of_optunas_own_samplers_can_be_named():
    assert type(create_sampler("optuna.samplers:TPESampler", seed=0)) is TPESampler


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("no_such_module:Sampler", "must name a module that can be imported from here"),
        ("my_samplers:Nothing", "Nothing of my_samplers is not there"),
        ("my_samplers:Stranger", "Stranger of my_samplers is not one"),
        ("my_samplers:optuna", "optuna of my_samplers is not one"),
        ("my_samplers:Demanding", "must be a sampler that can be created with no argument but a seed"),
    ],
)
def test_what_is_no_sampler_is_refused_in_one_line(module, method, message):
    with pytest.raises(InputError) as refusal:
        check_sampler(method)
    assert message in str(refusal.value)
    assert str(refusal.value).startswith("search.method: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("method", ["bayesian", "module.Class", ":Class", "module:", "hub:", "a b:C"])
def test_a_method_is_a_known_name_or_has_one_of_the_two_forms(method):
    with pytest.raises(ValueError, match="module:Class or hub:package"):
        SearchConfig(method=method)


def test_without_optunahub_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optunahub", None)
    with pytest.raises(InputError, match=r"pip install 'lmsweep\[hub\]'"):
        check_sampler("hub:samplers/auto_sampler")


@pytest.fixture
def hub(monkeypatch):
    """An optunahub that has one package, and refuses others as GitHub does."""
    package = types.ModuleType("package")
    package.First = type("First", (RandomSampler,), {"__module__": "package"})

    def load_module(name):
        if name != "samplers/first":
            raise ValueError(f"{name} is not found\nin the registry")
        return package

    fake = types.ModuleType("optunahub")
    fake.load_module = load_module
    monkeypatch.setitem(sys.modules, "optunahub", fake)
    yield package
    find_sampler.cache_clear()


def test_the_only_sampler_of_a_hub_package_is_taken(hub):
    assert type(create_sampler("hub:samplers/first", seed=0)) is hub.First
    assert len(drive(in_memory("hub:samplers/first", trials=3))) == 3


def test_of_several_samplers_of_a_hub_package_one_must_be_named(hub):
    hub.Second = type("Second", (BaseSampler,), {"__module__": "package"})
    with pytest.raises(InputError, match="First, Second"):
        check_sampler("hub:samplers/first")
    assert type(create_sampler("hub:samplers/first:First", seed=0)) is hub.First


def test_a_hub_package_that_cannot_be_loaded_is_refused_in_one_line(hub):
    with pytest.raises(InputError, match=r"must be a package of OptunaHub that can be loaded") as refusal:
        check_sampler("hub:samplers/other")
    assert "(ValueError: samplers/other is not found)" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_own_sampler_sees_the_study_as_it_is_stored():
    seen = []

    class Looking(RandomSampler):
        def sample_relative(self, study, trial, search_space):
            seen.append([one.state for one in study.get_trials(deepcopy=False)])
            return {}

    fake = types.ModuleType("looking")
    fake.Looking = Looking
    sys.modules["looking"] = fake
    try:
        drive(in_memory("looking:Looking", trials=8, scheduler="asha-stop"))
    finally:
        del sys.modules["looking"]
        find_sampler.cache_clear()
    assert optuna.trial.TrialState.PRUNED in seen[-1]
