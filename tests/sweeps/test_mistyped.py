"""A mistyped word of `lmsweep run` is one line that says what to write, with exit code 2."""

import shlex
from pathlib import Path

import pytest

from sweeps.cli.options import parse
from sweeps.cli.replay_options import parse as parse_replay
from sweeps.spec.load import load_spec

WRITE = {
    # fields of a run and of the search, by their own names, those of other projects, or nearly so
    "--lr 1e-3": "--set optim.lr=1e-3",
    "--lr=1e-3": "--set optim.lr=1e-3",
    "--learning-rate 1e-3": "--set optim.lr=1e-3",
    "--learning_rate=1e-3": "--set optim.lr=1e-3",
    "--batch-size 32": "--set train.batch_size=32",
    "--batch_size 32": "--set train.batch_size=32",
    "--batchsize 32": "--set train.batch_size=32",
    "--steps 100": "--set train.steps=100",
    "--max-steps 100": "--set train.steps=100",
    "--layers 6": "--set model.num_layers=6",
    "--n-layer 6": "--set model.num_layers=6",
    "--heads 4": "--set model.num_heads=4",
    "--d-model 64": "--set model.d_model=64",
    "--width 64": "--set model.d_model=64",
    "--weight-decay 0.1": "--set optim.weight_decay=0.1",
    "--warmup 0.1": "--set optim.warmup_fraction=0.1",
    "--device cpu": "--set train.device=cpu",
    "--qk-norm": "--set model.qk_norm=true",
    "--tie-embeddings": "--set model.tie_embeddings=true",
    "--no-compile": "--set train.compile=false",
    "--bf16": "--set train.dtype=bfloat16",
    "--concurrent 4": "--set search.concurrent=4",
    "--n-jobs 4": "--set search.concurrent=4",
    "--workers 4": "--set search.concurrent=4",
    "--seeds 3": "--set confirm.seeds=3",
    "--wandb-project mine": "--set tracking.project=mine",
    "--lr": "--set optim.lr=VALUE",
    # options of other tools
    "--sampler tpe": "--search tpe",
    "--pruner median": "--scheduler median",
    "--n-trials 5": "--trials 5",
    "--num-samples 5": "--trials 5",
    "--timeout 600": "--time 600s",
    "--timeout 2h": "--time 2h",
    "--hours 2": "--time 2h",
    "--output out": "--runs out",
    "--out out": "--runs out",
    "--study-name mine": "--name mine",
    "--db sqlite:///a.db": "--storage sqlite:///a.db",
    "--no-wandb": "--wandb off",
    # our own, mistyped
    "--serach gp": "--search gp",
    "--tri 5": "--trials 5",
    "--dryrun": "--dry-run",
    "--shceduler asha": "--scheduler asha",
}


def mistake(capsys, argv, parse=parse):
    with pytest.raises(SystemExit) as stop:
        parse(argv)
    assert stop.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.endswith("; see --help\n")
    assert error.count("\n") == 1
    return error.removesuffix("; see --help\n")


@pytest.mark.parametrize(("typed", "instead"), WRITE.items())
def test_an_option_that_there_is_not_says_what_to_write(capsys, typed, instead):
    name = typed.split()[0].partition("=")[0]
    assert mistake(capsys, shlex.split(typed)) == f"{name} is not an option; write {instead}"
    if "VALUE" not in instead:
        options = parse(["--set", "sizes=[]", *shlex.split(instead)])
        assert load_spec(options.config, options.set, **options.flags)  # and that is accepted


@pytest.mark.parametrize(
    ("typed", "instead"),
    {
        "--search bayes": "--search gp or --search optuna",
        "--search bayesian": "--search gp or --search optuna",
        "--search bo": "--search gp or --search optuna",
        "--search hyperopt": "--search tpe",
        "--search TPESampler": "--search tpe",
        "--search sobol": "--search qmc",
        "--search cma-es": "--search cmaes",
        "--search grid_search": "--search grid",
        "--search random-search": "--search random",
        "--search ablation": "--search experiments",
        "--search asha": "--scheduler asha",
        "--search hyperband": "--scheduler hyperband",
        "--search randm": "--search random",
        "--search zzz": "--search optuna",
        "--scheduler halving": "--scheduler asha",
        "--scheduler successive_halving": "--scheduler asha",
        "--scheduler MedianPruner": "--scheduler median",
        "--scheduler bohb": "--scheduler hyperband",
        "--scheduler off": "--scheduler none",
        "--scheduler tpe": "--search tpe",
    }.items(),
)
def test_a_method_or_scheduler_of_another_tool_is_answered_with_ours(capsys, typed, instead):
    option, value = typed.split()
    message = mistake(capsys, [option, value])
    assert message.startswith(f"argument {option}: must be one of ")
    assert message.endswith(f"(got {value!r}); write {instead}")
    assert parse(instead.split(" or ")[0].split())


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quick", "mine"):
        (tmp_path / "runs" / name / "report").mkdir(parents=True)
        (tmp_path / "runs" / name / "sweep.yaml").write_text("name: x\n")
    (tmp_path / "my.yaml").write_text("name: my\n")
    (tmp_path / "book.txt").write_text("words\n")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("runs/quick", "runs/quick is a run's folder; resume it with --resume runs/quick"),
        ("runs/quick/report", "runs/quick/report is not a run's folder; resume one with --resume runs/quick"),
        ("runs/quik", "runs/quik is not a run's folder; resume one with --resume runs/quick"),
        ("mine", "mine is a run in runs/; resume it with --resume runs/mine"),
        ("my.yaml", "my.yaml is a sweep's file; give it with --config my.yaml"),
        ("absent.yaml", "absent.yaml is a sweep's file; give it with --config absent.yaml"),
        ("grid", "grid is a sweep's file; give it with --config grid"),
        (
            "quick",
            "quick is a sweep's file; give it with --config quick, or resume the run of that name with "
            "--resume runs/quick",
        ),
        ("optim.lr=1e-3", "optim.lr=1e-3 sets a field; write --set optim.lr=1e-3"),
        ("book.txt", "book.txt is a file; train on it with --set data.source=book.txt"),
        ("zzz", "unrecognized arguments: zzz: all that this command takes are options"),
        ("--zzzz", "unrecognized arguments: --zzzz"),
        (
            "--gpus",
            "--gpus is not an option, because a sweep uses every GPU that it sees; set CUDA_VISIBLE_DEVICES to use "
            "fewer",
        ),
    ],
)
def test_a_word_without_an_option_says_which_option_it_belongs_to(place, capsys, word, message):
    assert mistake(capsys, [word]) == message


def test_a_replay_answers_in_the_same_way(capsys):
    argv = ["--from", "curves.csv", "--n-trials", "5"]
    assert (
        mistake(capsys, argv, lambda argv: parse_replay(argv, "p")) == "--n-trials is not an option; write --trials 5"
    )
    argv = ["--from", "curves.csv", "--search", "bayes"]
    assert "; write --search gp or --search optuna" in mistake(capsys, argv, lambda argv: parse_replay(argv, "p"))


def test_a_folder_of_runs_is_answered_with_the_runs_in_it(place):
    from lmcore.errors import InputError
    from sweeps.rundir.folder import RunFolder

    with pytest.raises(
        InputError, match=r"--resume: must be the folder of a sweep.*; give runs/(quick or runs/mine|mine)"
    ):
        RunFolder.of_sweep(Path("runs"))
