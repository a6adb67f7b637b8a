"""manifest.json holds everything that a reader needs, and no password."""

import json
import re
import subprocess
import sys

import optuna
import pytest

import analysis
from analysis.report import build_report
from analysis.runs.load import RunError
from lmcore import columns as col
from lmcore.measure.slot_count import ThroughputSample
from sweeps.cluster.nodes import Node
from sweeps.cluster.ray_cluster import Cluster
from sweeps.engine.pool import SlotChoice
from sweeps.provenance import manifest as module
from sweeps.provenance.manifest import manifest
from sweeps.rundir.folder import RunFolder, write_json
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.storage import open_storage

CLUSTER = Cluster((Node("id", "host", "127.0.0.1", 0, cpus=256, gpus=0, cores=3, memory_bytes=2**30),))
SAMPLES = [ThroughputSample(1, 100.0, 1.0, 10), ThroughputSample(2, 180.0, 1.8, 20)]
PEAKS = [1e11, 1.1e11, 1.2e11]
CHOICES = [SlotChoice("xs", 2, SAMPLES), SlotChoice("s", 1, [])]
SECRET = "postgresql://reader:p%40ss@db.example:5432/sweeps"


def spec(**search):
    return SweepSpec.model_validate(
        {
            "name": "recorded",
            "data": {"source": "tokens.npy", "vocab_size": 97, "seed": 3},
            "model": {"vocab_size": 97},
            "train": {"seed": 4},
            "search": {"method": "random", "trials": 5, "seed": 5, **search},
            "space": {"optim.lr": {"low": 1e-3, "high": 1e-2}},
            "sizes": [{"name": "xs", "model.d_model": 64}, {"name": "s"}],
        }
    )


def test_analysis_finds_everything_it_needs(small_tokens, tmp_path):
    folder = RunFolder(tmp_path)
    write_json(folder.manifest, manifest(spec(), small_tokens, CLUSTER, PEAKS, CHOICES))
    ledger = Ledger(spec(), open_storage(None, folder))
    live = ledger.ask(ledger.sizes_left[0])
    ledger.report(live.id, dict.fromkeys(col.LAST_COLUMNS, 1.0) | {col.STEP: 200})
    ledger.end(live.id)
    run = analysis.load(tmp_path)
    assert list(run.trials[col.TRIAL]) == [live.id]
    *_, data, versions = build_report(run).notes
    assert f"fingerprint {small_tokens.fingerprint}; vocabulary 97, 20.0k training and 4.00k validation" in data
    assert f"unigram entropy {small_tokens.unigram_entropy:.3f}" in data
    assert f"optuna {optuna.__version__}" in versions
    assert "unknown" not in data


def test_it_records_seeds_search_hardware_and_command(small_tokens, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/sweeps/run.py", "--trials", "5"])
    values = manifest(spec(), small_tokens, CLUSTER, PEAKS, CHOICES)
    assert values["schema"] == 2
    assert values["seeds"] == {"search": 5, "train": 4, "data": 3}
    assert values["search"] == {"method": "random", "scheduler": "asha", "trials": 5, "most_trials": 5}
    assert values["sizes"] == ["xs", "s"]
    hardware = values["hardware"]
    assert hardware["peak_flops_per_s"] == PEAKS
    assert (hardware["engines"], hardware["cluster_cores"], hardware["cluster_gpus"]) == (3, 3, 0)
    assert values["slots"] == {
        "xs": {"per_engine": 2, "measured": [sample._asdict() for sample in SAMPLES]},
        "s": {"per_engine": 1, "measured": []},
    }
    assert json.loads(json.dumps(values)) == values
    assert values["command"] == ["run.py", "--trials", "5"]
    assert values["storage"] is None
    assert values["versions"]["ray"]


def test_the_commit_marks_local_changes(small_tokens, tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit():
        return manifest(spec(), small_tokens, CLUSTER, PEAKS, CHOICES)["commit"]

    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None  # no checkout
    git("init")
    assert commit() is None  # nothing committed
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "first")
    assert commit() == git("rev-parse", "HEAD")
    results = tmp_path / "tests" / "bench" / "results"
    results.mkdir(parents=True)
    (results / "new.json").write_text("{}")
    assert commit() == git("rev-parse", "HEAD")  # results of a benchmark change no code
    (tmp_path / "file").write_text("two")
    changed = commit()
    assert re.fullmatch(re.escape(git("rev-parse", "HEAD")) + r"\+changes-[0-9a-f]{8}", changed)
    (tmp_path / "file").write_text("three")
    assert commit()[:48] == changed[:48]
    assert commit() != changed  # other changes are another program


def test_a_password_of_the_storage_is_not_in_it(small_tokens, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "--set", f"search.storage={SECRET}"])
    values = manifest(spec(storage=SECRET), small_tokens, CLUSTER, PEAKS, CHOICES)
    assert "p%40ss" not in json.dumps(values)
    assert values["storage"] == "postgresql://reader:***@db.example:5432/sweeps"
    assert values["command"] == ["run.py", "--set", f"search.storage={values['storage']}"]


@pytest.mark.parametrize(
    "url",
    ["sqlite:////data/a%20b/study.db", "postgresql://reader@db.example/sweeps", "mysql://db.example/x?charset=utf8"],
)
def test_a_storage_url_without_a_password_is_recorded_unchanged(url, small_tokens):
    assert manifest(spec(storage=url), small_tokens, CLUSTER, PEAKS, CHOICES)["storage"] == url


def test_analysis_says_where_a_password_that_is_not_recorded_belongs(small_tokens, tmp_path):
    write_json(tmp_path / "manifest.json", manifest(spec(storage=SECRET), small_tokens, CLUSTER, PEAKS, CHOICES))
    with pytest.raises(RunError, match=r"add --storage .*, with the password in place of \*\*\*") as error:
        analysis.load(tmp_path)
    assert "\n" not in str(error.value)


def test_an_error_of_the_storage_does_not_show_its_password(tmp_path):
    from lmcore.errors import InputError

    with pytest.raises(InputError, match=r"nonsense://reader:\*\*\*@db.example") as error:
        open_storage("nonsense://reader:p%40ss@db.example/x", RunFolder(tmp_path))
    assert "p%40ss" not in str(error.value)
