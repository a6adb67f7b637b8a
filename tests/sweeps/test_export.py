"""export.py and generate.py on a small sweep that was trained without Ray: the right trial, or one clear line."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from lmcore.config import DataConfig
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.tokens import Tokens, load_tokens, save_tokens
from sweeps import export, generate
from sweeps.cli.select_trial import select_trial
from sweeps.rundir.checkpoints import drop_checkpoints
from sweeps.spec.sweep_spec import SweepSpec
from tests.training import train_without_ray

ROOT = Path(__file__).resolve().parents[2]
SPEC = {
    "name": "small",
    "model": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32, "context_length": 16},
    "train": {"steps": 4, "eval_every": 2, "batch_size": 4, "eval_windows": 4},
    "search": {"method": "experiments", "scheduler": "none"},
    "sizes": [{"name": "s", "model.d_model": 32}, {"name": "xs"}],
    "experiments": [
        {"name": "untied", "optim.lr": 0.03},
        {"name": "tied", "optim.lr": 0.03, "model.tie_embeddings": True},
        {"name": "gelu", "optim.lr": 0.003, "model.ffn": "gelu"},
        {"name": "idle", "optim.lr": 1e-9},  # the worst: its weights are deleted
    ],
}


def train(path, tokens, storage=None, **how):
    """A sweep's folder; `how` is as in `train_without_ray`."""
    spec = SweepSpec.model_validate({**SPEC, "search": {**SPEC["search"], "storage": storage}})
    return train_without_ray(spec, tokens, path, **{"trials": 8} | how)


@pytest.fixture(scope="module")
def text_tokens(tmp_path_factory):
    source = str(Path(sysconfig.get_path("stdlib"), "json"))
    return prepare_tokens(DataConfig(source=source, vocab_size=300), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def original(text_tokens, tmp_path_factory):
    torch.set_num_threads(1)
    folder = train(tmp_path_factory.mktemp("sweep") / "runs" / "small", text_tokens)
    for size in ("xs", "s"):
        drop_checkpoints(folder.trial(f"{size}-0003"))
    return folder


@pytest.fixture
def run(original, in_tmp):
    """A copy of the sweep in runs/small, the working directory being the test's own."""
    shutil.copytree(original.path, "runs/small")
    return Path("runs/small")


def refusal(main, capsys, *arguments):
    """The one line with which a command refuses."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert not Path("out").exists()
    return err


def best_of(run, size):
    """As Optuna knows it."""
    study = optuna.load_study(study_name=size, storage=f"sqlite:///{run / 'study.db'}")
    return f"{size}-{study.best_trial.number:04d}"


def test_best_is_optunas_best_and_by_default_that_of_the_largest_size(original):
    kept = {path.parent.name for path in original.path.glob("trials/*/*.safetensors")}
    assert kept == {f"{size}-000{n}" for size in ("xs", "s") for n in range(3)}
    for size in ("xs", "s"):
        assert select_trial(original.path, f"best:{size}").id == best_of(original.path, size)
    assert select_trial(original.path).id == best_of(original.path, "s")  # though xs comes last


@pytest.mark.parametrize(("trial", "tied"), [("best", None), ("xs-0000", False), ("xs-0001", True)])
def test_transformers_loads_the_folder_and_computes_our_logits(run, capsys, trial, tied):
    transformers = pytest.importorskip("transformers")
    assert export.main([str(run), "--trial", trial, "--out", "out"]) == 0
    chosen = select_trial(run, trial)
    assert capsys.readouterr().out.startswith(f"{chosen.id} (complete): ")
    theirs = transformers.AutoModelForCausalLM.from_pretrained("out")
    ours = chosen.trained.model
    assert tied in (None, theirs.config.tie_word_embeddings)
    tokenizer = transformers.AutoTokenizer.from_pretrained("out")
    text = 'def dump(obj, fp, *, skipkeys=False):\n    """Serialize."""\n'
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    x = torch.tensor([ids[:16]])
    with torch.no_grad():
        torch.testing.assert_close(ours(x[None])[0], theirs(x).logits, rtol=1e-5, atol=1e-5)


def test_another_architecture_is_refused_by_name_and_sampled_from_all_the_same(run, capsys):
    line = refusal(export.main, capsys, run, "--trial", "s-0002", "--out", "out")
    assert "model.ffn: must be swiglu" in line
    assert "(got gelu)" in line
    assert generate.main([str(run), "def ", "--trial", "s-0002", "--max-tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("def ")


def test_the_same_seed_samples_the_same_text(run, capsys):
    def text(*arguments):
        assert generate.main([str(run), "def ", "--max-tokens", "40", *arguments]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("def ")
        assert err.startswith(f"{best_of(run, 's')} (complete): ")
        return out

    assert text("--seed", "3") == text("--seed", "3") != text("--seed", "4")
    greedy = text("--temperature", "0")
    assert greedy == text("--top-k", "1") == text("--top-p", "1e-9", "--seed", "9")


def damage(path, position=-9):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_the_newest_valid_checkpoint_of_the_trial_is_used(run, capsys):
    older, newest = sorted(run.glob("trials/s-0000/*.safetensors"))
    shutil.copy(run / "trials" / "s-0001" / newest.name, newest)
    assert export.main([str(run), "--trial", "s-0000", "--out", "out"]) == 0
    out, err = capsys.readouterr()
    assert "after 2 of 4 updates" in out
    assert "s-0000: a checkpoint was skipped" in err
    damage(older)
    shutil.rmtree("out")
    assert "s-0000: must have a valid checkpoint of its own, but has none" in refusal(
        export.main, capsys, run, "--trial", "s-0000", "--out", "out"
    )


def test_a_sweep_is_read_while_it_runs(text_tokens, in_tmp, capsys):
    folder = train(in_tmp / "runs" / "going", text_tokens, trials=4, unfinished=2)
    with folder.claimed(resume=True), sqlite3.connect(folder.study_db) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE studies SET study_name = study_name")
        assert export.main(["runs/going", "--out", "best"]) == 0
        assert capsys.readouterr().out.startswith("s-0000 (complete): ")
        assert export.main(["runs/going", "--trial", "s-0001", "--out", "running"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("s-0001 (running): ")
        assert "after 2 of 4 updates" in out


def test_studies_may_be_in_another_database_and_one_that_does_not_answer_is_named(text_tokens, in_tmp, capsys):
    database = in_tmp / "shared.db"
    train(in_tmp / "runs" / "apart", text_tokens, trials=1, storage=f"sqlite:///{database}")
    here = f"sqlite:///{database}"
    assert refusal(export.main, capsys, "runs/apart", "--out", "found") == (
        "--storage: runs/apart/sweep.yaml names a database, which is opened only if you confirm its address "
        f"(got {here}); add --storage {here}\n"
    )
    assert export.main(["runs/apart", "--out", "found", "--storage", here]) == 0
    assert capsys.readouterr().out.startswith("s-0000 (complete): ")
    database.write_bytes(b"")
    line = refusal(export.main, capsys, "runs/apart", "--out", "out", "--storage", here)
    assert line.startswith(f"sqlite:///{database}: must be an Optuna database that can be read (")
    assert "no such table" in line


def test_best_is_refused_while_no_trial_is_complete(text_tokens, in_tmp, capsys):
    train(in_tmp / "runs" / "begun", text_tokens, trials=1, unfinished=1)
    line = refusal(export.main, capsys, "runs/begun", "--out", "out")
    assert "--trial best: size s must have a complete trial (got 1 running)" in line
    train(in_tmp / "runs" / "none", text_tokens, trials=0)
    assert "none has started" in refusal(export.main, capsys, "runs/none", "--out", "out")


def test_a_size_that_has_a_complete_trial_is_suggested(run, capsys):
    with sqlite3.connect(run / "study.db") as database:
        sql = "SELECT trial_id FROM trials JOIN studies USING (study_id) WHERE study_name = 's'"
        of_s = [trial for (trial,) in database.execute(sql)]
        for trial in of_s:
            sql = "UPDATE trial_user_attributes SET value_json = ? WHERE trial_id = ? AND key = 'status'"
            database.execute(sql, ('"diverged"', trial))
    line = refusal(export.main, capsys, run, "--out", "out")
    assert "(got 4 diverged); give --trial best:xs" in line


def rewritten(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def other_tokens(run):
    kept = load_tokens(run / "tokens")
    other = Tokens.of(np.array(kept.val), np.array(kept.train), 300, tokenizer_json=kept.tokenizer_json)
    save_tokens(other, run / "tokens")


BAD = {
    "a folder that is no sweep's": (lambda run: None, ["."], "RUN: must be the folder of a sweep"),
    "a sweep's name": (lambda run: None, ["small"], "give runs/small"),
    "an unknown trial": (lambda run: None, ["--trial", "xs-0009"], "nearest are xs-000"),
    "an unknown size": (lambda run: None, ["--trial", "best:sx"], "(got 'best:sx'); the nearest are best:s, best:xs"),
    "a trial that leads elsewhere": (lambda run: None, ["--trial", "../../x"], "--trial: must be best"),
    "a trial without weights": (lambda run: None, ["--trial", "xs-0003"], "give xs-0000 or xs-0001 or xs-0002"),
    "no weights at all": (
        lambda run: shutil.rmtree(run / "trials"),
        [],
        "s-0001 (tied: no weights), s-0000 (untied: no w",
    ),
    "no study.db": (lambda run: (run / "study.db").unlink(), [], "study.db: must be an Optuna database"),
    "an empty study.db": (lambda run: (run / "study.db").write_bytes(b""), [], "no such table"),
    "a study.db that is none": (lambda run: (run / "study.db").write_bytes(b"x" * 9000), [], "not a database"),
    "a study.db that was cut": (lambda run: os.truncate(run / "study.db", 20000), [], "an Optuna database that can"),
    "a sweep.yaml that was cut": (lambda run: os.truncate(run / "sweep.yaml", 200), [], "sweep.yaml"),
    "no tokens": (lambda run: shutil.rmtree(run / "tokens"), [], "must be a whole folder of tokens"),
    "a tokenizer that was changed": (
        lambda run: rewritten(run / "tokens" / "tokenizer.json", '"Ġ', '"ġ'),
        [],
        "tokenizer.json: must have the digest",
    ),
    "tokens of another sweep": (other_tokens, [], "tokens: must have the fingerprint"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_folder_or_a_wrong_trial_is_one_line_from_both_commands(case, run, capsys):
    break_it, arguments, fragment = BAD[case]
    break_it(run)
    place = [] if arguments and not arguments[0].startswith("-") else [run]
    assert fragment in refusal(export.main, capsys, *place, *arguments, "--out", "out")
    assert fragment in refusal(generate.main, capsys, *place, *arguments)


def test_nothing_is_overwritten(run, capsys):
    Path("full").mkdir()
    Path("full/mine").write_text("mine")
    assert "full, which holds 1 files" in refusal(export.main, capsys, run, "--out", "full")
    assert "full/mine, which is a file" in refusal(export.main, capsys, run, "--out", "full/mine")
    assert "--out: must be a folder that can be written" in refusal(export.main, capsys, run, "--out", "full/mine/x")
    assert [path.read_text() for path in Path("full").iterdir()] == ["mine"]


def test_a_sweep_on_token_ids_is_exported_without_a_tokenizer_and_not_sampled_from(small_tokens, in_tmp, capsys):
    train(in_tmp / "runs" / "ids", small_tokens, trials=2)
    assert "RUN: must have a tokenizer" in refusal(generate.main, capsys, "runs/ids", "def ")
    assert export.main(["runs/ids", "--out", "out"]) == 0
    assert "Without a tokenizer" in capsys.readouterr().out
    assert {path.name for path in Path("out").iterdir()} == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors")
    }
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 97


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--temperature", "-1"], "--temperature: must be a number >= 0 (got '-1')"),
        (["--temperature", "nan"], "--temperature: must be a number >= 0 (got 'nan')"),
        (["--top-p", "0"], "--top-p: must be above 0 and at most 1 (got '0')"),
        (["--top-k", "0"], "--top-k: must be a number >= 1 (got '0')"),
        (["--max-tokens", "1.5"], "--max-tokens: must be a number >= 1 (got '1.5')"),
        (["--seed", "-1"], "--seed: must be a number from 0"),
        (["--seeds", "1"], "--seeds"),
        ([], "RUN"),
    ],
)
def test_a_wrong_option_is_one_line(arguments, fragment, capsys):
    place = ["runs/small", "def "] if arguments else []
    with pytest.raises(SystemExit) as stop:
        generate.main([*place, *arguments])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert fragment in err


def test_the_commands_run_from_anywhere_and_load_no_ray(run, in_tmp):
    """As a user runs them, with what Python imports on stderr."""

    def command(script, *arguments):
        done = subprocess.run(
            [sys.executable, str(ROOT / "sweeps" / script), *arguments],
            cwd=in_tmp,
            env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import")}
        assert "torch" in imported
        assert not imported & {"ray", "wandb", "transformers", "pandas"}
        return done.stdout

    title, written, *more = command("export.py", "runs/small", "--out", "deep/out").splitlines()
    assert title.startswith(f"{best_of(run, 's')} (complete): ")
    assert written == (
        "Written to deep/out: README.md, config.json, generation_config.json, model.safetensors, tokenizer.json, "
        "tokenizer_config.json, special_tokens_map.json"
    )
    assert not more
    assert (in_tmp / "deep" / "out" / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~_umask()
    text = command("generate.py", "runs/small", "def ", "--max-tokens", "20")
    assert text == command("generate.py", "runs/small", "def ", "--max-tokens", "20")
    assert text.startswith("def ")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_end_of_text_is_that_of_training_and_not_the_usual_name(run):
    meta = json.loads((run / "tokens" / "meta.json").read_bytes())
    (run / "tokens" / "meta.json").write_text(json.dumps(meta | {"end_of_text": 65}))
    assert select_trial(run).end_of_text == 65
    assert export.main([str(run), "--out", "exported"]) == 0
    config = json.loads(Path("exported/config.json").read_bytes())
    assert (config["eos_token_id"], config["bos_token_id"]) == (65, 65)
    (run / "tokens" / "meta.json").write_text(json.dumps(meta | {"end_of_text": None}))  # of an earlier version
    assert select_trial(run).end_of_text == 0
