"""A config in a run's folder names its data by fingerprint, and finds them there if their files are gone."""

import shutil

import numpy as np
import pytest

from lmcore.corpus.tokens import load_tokens
from lmcore.errors import InputError
from sweeps.cli.options import parse
from sweeps.run import kept_tokens, load_sweep, main
from sweeps.rundir.folder import RunFolder
from sweeps.rundir.kept_data import find_data, kept_fingerprint, tokens_beside
from sweeps.spec.load import load_spec
from sweeps.sweep import with_data
from tests.training import train_without_ray

CONFIG = """\
data: {source: mine.npy, vocab_size: 97}
model: {d_model: 32, d_ff: 64, num_layers: 1, context_length: 32}
train: {steps: 2, eval_every: 1, batch_size: 2, eval_windows: 4, final_eval_windows: 4}
search: {method: random, trials: 1, scheduler: none}
space: {optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}
"""


@pytest.fixture
def run(in_tmp):
    """The folder of a sweep on mine.npy that has ended."""
    np.save("mine.npy", np.arange(3000, dtype=np.uint16) % 97)
    (in_tmp / "mine.yaml").write_text(CONFIG)
    spec, tokens = with_data(load_spec("mine.yaml"))
    return train_without_ray(spec, tokens, in_tmp / "runs" / "mine")


def dry_run(config, *more):
    return main(["--config", str(config), "--dry-run", *more])


def test_its_configs_name_the_fingerprint_of_its_tokens(run):
    fingerprint = load_tokens(run.tokens).fingerprint
    assert kept_fingerprint(run.tokens) == fingerprint
    for config in (run.best / "main.yaml", run.trial("main-0000") / "run.yaml"):
        assert load_spec(config).data.fingerprint == fingerprint
        assert tokens_beside(config) == run.tokens
    assert load_spec("mine.yaml").data.fingerprint is None


def test_on_the_same_data_nothing_is_noted(run):
    spec, _ = with_data(load_spec(run.best / "main.yaml"), tokens_beside(run.best / "main.yaml"))
    assert spec.notes == ()


def test_on_other_data_a_note_says_so_and_is_kept_with_the_sweep(run):
    np.save("mine.npy", np.arange(3000, dtype=np.uint16) % 96)
    before = load_spec(run.best / "main.yaml")
    spec, tokens = with_data(before, tokens_beside(run.best / "main.yaml"))
    assert spec.notes == (
        f"the data have the fingerprint {tokens.fingerprint[:12]}, and this config was written for "
        f"{before.data.fingerprint[:12]}: losses do not compare with those of that run",
    )
    assert spec.data.fingerprint is None  # the new sweep's own configs name its own


def test_data_that_are_gone_are_found_in_the_folder_wherever_that_is(run, in_tmp, capsys):
    (in_tmp / "mine.npy").unlink()
    shutil.move("runs/mine", "elsewhere")
    moved = RunFolder(in_tmp / "elsewhere")
    options = parse(["--config", "elsewhere/best/main.yaml"])
    spec, folder, resume = load_sweep(options)
    assert kept_tokens(options, folder, resume) == moved.tokens
    spec, tokens = with_data(spec, moved.tokens)
    assert spec.notes == ("the data's files are not there any more, so the tokens in elsewhere/tokens are used",)
    assert tokens.fingerprint == kept_fingerprint(moved.tokens)
    assert dry_run("elsewhere/best/main.yaml") == 0
    assert "Note: the data's files are not there any more" in capsys.readouterr().out


def test_a_note_shows_the_brackets_of_a_path(run, in_tmp, capsys):
    (in_tmp / "mine.npy").unlink()
    shutil.move("runs/mine", "[old]")
    assert dry_run("[old]/best/main.yaml") == 0
    assert "so the tokens in [old]/tokens are used." in capsys.readouterr().out


def test_tokens_of_another_run_and_data_that_were_asked_for_are_not_replaced(run, in_tmp, capsys):
    (in_tmp / "mine.npy").unlink()
    data = load_spec(run.best / "main.yaml").data
    with pytest.raises(InputError, match=r"data\.source: .*mine\.npy', which is not there"):
        find_data(data.model_copy(update={"fingerprint": "0" * 64}), run.tokens)
    assert dry_run(run.best / "main.yaml", "--set", "data.source=absent.npy") == 2
    assert capsys.readouterr().err == (
        "data.source: must be stdlib, a file or a folder (got 'absent.npy', which is not there); check the path\n"
    )


@pytest.mark.parametrize("field", ["source", "val_source", "tokenizer"])
def test_a_dry_run_checks_that_the_files_are_there(run, field, capsys):
    assert dry_run("mine.yaml", "--set", f"data.{field}=absent.npy") == 2
    assert capsys.readouterr().err.startswith(f"data.{field}: must be ")
    assert dry_run("mine.yaml") == 0


def test_a_dry_run_of_a_resume_needs_no_more_than_the_tokens_in_the_folder(run, in_tmp):
    (in_tmp / "mine.npy").unlink()
    assert main(["--resume", "runs/mine", "--dry-run"]) == 0


@pytest.mark.parametrize("config", ["mine.yaml", "best/main.yaml", "runs/mine/sweep.yaml"])
def test_any_other_config_has_no_tokens_beside_it(run, config):
    assert tokens_beside(run.path.parents[1] / config) is None
