"""`python sweeps/run.py` and `lmsweep run` in processes of their own, from another directory, as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUN = (ROOT / "sweeps" / "run.py",)
LMSWEEP_RUN = (ROOT / "lmsweep.py", "run")
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def command(*arguments, cwd, program=RUN, **environment):
    """The finished process of `python sweeps/run.py`, or of another `program`, with these arguments."""
    return subprocess.run(
        [sys.executable, *map(str, program), *arguments],
        cwd=cwd,
        env=os.environ | {"WANDB_MODE": "offline"} | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.ray
def test_a_real_sweep_beats_the_unigram_entropy_and_writes_every_file(tmp_path):
    done = command(
        *("--search", "optuna", "--trials", "4", "--scheduler", "median", "--name", "real", "--seed", "1"),
        *("--set", "train.steps=200", "--set", "train.eval_every=50", "--set", "optim.lr=1e-2"),
        *("--set", "model.tie_embeddings=false", "--set", "confirm.top=0"),
        *("--set", "sizes=[{name: xs, model.d_model: 64, model.d_ff: 176, model.num_layers: 2}]"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "real"
    manifest = json.loads((run / "manifest.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = min(row["val_loss"] for row in rows)
    assert best < manifest["data"]["val_entropy_unigram"] - 0.5
    assert {row["trial"] for row in rows} == {f"xs-000{n}" for n in range(4)}
    for name in (
        "sweep.yaml",
        "study.db",
        "tokens/train.npy",
        "best/xs.yaml",
        "report/parameters.csv",
        "window_losses.bin",
        "curves.arrow",
    ):
        assert (run / name).exists(), name
    assert list(run.glob("wandb/offline-run-*"))
    slots = manifest["slots"]["xs"]  # `search.slots` is "auto"
    assert [sample["slots"] for sample in slots["measured"]] == [2**n for n in range(len(slots["measured"]))]
    assert f"xs {slots['per_engine']} (" in done.stdout
    assert "Ray dashboard: http://127.0.0.1:" in done.stdout
    assert "est." in done.stdout
    assert not done.stderr

    assert "Figures and fits: python analysis/report.py runs/real" in done.stdout

    # The winner's config trains the winner again, with the same numbers; `lmsweep run` is the same command.
    options = ("--config", str(run / "best" / "xs.yaml"), "--no-dashboard", "--wandb", "off")
    again = command(*options, cwd=tmp_path, program=LMSWEEP_RUN)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Figures and fits: lmsweep report runs/best-xs" in again.stdout
    *_, last = (json.loads(line) for line in (tmp_path / "runs/best-xs/metrics.jsonl").read_text().splitlines())
    assert last["final_val_loss"] == min(row["final_val_loss"] for row in rows if row["step"] == 200)
    assert "Ray dashboard" not in again.stdout
    assert not (tmp_path / "runs" / "best-xs" / "wandb").exists()

    # A folder that already holds a sweep is refused.
    third = command("--name", "real", "--set", "sizes=[]", cwd=tmp_path)
    assert third.returncode == 2
    assert "holds a sweep already" in third.stderr


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_dry_runs_from_anywhere_without_torch_or_ray(config, tmp_path):
    done = command("--config", str(config), "--dry-run", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    for promised in ("params estimate", "params exact", "non-embedding", "tokens", "train FLOPs", "All trials"):
        assert promised in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "ray", "wandb"}
    assert not list(tmp_path.iterdir())


BAD = {
    "an unknown option": (["--sarch", "optuna"], "--sarch"),
    "an unknown path": (["--set", "optim.beta3=0.9"], "optim.beta2"),
    "a wrong type": (["--set", "train.steps=many"], "train.steps"),
    "no trials": (["--trials", "0"], "--trials"),
    "a name that leaves runs/": (["--name", "../x"], "--name"),
    "a missing config": (["--config", "absent.yaml"], "absent.yaml"),
    "missing data": (["--set", "data.source=absent.txt"], "data.source"),
    "empty data": (["--set", "data.source=empty.txt"], "data.source"),
    "fewer tokens than one window": (["--set", "data.source=short.npy", "--set", "data.vocab_size=9"], "window"),
    "a token id beyond the vocabulary": (["--set", "data.source=short.npy", "--set", "data.vocab_size=3"], "3"),
    "a vocabulary smaller than the data's": (
        ["--set", "data.source=short.npy", "--set", "data.vocab_size=9", "--set", "model.vocab_size=5"],
        "model.vocab_size",
    ),
    "a code-executing config": (["--config", "evil.yaml"], "evil.yaml:1"),
    "a database that does not answer": (["--set", "search.storage=nonsense://x"], "search.storage"),
    "a cluster that does not answer": (["--address", "127.0.0.1:1"], "--address"),
    "a GPU that is not there": (["--set", "train.device=cuda"], "train.device"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2_before_ray_starts(case, tmp_path):
    import numpy as np

    (tmp_path / "empty.txt").touch()
    np.save(tmp_path / "short.npy", np.arange(9, dtype=np.uint16))
    (tmp_path / "evil.yaml").write_text("name: !!python/object/apply:os.system ['touch executed']\n")
    arguments, fragment = BAD[case]
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert fragment in done.stderr
    assert not (tmp_path / "executed").exists()
    assert "dashboard" not in done.stdout
    assert not list(tmp_path.glob("runs/*/sweep.yaml"))


@pytest.mark.ray
def test_a_second_writer_is_refused_with_exit_code_3_and_the_first_goes_on(tmp_path):
    from sweeps.rundir.folder import RunFolder

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with RunFolder.named("quick").claimed():
            done = command("--trials", "4", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert str(os.getpid()) in done.stderr
    assert "Ray" not in done.stdout
