"""The coordinate check finds muP flat, the standard parametrization not, and each factor of muP that is missing."""

import json
import math

import pytest

from lmcore.config import DataConfig, ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.coordinates import __main__ as command
from lmcore.coordinates.record import KINDS, at_width, coordinates
from lmcore.coordinates.slopes import FLAT, Coordinate, slopes
from lmcore.errors import InputError
from lmcore.parametrization import PARAMETRIZATIONS
from lmcore.runfile.paths import apply

WIDTHS = (64, 128, 256)
STANDARD, MUP = PARAMETRIZATIONS["standard"], PARAMETRIZATIONS["mup"]


def small_run(parametrization="mup", **model):
    shape = {"vocab_size": 97, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 176, "context_length": 32}
    return RunSpec(
        model=ModelConfig(**shape | model, parametrization=parametrization),
        train=TrainConfig(batch_size=8, dtype="float32"),
        optim=OptimConfig(lr=1e-2),
    )


def slopes_of(run, tokens, steps=8):
    rows = [row for width in WIDTHS for row in coordinates(at_width(run, width), tokens, steps, seeds=2)]
    return {one.kind: one for one in slopes(rows)}


@pytest.mark.parametrize(("tied", "optimizer"), [(False, "adamw"), (True, "adamw"), (False, "muon")])
def test_mup_is_flat(small_tokens, tied, optimizer):
    run = apply(small_run(tie_embeddings=tied), {"optim.name": optimizer})
    found = slopes_of(run, small_tokens)
    assert tuple(found) == KINDS
    assert all(one.flat for one in found.values()), found


def test_the_standard_parametrization_is_not(small_tokens):
    found = slopes_of(small_run("standard"), small_tokens)
    steep = {kind for kind, one in found.items() if not one.flat}
    assert steep >= {"attention", "feed-forward", "residual stream", "logits"}


@pytest.mark.parametrize("missing", ["init_factor", "lr_factor", "logit_multiplier"])
def test_a_factor_that_is_missing_is_found(small_tokens, monkeypatch, missing):
    monkeypatch.setitem(PARAMETRIZATIONS, "mup", MUP._replace(**{missing: getattr(STANDARD, missing)}))
    assert not all(one.flat for one in slopes_of(small_run(), small_tokens).values())


def test_slopes_are_those_of_power_laws_in_the_mean_over_seeds():
    rows = [
        Coordinate(w, seed, step, "logits", 3 * w**-0.5 * (1 + seed), step * w**0.25 * (1 + seed))
        for w in (64, 128, 512)
        for seed in (0, 1)
        for step in (0, 1, 2)
    ]
    [one] = slopes(rows)
    assert one.initial == pytest.approx(-0.5)
    assert one.change == pytest.approx(0.25)
    assert one.flat


@pytest.mark.parametrize(
    ("initial", "change", "flat"),
    [(-0.5, 0.0, True), (FLAT + 0.01, 0.0, False), (0.0, -FLAT - 0.01, False), (0.0, math.nan, False)],
)
def test_nothing_may_grow_at_the_start_and_changes_must_be_equal(initial, change, flat):
    change_at = {64: 1.0, 128: 2.0**change}
    rows = [Coordinate(w, 0, step, "logits", w**initial, step * v) for w, v in change_at.items() for step in (0, 1)]
    assert slopes(rows)[0].flat is flat


def test_a_wider_model_has_more_heads_of_the_same_width():
    run = small_run(num_kv_heads=2, norm="post")
    wide = at_width(run, 192).model
    assert (wide.d_model, wide.num_heads, wide.num_kv_heads, wide.d_ff, wide.head_dim) == (192, 12, 6, 528, 16)
    assert at_width(run, 64) == run
    with pytest.raises(InputError, match=r"--widths: must be multiples of 32, .*\(got 80\)"):
        at_width(run, 80)


# The command


@pytest.fixture
def without_data(monkeypatch, small_tokens):
    monkeypatch.setattr("lmcore.corpus.prepare.prepare_tokens", lambda config: small_tokens)


def test_the_command_writes_every_number_and_its_exit_code_is_the_verdict(without_data, tmp_path, capsys):
    options = ["--widths", "64", "128", "--steps", "2", "--seeds", "1", "--out", str(tmp_path / "out")]
    assert command.main([*options, "--parametrization", "standard"]) == 1
    out = capsys.readouterr().out
    assert "by update 2" in out
    assert "Not flat, with a slope steeper than 0.35: attention" in out
    document = json.loads((tmp_path / "out" / "coordinates.json").read_text())
    assert document["flat"] is False
    assert document["run"]["model"]["parametrization"] == "standard"
    assert [one["kind"] for one in document["slopes"]] == list(KINDS)
    assert len(document["rows"]) == 2 * 3 * len(KINDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--widths", "64"], "--widths: must be at least two"),
        (["--widths", "64", "72"], "--widths: must be multiples of 16"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_wrong_input_is_one_line(without_data, options, message, capsys):
    assert command.main(options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_sweeps_file_is_widened_in_either_parametrization(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("model: {vocab_size: 97, d_model: 32, parametrization: mup, base_width: 32, base_head_dim: 8}\n")
    options = command.parser("").parse_args(["--config", str(file)])
    assert command._run(options).model.base_width == 32
    options = command.parser("").parse_args(["--config", str(file), "--parametrization", "standard"])
    assert command._run(options).model == ModelConfig(vocab_size=97, d_model=32)
    assert command._run(options).data == DataConfig()
