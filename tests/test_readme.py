"""What the README says of the code is so."""

import json
import re
import shlex
import statistics
from pathlib import Path

import pytest

from tests.bench import performance

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^ {4}python sweeps/run\.py (.*?)(?: {2,}#.*)?$", README, flags=re.MULTILINE)


def test_the_map_names_every_file_once_and_none_that_is_not_there():
    named = re.findall(r"^\| \[`\w+\.py`\]\((\w+/\w+\.py)\)", README, flags=re.MULTILINE)
    files = [str(p.relative_to(ROOT)) for part in ("lmcore", "sweeps", "analysis") for p in (ROOT / part).glob("*.py")]
    assert sorted(named) == sorted(f for f in files if not f.endswith("__init__.py"))


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README + (ROOT / "CONTRIBUTING.md").read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_parses(command, tmp_path):
    from sweeps.cli.options import parse
    from sweeps.spec.load import load_spec

    options = parse(shlex.split(command))
    config = options.config
    if not (ROOT / config).exists():  # my.yaml and runs/... are the reader's
        config = ROOT / "configs" / "quick.yaml"
    assert load_spec(ROOT / config, options.set, **options.flags).name


def test_the_profile_of_the_readme_names_a_size_that_is_there():
    from lmcore.profile.__main__ import parser
    from lmcore.runfile.run_file import load_run

    [command] = re.findall(r"^ {4}python -m lmcore\.profile (.*)$", README, flags=re.MULTILINE)
    options = parser().parse_args(shlex.split(command))
    assert load_run(ROOT / options.config, options.size).size == options.size


def test_the_quoted_sweep_is_the_committed_one():
    measured = json.loads((ROOT / "tests" / "bench" / "results" / "quick.json").read_text())
    assert f"{measured['median_seconds'] / 60:.1f} minutes" in README
    for row in measured["runs"][0]["table"]:
        assert f"{float(row['val_loss']):.3f}" in README
        assert row["trial"] in README


def results(name):
    return json.loads((ROOT / "tests" / "bench" / "results" / f"{name}.json").read_text())


def test_the_quoted_gains_of_packing_are_the_committed_ones():
    for name, size in results("packing-cpu")["uncompiled"]["sizes"].items():
        row = next(line for line in README.splitlines() if line.startswith(f"| {name} parameters |"))
        arms = {arm: f"{values['vs_better']:.2f}x" for arm, values in size["arms"].items()}
        quoted = re.findall(r"[\d.]+x", row)
        assert quoted == [arms[arm] for arm in ("packed 2", "packed 4", "packed 8", "packed 16", "auto") if arm in arms]
        assert f"(K = {size['arms']['auto']['slots'][0]})" in row


def test_the_quoted_sweeps_and_costs_of_a_trial_are_the_committed_ones():
    for key, label in (("16x80", "16 trials of 80 steps"), ("64x20", "64 trials of 20 steps")):
        measured = results("sweep")[f"{key} slots=auto"]
        row = next(line for line in README.splitlines() if line.startswith(f"| {label} |"))
        assert re.findall(r"[\d.]+x", row) == [f"{ratio:.2f}x" for ratio in measured["plain_over_ours"].values()]
        for side, digits in (("ours", 2), ("plain", 1)):
            rounds = [measured_round[side] for measured_round in measured["rounds"]]
            assert f"{statistics.median(r['useful_share'] for r in rounds):.0%}" in row
            assert f"{statistics.median(r['refill_s']['median'] for r in rounds):.{digits}f} s" in row
    control = results("control")
    text = " ".join(README.split())
    assert f"costs {control['long_run']['trial_ms']:.0f} ms in a sweep of {control['long_run']['trials']}" in text
    for peer, place in (("defaults", "in Tune as it comes"), ("reuse", "with `reuse_actors`")):
        assert f"{statistics.median(block[peer]['trial_ms'] for block in control['blocks']):.0f} ms {place}" in text


FAULTS = {  # which faults of `make faults` a row of the README counts
    "driver killed, at once or in eight moments": r"^driver kill",
    "engine or stand-in of a trial killed or hung": r"^engine|^trial",
    "node or head of the cluster lost": r"^node|^head",
    "Ctrl-C, SIGTERM": r"^SIG",
    "second driver on the folder": r"^two drivers",
    "writer killed at every write, sync, renaming or statement": r"killed at every",
    "metrics.jsonl, SQLite's journal cut anywhere": r"cut at",
    "study.db or metrics.jsonl damaged or missing": r"damaged or missing",
    "newest checkpoint damaged, forged or another trial's": r"^newest checkpoint",
    "disk full": r"^disk full",
    "clock set back an hour": r"^clock",
    "loss that is NaN, x100 or explodes": r"^NaN|^loss|^lr =|explode",
    "wandb killed, raising, without network": r"wandb raising|^wandb killed|^network",
    "config that executes or explodes; names and links that lead elsewhere": r"config$|^config|as names|^symbolic",
    "strangers without the token; keys and passwords in files, logs, titles": r"^stranger|^dashboard|^canary",
}


def test_the_quoted_faults_are_the_committed_ones():
    measured = results("faults")["faults"]
    counted = []
    for label, pattern in FAULTS.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| {label} |"))
        faults = [fault for fault in measured if re.search(pattern, fault["fault"])]
        counted += [fault["fault"] for fault in faults]
        injected = sum(fault["injected"] for fault in faults)
        assert injected == sum(fault["survived"] for fault in faults)
        seconds = [s for fault in faults for s in fault["recovery_s"]]
        assert [cell.strip() for cell in row.split("|")][2] == str(injected)
        assert [cell.strip() for cell in row.split("|")][4] == (f"{statistics.median(seconds):.0f}" if seconds else "")
    assert sorted(counted) == sorted(fault["fault"] for fault in measured)


def test_the_quoted_cost_of_a_kill_is_the_committed_one():
    measured = results("resume")
    goal = measured["median"]["start_up_s"] + measured["median"]["interval_s"]
    text = " ".join(README.split())
    assert f"{measured['median']['extra_s']:.0f} s more than one left alone" in text
    assert f"(start-up and one interval: {goal:.0f} s)" in text


def test_the_quoted_trust_in_fits_and_time_of_loading_are_the_committed_ones():
    measured, loading = results("scaling"), results("load")
    designs = measured["coverage"]["designs"]
    coverage = [number["coverage_percent"] for design in designs.values() for number in design.values()]
    lost = measured["steplaw"]["loss_above_best_percent"]
    text = " ".join(README.split())
    for quoted in (
        f"{measured['coverage']['sets']} simulated sweeps of each of {len(designs)} designs",
        f"in {min(coverage):g} to {max(coverage):g} % of cases ({len(coverage)} numbers)",
        f"{measured['steplaw']['runs']:,} public runs lose {lost['ours']['best_batch_mean']:.3f} %",
        f"published with them {lost['published']['best_batch_mean']:.3f} %",
        f"{measured['time']['resamples']:,} resamples of a loss law of {measured['time']['runs']} runs take "
        f"{measured['time']['wall_s']:.1f} s",
        f"{loading['rounds'][0]['trials']:,} trials and {loading['rounds'][0]['rows']:,} rows loads in "
        f"{loading['median']['load_s']:.1f} s and {loading['median']['peak_bytes'] / 1e9:.1f} GB",
    ):
        assert quoted in text


def test_the_table_of_the_cores_speed_is_made_of_the_committed_measurements():
    assert performance.BEGIN + performance.table() + performance.END in README
