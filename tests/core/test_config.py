"""What a run may be, and which of its fields a population's slots must share."""

import pytest
from pydantic import ValidationError

from lmcore.compile_work import COLD_FLOPS, CompileWork
from lmcore.config import FIELD_ROLES, DataConfig, ModelConfig, OptimConfig, RunSpec, TrainConfig, flatten
from lmcore.device import NO_WORK, Machine, resolve, resolve_run, training_flops, why_compile
from lmcore.errors import InputError
from lmcore.params import flops_per_token


def test_every_field_has_exactly_one_role():
    assert set(FIELD_ROLES) == set(flatten(RunSpec()))
    assert set(FIELD_ROLES.values()) == {"slot vector", "static", "sweep constant"}


def test_runs_that_differ_only_in_slot_vectors_share_a_population():
    base = RunSpec()
    vectors = RunSpec(
        data=DataConfig(seed=1),
        model=ModelConfig(tie_embeddings=True),
        train=TrainConfig(steps=7, seed=3),
        optim=OptimConfig(lr=1.0, beta1=0.0, beta2=0.5, eps=1.0, weight_decay=0.0, warmup_fraction=1.0, clip_norm=None),
    )
    assert vectors.static_signature == base.static_signature
    assert RunSpec(model=ModelConfig(d_ff=353)).static_signature != base.static_signature
    assert RunSpec(train=TrainConfig(batch_size=15)).static_signature != base.static_signature


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (ModelConfig, {"d_model": 100, "num_heads": 3}, "choose 2 heads"),
        (ModelConfig, {"d_model": 2_000_000_011, "num_heads": 2}, "choose 1 heads"),
        (ModelConfig, {"d_model": 12, "num_heads": 4}, "positions: none"),
        (ModelConfig, {"num_heads": 8, "num_kv_heads": 3}, "3 does not divide 8; choose 2 heads"),
        (ModelConfig, {"num_heads": 4, "num_kv_heads": 8}, "8 does not divide 4; choose 4 heads"),
        (ModelConfig, {"vocab": 10}, "Extra inputs"),
        (TrainConfig, {"steps": "200"}, "valid integer"),
        (TrainConfig, {"steps": True}, "valid integer"),
        (TrainConfig, {"seed": -1}, "greater than or equal to 0"),
        (OptimConfig, {"beta2": 1.0}, "less than 1"),
        (OptimConfig, {"lr": float("nan")}, "greater than 0|finite"),
        (OptimConfig, {"warmup_fraction": 1.5}, "less than or equal to 1"),
    ],
)
def test_values_out_of_range_or_of_a_wrong_type_are_refused(config, values, message):
    with pytest.raises(ValidationError, match=message):
        config(**values)


def test_configs_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        ModelConfig().d_model = 64


def test_warmup_is_rounded_to_whole_updates():
    run = RunSpec(train=TrainConfig(steps=30), optim=OptimConfig(warmup_fraction=0.05))
    assert run.warmup_steps == 2
    assert RunSpec(optim=OptimConfig(warmup_fraction=0.0)).warmup_steps == 0


@pytest.mark.parametrize(
    ("cuda", "expected"), [(False, ("cpu", "float32", False, False, 1)), (True, ("cuda", "bfloat16", True, True, 1))]
)
def test_auto_becomes_what_suits_the_device_and_explicit_choices_stay(cuda, expected):
    resolved = resolve(TrainConfig(), Machine(cuda))
    decided = (resolved.device, resolved.dtype, resolved.compile, resolved.cuda_graphs, resolved.threads)
    assert decided == expected
    assert resolve(TrainConfig(), Machine(cuda, cpu_bfloat16=True)).dtype == "bfloat16"
    narrow = RunSpec(model=ModelConfig(d_model=128))
    assert resolve_run(narrow, Machine(cuda, cpu_bfloat16=True)).train.dtype == ("bfloat16" if cuda else "float32")
    assert resolve(TrainConfig(device="cpu"), Machine(cuda)).dtype == "float32"
    chosen = TrainConfig(device="cpu", dtype="bfloat16", compile=True, cuda_graphs=False, threads=2)
    assert resolve(chosen, Machine(cuda)) == chosen


def test_a_run_alone_is_compiled_on_a_cpu_if_it_is_long_enough_and_the_decision_is_explained():
    short, long = RunSpec(), RunSpec(train=TrainConfig(steps=10_000))
    assert training_flops(short) == pytest.approx(flops_per_token(ModelConfig()) * 200 * 16 * 128)
    assert training_flops(short) < COLD_FLOPS < training_flops(long)
    for run, said in ((short, "not compiled: 2.9e+12 FLOPs"), (long, "compiled: 1.5e+14 FLOPs")):
        resolved = resolve_run(run, Machine(cuda=False)).train
        assert resolved.compile == (run is long)
        assert why_compile(run.train, resolved, CompileWork(training_flops(run))).startswith(said)
    chosen = TrainConfig(compile=True)
    assert why_compile(chosen, resolve(chosen, Machine(cuda=False)), NO_WORK) == "compiled, as train.compile says"
    on_gpu = resolve(TrainConfig(), Machine(cuda=True))
    assert why_compile(TrainConfig(), on_gpu, NO_WORK) == "compiled, as auto does on a GPU"


def test_device_cuda_needs_a_gpu():
    with pytest.raises(InputError, match=r"train\.device"):
        resolve(TrainConfig(device="cuda"), Machine(cuda=False))


def test_a_budget_is_rounded_to_whole_updates_of_which_there_is_at_least_one():
    def steps(**budget):
        return RunSpec(train=TrainConfig(batch_size=16, **budget)).steps

    assert steps() == 200
    assert steps(steps=7) == 7
    assert steps(tokens=10 * 2048) == 10
    assert steps(tokens=10 * 2048 + 1023) == 10
    assert steps(tokens=10 * 2048 + 1024) == 11
    assert steps(tokens=1) == 1


def test_tokens_per_parameter_count_the_parameters_without_embedding_and_head():
    model = ModelConfig(vocab_size=512, d_model=64, num_layers=2, d_ff=176)
    run = RunSpec(model=model, train=TrainConfig(tokens_per_parameter=20))
    N = 2 * (4 * 64 * 64 + 3 * 64 * 176 + 2 * 64) + 64  # four projections, three matrices, two norms; the last norm
    assert run.steps == round(20 * N / run.tokens_per_step)
    wider = run.model_copy(update={"model": model.model_copy(update={"vocab_size": 4096})})
    assert wider.steps == run.steps


def test_a_run_has_one_budget():
    with pytest.raises(ValidationError, match=r"steps must be the only budget \(got 5, and tokens 10\); keep one"):
        TrainConfig(steps=5, tokens=10)


def test_a_run_in_steps_is_the_same_run():
    run = RunSpec(train=TrainConfig(tokens_per_parameter=3.5, eval_every=7))
    same = run.in_steps()
    assert (same.train.steps, same.train.tokens, same.train.tokens_per_parameter) == (run.steps, None, None)
    assert (same.steps, same.warmup_steps, same.in_steps()) == (run.steps, run.warmup_steps, same)
    assert same.train.eval_every == 7
