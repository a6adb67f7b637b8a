"""The dry run says what a sweep costs, completely, and the command line says what it may be given."""

import io
import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lmcore.config import ModelConfig
from lmcore.errors import InputError
from lmcore.measure.detectable import detectable_difference
from lmcore.memory import estimate_memory
from lmcore.params import count_parameters, estimate_parameters, flops_per_token
from sweeps.cli.dry_run import plan, print_plan, seeds_per_setting
from sweeps.cli.options import DEFAULT_CONFIG, parse, resume_command
from sweeps.cli.rates import given_rates, measured_rates
from sweeps.spec.load import FLAGS, load_spec
from sweeps.spec.settings import METHODS, SCHEDULERS
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml

SIZES = [{"name": "xs", "model.d_model": 64}, {"name": "s", "model.d_model": 128}]
LR = {"optim.lr": {"low": 1e-3, "high": 1e-2, "log": True}}


def test_each_size_is_listed_tied_and_untied_with_lmcores_counts():
    spec = SweepSpec(name="a", sizes=SIZES, space={"model.tie_embeddings": [True, False]})
    costs = plan(spec).trials
    assert [(cost.size, cost.tied) for cost in costs] == [("xs", False), ("xs", True), ("s", False), ("s", True)]
    for cost in costs:
        run = spec.run_for(cost.size, {"model.tie_embeddings": cost.tied})
        assert cost.planned
        assert cost.params_estimate == estimate_parameters(run.model)
        assert cost.params_exact == count_parameters(run.model).total
        assert cost.params_non_embedding == count_parameters(run.model).non_embedding
        assert cost.tokens == 200 * 16 * 128
        assert cost.train_flops == cost.tokens * flops_per_token(run.model)


def test_a_size_costs_its_trials_in_full():
    spec = SweepSpec(name="a", sizes=SIZES, space={"optim.lr": [0.1, 0.2]}, search={"trials": 5})
    for size, trials in zip(plan(spec).sizes, (3, 2), strict=True):
        run = spec.run_for(size.size, {})
        assert size.trials == trials
        assert size.tokens == trials * 200 * 16 * 128
        assert size.train_flops == size.tokens * flops_per_token(run.model)


def test_a_tying_that_is_not_searched_is_listed_but_not_planned():
    spec = SweepSpec(name="a", model={"tie_embeddings": True}, space={"optim.lr": [0.1, 0.2]})
    assert [(cost.tied, cost.planned) for cost in plan(spec).trials] == [(False, False), (True, True)]


def test_a_space_over_shapes_and_steps_counts_its_costliest_trial():
    space = {
        "model.d_model": [96, 192],
        "model.num_heads": [3, 6],
        "model.ffn": ["gelu", "swiglu", "relu"],
        "model.num_layers": {"low": 1, "high": 6},
        "train.steps": {"low": 10, "high": 50},
    }
    spec = SweepSpec(name="a", space=space, search={"trials": 2, "allow_unequal_budgets": True})
    largest = spec.run_for("main", {"model.d_model": 192, "model.num_heads": 3, "model.num_layers": 6})
    flops = 50 * 16 * 128 * flops_per_token(largest.model)
    assert plan(spec).trials[0].train_flops == flops
    assert plan(spec).sizes[0].train_flops == 2 * flops


def test_a_space_over_heads_counts_the_trial_whose_query_heads_share_no_keys():
    space = {"model.num_kv_heads": [1, None], "model.qk_norm": [False, True]}
    [cost, _] = plan(SweepSpec(name="a", space=space, search={"trials": 2})).trials
    largest = ModelConfig(qk_norm=True)
    assert cost.params_exact == count_parameters(largest).total
    assert cost.train_flops == cost.tokens * flops_per_token(largest)


def test_the_memory_is_that_of_the_trial_that_needs_the_most():
    space = {
        "train.micro_batch_size": [4, None],
        "train.dtype": ["bfloat16", "float32"],
        "model.dropout": {"low": 0.0, "high": 0.1},
    }
    spec = SweepSpec(name="a", space=space, search={"trials": 2})
    largest = spec.run_for("main", {"train.dtype": "float32", "model.dropout": 0.1})
    assert plan(spec).trials[0].memory_bytes == estimate_memory(largest).total


def test_an_ablation_lists_every_experiment_and_costs_those_that_run():
    spec = load_spec(DEFAULT_CONFIG.with_name("ablation.yaml"), trials=3)
    costs = plan(spec)
    assert [cost.experiment for cost in costs.trials] == [experiment.name for experiment in spec.experiments]
    assert [cost.planned for cost in costs.trials] == [True] * 3 + [False] * 5
    assert (costs.sizes[0].trials, costs.sizes[0].confirmations) == (3, 9)
    assert costs.sizes[0].train_flops == 4 * sum(cost.train_flops for cost in costs.trials[:3])


def test_the_ungated_network_of_the_ablation_has_the_baselines_parameters():
    costs = {cost.experiment: cost for cost in plan(load_spec(DEFAULT_CONFIG.with_name("ablation.yaml"))).trials}
    assert costs["ungated-ffn"].params_exact == costs["baseline"].params_exact


@pytest.mark.parametrize("columns", ["20", "80"])
def test_what_is_printed_is_complete_however_narrow_the_environment_says_it_is(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    name = "a-long-name-for-an-experiment-that-fills-all-of-the-64-characters"[:64]
    size = "a-long-name-for-a-size-of-32-char"[:32]
    spec = SweepSpec(
        name="a",
        notes=["optim.lr is set and therefore not searched, as this rather long remark says once more"],
        model={"d_model": 4096, "d_ff": 16384, "num_layers": 100, "vocab_size": 200_000},
        train={"steps": 10**6},
        search={"method": "experiments"},
        sizes=[{"name": size}, {"name": "s", "model.tie_embeddings": True}],
        experiments=[{"name": name, "optim.lr": 0.01}],
    )
    file = io.StringIO()
    print_plan(spec, file)
    text = file.getvalue()
    lines = text.splitlines()
    assert dump_yaml(spec) in text
    assert f"Note: {spec.notes[0]}." in lines
    cost = plan(spec).trials[0]
    figures = [f"{n:,}" for n in (cost.params_estimate, cost.params_exact, cost.params_non_embedding, cost.tokens)]
    row = next(line.split() for line in lines if name in line and size in line and "{" not in line)
    assert row == [size, name, "no", *figures, f"{cost.train_flops:.3g}", f"{cost.memory_bytes / 1e6:,.0f}"]
    total = sum(size.train_flops for size in plan(spec).sizes)
    assert any(line.split()[:2] == ["in", "all"] and line.split()[-1] == f"{total:.3g}" for line in lines)
    assert "\x1b" not in text
    assert "…" not in text


def test_a_vocabulary_that_only_the_data_know_is_said_to_be_assumed():
    file = io.StringIO()
    print_plan(SweepSpec(name="a", data={"source": "a.bin"}, search={"trials": 1}), file)
    note = "Note: model.vocab_size comes from the data; 2048 is assumed until the data are read."
    assert note in file.getvalue()


def test_flops_stay_finite_numbers_for_absurd_sizes():
    spec = SweepSpec(name="a", train={"steps": 10**30}, search={"trials": 1})
    assert math.isfinite(float(plan(spec).sizes[0].train_flops))


def printed(spec, rates=None):
    file = io.StringIO()
    print_plan(spec, file, rates)
    return file.getvalue()


def test_device_hours_follow_from_flops_and_the_speed_of_each_sizes_base_run(monkeypatch):
    monkeypatch.setattr("sweeps.cli.dry_run.engines_here", lambda train: 2)
    train = {"tokens": 3_600_000, "batch_size": 9, "device": "cpu"}
    space = {"model.num_layers": [2, 4]}
    spec = SweepSpec(name="a", train=train, sizes=SIZES, space=space, search={"trials": 3})
    rates = given_rates(["1000", "s=500"], spec.size_names)
    lines = printed(spec, rates).splitlines()
    # The base has four layers, as the most expensive trial; 3.6M tokens at 1000 tokens/s are an hour.
    table = {
        line.split()[0]: line.split() for line in lines if line.split()[:1] and line.split()[0] in ("xs", "s", "in")
    }
    assert (table["xs"][-1], table["s"][-1], table["in"][-1]) == ("2", "2", "4")
    assert "Speed of one trial on one engine, given: tokens/s xs 1,000, s 500." in lines
    assert any(line.startswith("Time: at most 4 device-hours, 2h on the 2 engines of this machine") for line in lines)
    cheap = {**spec.model_dump(), "space": {"model.num_layers": [1, 2]}}
    hours = plan(SweepSpec.model_validate(cheap)).sizes[0].train_flops / plan(spec).sizes[0].train_flops * 2
    assert f"{hours:.3g}" in printed(SweepSpec.model_validate(cheap), rates)


def test_without_a_speed_the_plan_says_how_to_get_one():
    assert "Time: not known without the speed of a trial; --measure tries it" in printed(SweepSpec(name="a", space=LR))


def test_a_timed_sweep_says_how_many_trials_fit(monkeypatch):
    monkeypatch.setattr("sweeps.cli.dry_run.engines_here", lambda train: 3)
    spec = SweepSpec(name="a", train={"tokens": 204_800}, space=LR, search={"time": 3600.0})
    text = printed(spec, given_rates(["2048"], spec.size_names))  # a trial takes 100 s
    assert "Time: 1h, in which about 108 trials fit on the 3 engines of this machine" in text
    assert "All trials" not in text
    assert "As many trials as fit in 1h. Time: not known" in printed(spec)
    limited = SweepSpec(name="a", train={"tokens": 204_800}, space=LR, search={"time": 3600.0, "trials": 3})
    text = printed(limited, given_rates(["2048"], spec.size_names))
    assert "1m40s on the 3 engines" in text
    assert "No trial begins that could not finish in 1h." in text


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fast"], "--tokens-per-s: must be a number above 0 (got 'fast'); write 20000, or xs=20000"),
        (["0"], "--tokens-per-s: must be a number above 0 (got '0')"),
        (["nan"], "--tokens-per-s: must be a number above 0 (got 'nan')"),
        (["m=5"], "--tokens-per-s: must name a size of the sweep (got 'm'); choose one of xs, s"),
        (["xs=5"], "--tokens-per-s: must cover every size (got none for s); add --tokens-per-s s=N"),
    ],
)
def test_a_wrong_speed_is_one_line(texts, message):
    with pytest.raises(InputError) as error:
        given_rates(texts, ("xs", "s"))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_sizes_own_speed_replaces_that_of_all():
    assert given_rates(["xs=3", "5"], ("xs", "s")).tokens_per_s == {"xs": 3.0, "s": 5.0}


def test_the_speed_can_be_measured_and_a_model_that_does_not_fit_is_refused(monkeypatch):
    model = {"vocab_size": 64, "d_model": 16, "num_heads": 1, "num_layers": 1, "d_ff": 16, "context_length": 16}
    spec = SweepSpec(name="a", model=model, space=LR, train={"device": "cpu", "batch_size": 4})
    monkeypatch.setattr("lmcore.measure.throughput.MIN_SECONDS", 0.05)
    rates = measured_rates(spec)
    assert rates.source == "measured"
    assert 100 < rates.tokens_per_s["main"] < 1e8
    monkeypatch.setattr("sweeps.cli.rates.free_memory", lambda train: 10**6)
    with pytest.raises(
        InputError, match=r"^--measure: needs about 0\.0\d+ GB for a trial of main \(got 0\.001 GB free\); "
    ):
        measured_rates(spec)


@pytest.mark.parametrize(
    ("fields", "seeds"),
    [
        ({"space": {**LR, "train.seed": [0, 1, 2]}, "search": {"method": "grid"}}, 3),
        ({"space": {**LR, "train.seed": {"low": 0, "high": 4, "step": 1}}, "search": {"method": "grid"}}, 5),
        ({"space": {**LR, "train.seed": [0, 1, 2]}}, 1),  # a search hardly tries one setting under two seeds
        ({"space": LR}, 1),
    ],
)
def test_the_plan_says_what_difference_the_seeds_can_detect(fields, seeds):
    spec = SweepSpec.model_validate({"name": "a", **fields})
    assert seeds_per_setting(spec) == seeds
    text = printed(spec)
    if seeds == 1:
        assert "Seeds: 1 per setting, which cannot tell a difference between settings from one between seeds" in text
    else:
        times = detectable_difference(seeds)
        assert f"Seeds: {seeds} per setting" in text
        assert f"differ by {times:.2g} times the noise between seeds: {times * 0.025:.2g} nats per token" in text
        assert "which is an assumption (measured at 1.3M parameters)" in text


def test_a_dry_run_without_measuring_needs_neither_torch_nor_ray():
    code = (
        "import sys\nfrom sweeps.run import main\n"
        "code = main(['--dry-run', '--tokens-per-s', '1000', '--config', 'tying'])\n"
        "print(code, sorted({'torch', 'ray', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.endswith("\n0 []\n")


def test_without_options_the_shipped_quick_sweep_runs_wherever_one_stands(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = parse([])
    assert (options.dashboard, options.dry_run, options.set) == (True, False, ())
    assert set(options.flags) == set(FLAGS)
    assert set(options.flags.values()) == {None}
    assert load_spec(options.config).name == "quick"


def test_every_option_reaches_the_spec():
    argv = "--search random --scheduler none --trials 3 --seed 5 --slots 4 --name mine --wandb off"
    sets = ["--set", "optim.eps=1e-6", "--set", "sizes=[]"]
    options = parse([*argv.split(), *sets, "--address", "head:6379", "--no-dashboard", "--dry-run"])
    spec = load_spec(options.config, options.set, **options.flags)
    assert (spec.search.method, spec.search.scheduler, spec.search.trials) == ("random", "none", 3)
    assert (spec.search.seed, spec.search.slots, spec.name, spec.tracking.wandb) == (5, 4, "mine", "off")
    assert (spec.optim.eps, spec.sizes) == (1e-6, ())
    assert (options.address, options.dashboard, options.dry_run) == ("head:6379", False, True)


@pytest.mark.parametrize(
    ("argv", "storage", "expected"),
    [
        ("", None, "py run.py --resume 'runs/my sweep'"),
        ("--trials 3 --name x --no-dashboard", None, "py run.py --resume 'runs/my sweep' --no-dashboard"),
        ("--address head:6379", None, "py run.py --resume 'runs/my sweep' --address head:6379"),
        ("--dashboard-host 0.0.0.0", None, "py run.py --resume 'runs/my sweep' --dashboard-host 0.0.0.0"),
        ("", "pg://a@h/d", "py run.py --resume 'runs/my sweep' --storage pg://a@h/d"),
        ("", "pg://a:secret@h/d", "py run.py --resume 'runs/my sweep' --storage 'pg://a:***@h/d'"),
    ],
)
def test_the_command_that_goes_on_is_the_one_that_was_typed(argv, storage, expected, monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["py", "run.py", *argv.split()])
    monkeypatch.setattr("sys.argv", ["run.py", *argv.split()])
    command = resume_command(parse(argv.split()), "runs/my sweep", storage)
    assert command == expected
    parse(shlex.split(command)[2:])


@pytest.mark.parametrize(
    ("orig_argv", "argv", "on_path", "expected"),
    [
        (["py", "/bin/lmsweep", "run"], ["/bin/lmsweep", "run"], "/bin/lmsweep", "lmsweep run"),
        (["py", "/new/lmsweep", "run"], ["/new/lmsweep", "run"], "/bin/lmsweep", "/new/lmsweep run"),
        (["py", "/new/lmsweep", "run"], ["/new/lmsweep", "run"], None, "/new/lmsweep run"),
        (["py", "-m", "lmsweep", "run"], ["/x/lmsweep.py", "run"], None, "py -m lmsweep run"),
        (["py", "lmsweep.py", "run"], ["lmsweep.py", "run"], "/bin/lmsweep", "py lmsweep.py run"),
    ],
)
def test_lmsweep_resumes_with_lmsweep(orig_argv, argv, on_path, expected, monkeypatch):
    monkeypatch.setattr("sys.orig_argv", orig_argv)
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setattr("shutil.which", lambda name: on_path)
    command = resume_command(parse([], "lmsweep run"), "runs/quick", None, "lmsweep run")
    assert command == f"{expected} --resume runs/quick"


def test_a_shipped_config_is_found_by_its_name_unless_there_is_such_a_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("ablation", "ablation.yaml"):
        assert parse(["--config", name]).config == DEFAULT_CONFIG.with_name("ablation.yaml")
    for other in ("sub/ablation.yaml", "./sub/quick", "quick.yml", "absent"):
        assert parse(["--config", other]).config == Path(other)
    Path("ablation.yaml").write_text("search: {trials: 1}\n")
    assert parse(["--config", "ablation.yaml"]).config == Path("ablation.yaml")
    assert parse(["--config", "ablation"]).config == DEFAULT_CONFIG.with_name("ablation.yaml")


def test_slots_of_a_file_can_be_left_to_measurement_again(tmp_path):
    path = tmp_path / "fixed.yaml"
    path.write_text("search: {trials: 1, slots: 4}\n")
    assert load_spec(path).search.slots == 4
    options = parse(["--slots", "auto"])
    assert load_spec(path, options.set, **options.flags).search.slots == "auto"


@pytest.mark.parametrize(
    "argv",
    [
        ["--serach", "optuna"],
        ["--search", "bayes"],
        ["--scheduler", "pbt"],
        ["--trials", "many"],
        ["--seed", "0.5"],
        ["--slots", "many"],
        ["--wandb", "auto"],
        ["--set"],
        ["--tri", "3"],
        ["--measure"],
        ["--tokens-per-s", "1000"],
        ["--measure", "--dry-run", "--tokens-per-s", "1000"],
        ["quick.yaml"],
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        parse(argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--help" in error
    assert argv[0].lstrip("-") in error
    assert " _" not in error  # no name of our own code


@pytest.mark.parametrize("prog", ["python sweeps/run.py", "lmsweep run"])
def test_help_names_every_search_scheduler_and_shipped_config_and_shows_the_command_as_typed(prog, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--help"], prog)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {prog} [")
    assert f"  {prog} --resume runs/quick" in text
    assert "ablation, grid, ladder, ladder_gpu, quick, tying" in " ".join(text.split())
    assert all(name in text for name in (*METHODS, *SCHEDULERS))
    assert "examples:" in text


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (60, "2 columns are left out: params estimate, non-embedding; a wider terminal or a pipe has them"),
        (80, None),
        (120, None),
        (200, None),
    ],
)
def test_on_a_terminal_every_line_of_the_cost_fits_and_every_number_is_whole(width, left_out):
    spec = load_spec(DEFAULT_CONFIG.with_name("tying.yaml"))
    file = io.StringIO()
    print_plan(spec, file, width=width)
    text = file.getvalue().partition("One trial")[2]
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for cost in plan(spec).trials:
        row = next(line for line in text.splitlines() if line.split()[:2] == [cost.size, "yes" if cost.tied else "no"])
        assert {f"{cost.params_exact:,}", f"{cost.tokens:,}", f"{cost.train_flops:.3g}"} <= set(row.split())
    assert ("left out" in flat) == (left_out is not None)
    assert (left_out or "") in flat
