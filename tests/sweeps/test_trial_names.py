"""`--trial NAME` takes the trial that the report's table names, or the next best one that serves, and says so."""

import json
import math
import shutil

import pytest

import analysis
from lmcore.errors import InputError
from lmcore.export.llama import unlike_llama
from sweeps import export
from sweeps.cli.ranked_settings import ranked_settings
from sweeps.cli.recorded_trials import read_trials
from sweeps.cli.select_trial import Purpose, select_trial
from sweeps.cli.trial_names import Scope, resolve
from sweeps.provenance.manifest import sweep_entries
from sweeps.rundir.checkpoints import checkpoint_files, drop_checkpoints
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.storage import open_storage
from tests.sweeps.test_confirmation import drive
from tests.sweeps.test_confirmation import spec as arms_spec
from tests.training import train_without_ray

MODEL = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32, "context_length": 16, "vocab_size": 97}
SIZES = [{"name": "s", "model.d_model": 32}, {"name": "xs"}]
ABLATION = {
    "name": "ablation",
    "model": MODEL,
    "data": {"source": "<img src=x>|`/tokens.npy", "vocab_size": 97},
    "train": {"steps": 4, "eval_every": 2, "batch_size": 4, "eval_windows": 4},
    "search": {"method": "experiments", "scheduler": "none"},
    "confirm": {"top": 1, "seeds": 2},
    "experiments": [
        {"name": "post", "optim.lr": 0.1, "model.norm": "post"},  # leads
        {"name": "baseline", "optim.lr": 0.05},
        {"name": "gelu", "optim.lr": 0.02, "model.ffn": "gelu"},
        {"name": "slow", "optim.lr": 1e-9},  # last: its weights are deleted below
    ],
}
EXPERIMENTS = {**ABLATION, "model": {}, "train": {"steps": 20, "eval_every": 10, "batch_size": 4}, "data": {}}
SPECS = {
    "arms that were confirmed": arms_spec(sizes=[{"name": "xs"}, {"name": "s", "model.d_model": 256}]),
    "arms that were not": arms_spec(confirm={"top": 0}),
    "one size": arms_spec(compare=[], space={"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}}),
    "seeds that were searched": arms_spec(
        space={"train.seed": {"choices": [0, 1, 2]}, "optim.lr": {"choices": [1e-3, 1e-2]}},
        **{"search": {"method": "grid", "scheduler": "none"}, "compare": [], "confirm": {"top": 0}},
    ),
    "experiments": SweepSpec.model_validate({**EXPERIMENTS, "sizes": [{"name": "xs"}, {"name": "s"}]}),
}


@pytest.mark.parametrize("case", SPECS)
def test_the_leaders_are_those_of_the_reports_table(case, in_tmp):
    spec, folder = SPECS[case], RunFolder(in_tmp / "run")
    folder.path.mkdir()
    storage = open_storage(None, folder)
    drive(Ledger(spec, storage))
    storage.engine.dispose()
    data = {"source": "stdlib", "fingerprint": "f00d", "vocab_size": 2048, "bytes_per_token": 3.0}
    data |= {"train_tokens": 20_000, "val_tokens": 4_000, "val_entropy_unigram": 4.0}
    folder.manifest.write_text(json.dumps({**sweep_entries(spec), "data": data}))
    folder.metrics.touch()
    table = analysis.parameter_table(analysis.load(folder.path).trials)
    trials = read_trials(spec, folder)
    assert len(table) >= len(spec.size_names)
    for wanted in table.to_dict("records"):
        name = wanted.get("experiment") or (wanted["arm"] if spec.compare else "best")
        scope, _ = resolve(f"{name}:{wanted['size']}", spec, trials, "run")
        leader = ranked_settings(trials, scope.trials(trials))[0]
        assert leader.trials[0] == wanted["trial"]
        assert leader.mean == pytest.approx(wanted["loss"])
        assert len(leader.losses) == wanted["seeds"]
        assert (leader.half or math.nan) == pytest.approx(wanted["half"], nan_ok=True)


@pytest.fixture
def ablation(in_tmp, small_tokens):
    """The folder of an ablation that was trained and confirmed."""
    folder = train_without_ray(
        SweepSpec.model_validate(ABLATION), small_tokens, in_tmp / "runs" / "ablation", trials=12
    )
    trials = read_trials(SweepSpec.model_validate(ABLATION), folder)
    for one in ("main-0003", *(one for one, trial in trials.items() if trial.of == "main-0003")):
        drop_checkpoints(folder.trial(one))
    return folder


def test_an_experiment_is_exported_by_its_name_and_best_is_the_best_that_can_be(ablation, capsys):
    kept = {path.parent.name for path in ablation.path.glob("trials/*/*.safetensors")}
    assert {"main-0000", "main-0001", "main-0002"} <= kept
    assert "main-0003" not in kept
    assert export.main([str(ablation.path), "--trial", "baseline", "--out", "named"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("main-0001 (complete): ")
    assert err.startswith(
        "Note: --trial baseline is main-0001: the best setting of experiment baseline (3 runs, of mean"
    )
    assert export.main([str(ablation.path), "--out", "best"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("main-0001 (complete): ")
    assert err == "Note: main-0001 was taken in place of main-0000 (post: model.norm is post)\n"
    assert generate_title(ablation, capsys).startswith("main-0000 ")


def generate_title(folder, capsys):
    """What `generate` would sample from: any architecture."""
    return select_trial(folder.path).title


def test_without_weights_another_run_of_the_setting_is_taken_and_then_another_setting(ablation):
    purpose = Purpose("for a test", "", lambda config: ", ".join(unlike_llama(config)) or None)
    confirming = [
        one
        for one, trial in read_trials(SweepSpec.model_validate(ABLATION), ablation).items()
        if trial.of == "main-0001"
    ]
    source = checkpoint_files(ablation.trial("main-0001"))
    assert source
    shutil.rmtree(ablation.trial("main-0001"))
    left = [one for one in confirming if checkpoint_files(ablation.trial(one))]
    if left:
        taken = select_trial(ablation.path, "baseline", purpose=purpose)
        assert taken.id in left
        assert taken.notes[0].startswith(f"{taken.id} was taken in place of main-0001 (baseline: no weights)")
    for one in left:
        shutil.rmtree(ablation.trial(one))
    # A setting is named once, whatever the number of its runs.
    with pytest.raises(
        InputError, match=r"baseline must have a complete trial for a test \(got main-0001 \(baseline: no"
    ):
        select_trial(ablation.path, "baseline", purpose=purpose)
    with pytest.raises(InputError, match=r"--trial best: size main must have .*gelu: model.ffn\) and 1 more\); "):
        select_trial(ablation.path, purpose=purpose)


def test_if_nothing_can_be_exported_it_is_one_line(ablation, capsys):
    for name in ("post", "gelu", "slow"):
        assert export.main([str(ablation.path), "--trial", name, "--out", "out"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(
            f"--trial {name}: experiment {name} must have a complete trial that can be exported (got main"
        )
        assert err.count("\n") == 1
    assert not (ablation.path.parent.parent / "out").exists()


NAMED = SweepSpec.model_validate(
    {
        **EXPERIMENTS,
        "name": "named",
        "sizes": [{"name": "tied"}, {"name": "large", "model.d_model": 256}],
        "experiments": [{"name": "tied"}, {"name": "best"}, {"name": "tied-0000"}, {"name": "other"}],
    }
)
ARMS = arms_spec(sizes=[{"name": "xs"}, {"name": "s", "model.d_model": 256}])


def test_a_name_has_one_meaning_or_is_refused_with_names_that_have_one():
    trials = {"tied-0000": None, "large-0001": None}
    assert resolve("tied-0000", NAMED, trials, "run") == (
        "tied-0000",
        "--trial tied-0000 is trial tied-0000, not the experiment of that name",
    )
    scope, note = resolve("best", NAMED, trials, "run")
    assert (scope, note) == (Scope("large"), "--trial best is the best trial, not the experiment of that name")
    with pytest.raises(InputError, match=r"'tied', which is the experiment \(tied:large\) and the size \(best:tied\)"):
        resolve("tied", NAMED, trials, "run")
    assert resolve("tied:large", NAMED, trials, "run") == (Scope("large", experiment="tied"), None)
    assert resolve("best:tied", NAMED, trials, "run") == (Scope("tied"), None)
    assert resolve("other", NAMED, trials, "run") == (Scope("large", experiment="other"), None)
    with pytest.raises(InputError, match=r"got 'othr'\); the nearest are other"):
        resolve("othr", NAMED, trials, "run")


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("s", Scope("s")),
        ("best:xs", Scope("xs")),
        ("s-untied", Scope("s", "s-untied")),
        ("best:xs-tied", Scope("xs", "xs-tied")),
        ("tied", Scope("s", "s-tied")),
        ("tied:xs", Scope("xs", "xs-tied")),
    ],
)
def test_sizes_and_arms_have_names(name, scope):
    assert resolve(name, ARMS, {}, "run") == (scope, None)


def test_the_model_card_says_what_the_model_is_and_nothing_in_it_is_markup(ablation):
    yaml = pytest.importorskip("yaml")
    manifest = {"commit": "<script>|\n# x", "versions": {"torch": "[a](http://b)"}, "created": "2026"}
    ablation.manifest.write_text(json.dumps(manifest))
    assert export.main([str(ablation.path), "--trial", "baseline", "--out", "out"]) == 0
    text = (ablation.path.parents[1] / "out" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "model_name": "ablation main-0001",
        "tags": ["lmsweep", "llama", "research"],
    }
    setting = select_trial(ablation.path, "baseline").setting
    assert f"| {setting.mean:.3f} +- {setting.half:.3f} nats per token (mean over 3 seeds;" in body
    assert "| optim.lr | 0.05 |" in body
    assert "&lt;script&gt;\\| # x" in body
    assert "torch \\[a\\](http:&#47;&#47;b)" in body
    assert "<" not in body
    assert all(line.count("|") - line.count("\\|") == 3 for line in body.splitlines() if line.startswith("|"))
