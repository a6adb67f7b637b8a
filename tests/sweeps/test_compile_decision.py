"""`train.compile: auto` on CPUs: by what each engine of a sweep trains, not by its longest trial."""

import pytest

from lmcore.compile_work import COLD_FLOPS, WARM_FLOPS
from lmcore.device import Machine, resolve, training_flops
from lmcore.program_cache import note_compiled, program_name
from sweeps.cluster.nodes import Node
from sweeps.cluster.ray_cluster import Cluster
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.compile_decision import CPU_FLOPS_PER_S, compile_work, decide

LR = {"optim.lr": {"low": 1e-3, "high": 1e-2, "log": True}}
TWO_CORES = Cluster((Node("a", "host", "10.0.0.1", 1, cpus=256, gpus=0, cores=2, memory_bytes=2**33),))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def spec(space=LR, sizes=(), confirm=0, train=None, **search):
    search = {"trials": 16, "scheduler": "none", "slots": 1, **search}
    train = {"steps": 200, "eval_every": 25, **(train or {})}
    return SweepSpec(
        name="a", train=train, search=search, space=space, sizes=sizes, confirm={"top": confirm, "seeds": 3}
    )


def work(of, engines=2, cache=True):
    return compile_work(of, resolve(of.train, Machine(cuda=False)), engines, cache)


def of_one_trial(of):
    return training_flops(of.run_for("main", {}))


def note(of, tying="none", **overrides):
    """Note that the program of a run is in the cache."""
    run = of.run_for("main", overrides)
    train = run.train.model_copy(update={"device": "cpu", "dtype": "float32", "threads": 1})
    windows = run.train.windows_per_pass
    note_compiled(program_name(run.model, train, slots=1, tying=tying, windows=windows, gradients=True))


def test_all_trials_of_an_engine_count_and_not_the_longest_one():
    whole = work(spec())
    assert whole.flops == pytest.approx(16 * of_one_trial(spec()) / 2)
    assert of_one_trial(spec()) < COLD_FLOPS < whole.flops
    assert (whole.pays, whole.programs, whole.warm) == (True, 1, 0)
    assert not work(spec(trials=2)).pays


def test_early_stopping_counts_as_it_is_configured():
    # Successive halving: 16 trials train 50 updates, 8 another 50, 4 another 100. Stopping instead of pausing has
    # the same shares.
    for scheduler in ("asha", "asha-stop"):
        halved = work(spec(scheduler=scheduler, reduction_factor=2, grace_steps=50))
        assert halved.flops == pytest.approx((16 * 50 + 8 * 50 + 4 * 100) / 200 * of_one_trial(spec()) / 2)


def test_confirmation_runs_count_in_full():
    confirmed = spec(scheduler="asha", reduction_factor=2, grace_steps=50, confirm=2)
    assert work(confirmed).flops == pytest.approx((16 * 0.5 + 2 * 3) * of_one_trial(spec()) / 2)


def test_every_shape_is_a_program_and_its_costs_are_added_up():
    batches = {**LR, "train.batch_size": {"choices": [8, 16, 32]}}
    varied = work(spec(batches, train={"steps": None, "tokens": 200 * 16 * 128}))
    assert varied.programs == 3
    assert varied.flops == pytest.approx(16 * of_one_trial(spec()) / 2)
    assert work(spec(batches, train={"steps": None, "tokens": 200 * 16 * 128}, trials=2)).programs == 1
    sizes = ({"name": "xs", "model.d_model": 64}, {"name": "s", "model.d_model": 128})
    assert work(spec(sizes=sizes)).programs == 2


def test_tied_and_untied_trials_have_programs_of_their_own_and_slots_that_mix_them_another():
    tied = {**LR, "model.tie_embeddings": {"choices": [False, True]}}
    assert work(spec(tied)).programs == 2
    assert work(spec(tied, slots=4)).programs == 3


def test_a_warm_cache_lowers_what_a_sweep_must_train():
    few = spec(trials=2)
    assert WARM_FLOPS < work(few).flops < COLD_FLOPS
    assert not work(few).pays
    note(few)
    assert work(few).pays
    assert "warm cache" in work(few).reason
    assert not work(few, cache=False).pays  # that of other machines is not known
    reproducible = spec(trials=2, reproducible=True)
    assert not work(reproducible).pays  # its numbers must not depend on what the cache holds


def test_a_program_of_another_shape_leaves_the_cache_cold():
    few = spec(trials=2)
    note(few, **{"train.batch_size": 8})
    note(few, tying="all")
    assert not work(few).pays


def test_measured_slots_are_warm_with_any_number_that_was_compiled():
    few = spec(trials=2, slots="auto")
    note(few)
    assert work(few).pays


def test_a_time_limit_bounds_what_an_engine_trains():
    assert work(spec(time="1m")).flops == 60 * CPU_FLOPS_PER_S
    assert not work(spec(time="1m")).pays
    assert work(spec(time="1h", trials=None)).flops == 3600 * CPU_FLOPS_PER_S


def test_the_decision_is_for_the_engines_that_are_used():
    assert decide(spec(trials=6), TWO_CORES, most=2)[0].compile is False
    train, mode = decide(spec(trials=6), TWO_CORES, most=1)
    assert train.compile is True
    assert mode.line == "Compiled: 1.8e+13 FLOPs for each engine and shape, at least 1.5e+13 (cold cache)"
    assert mode.clause == ""


def test_a_resumed_sweep_keeps_its_mode_and_the_reason():
    train, mode = decide(spec(trials=6), TWO_CORES, most=1)
    resumed = spec(trials=1, train=train.model_dump(exclude_none=True))
    assert not work(resumed, engines=1).pays
    assert decide(resumed, TWO_CORES, most=1, before=mode.entry) == (train, mode)
    overruled = resumed.model_copy(update={"train": train.model_copy(update={"compile": False})})
    assert decide(overruled, TWO_CORES, most=1, before=mode.entry)[1].reason == "not compiled, as train.compile says"


def test_a_gpu_compiles_whatever_is_trained():
    gpu = Cluster((Node("a", "host", "10.0.0.1", 1, cpus=256, gpus=1, cores=2, memory_bytes=2**33),))
    train, mode = decide(spec(trials=1), gpu, most=1)
    assert train.compile is True
    assert (mode.line, mode.clause) == ("", ", compiled, as auto does on a GPU")
