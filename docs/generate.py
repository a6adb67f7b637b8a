"""Write the pages that are made from code and measurements: `python docs/generate.py`, or `--check` to compare only.

| page                    | made from                                                            |
|-------------------------|----------------------------------------------------------------------|
| reference/sweep-file.md | the fields of the config classes and the docstrings under them       |
| reference/commands.md   | the `--help` of every command                                        |
| reference/columns.md    | the comments in `lmcore/columns.py`                                  |
| benchmarks.md           | the JSON files that scripts under `tests/bench/` have written        |
| ../README.md            | between `<!-- speed -->`, `<!-- gpu -->` and their ends: these files |

The pages are committed, so that they can be read on the web without a build; a test fails when they are out of date.
"""

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
RESULTS = ROOT / "tests" / "bench" / "results"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "bench")]

from pydantic import BaseModel  # noqa: E402
from pydantic.fields import FieldInfo  # noqa: E402

MADE = "<!-- Made by docs/generate.py; edit its source instead. -->\n\n"


# The reference of a sweep's file


def sweep_file() -> str:
    """Every field, its type, default and docstring, section by section."""
    from lmcore.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
    from sweeps.spec.arms import ConfirmConfig
    from sweeps.spec.ladder import LadderConfig
    from sweeps.spec.settings import SearchConfig, TrackingConfig
    from sweeps.spec.space import Choices, Derived, JointChoices, Range
    from sweeps.spec.sweep_spec import SweepSpec

    sections = {
        "data": DataConfig,
        "model": ModelConfig,
        "train": TrainConfig,
        "optim": OptimConfig,
        "search": SearchConfig,
        "ladder": LadderConfig,
        "confirm": ConfirmConfig,
        "tracking": TrackingConfig,
    }
    own = {name: field for name, field in SweepSpec.model_fields.items() if name not in sections}
    text = (
        MADE + "# A sweep's file\n\n"
        "A sweep is one YAML file. Every field has a default, so a file holds only what differs. A dotted path such as\n"
        "`optim.lr` names a field everywhere: under `space`, `sizes` and `experiments`, in `--set optim.lr=1e-3`, and in\n"
        "the columns of tables (`params.optim.lr`). Unknown keys are errors that name the nearest valid key.\n\n"
        "## Top level\n\n" + _fields(own.items(), "")
    )
    for name, config in sections.items():
        text += f"\n## `{name}`\n\n{_first_paragraph(config)}\n\n" + _fields(config.model_fields.items(), f"{name}.")
    text += (
        "\n## Entries of `space`\n\nThe key is the dotted path of a field, or a name of your own for choices of several fields. "
        "[Search spaces](../howto/spaces.md) has examples.\n"
    )
    for title, entry in {
        "Range": Range,
        "Choices": Choices,
        "Several fields": JointChoices,
        "Computed": Derived,
    }.items():
        own = sorted(entry.model_fields.items(), key=lambda named: named[0] == "when")
        text += f"\n### {title}\n\n{_first_paragraph(entry)}\n\n" + _fields(own, "")
    return text


def _first_paragraph(config: type[BaseModel]) -> str:
    return " ".join((config.__doc__ or "").split("\n\n")[0].split())


def _fields(fields: Iterable[tuple[str, FieldInfo]], prefix: str) -> str:
    lines = []
    for name, field in fields:
        described = " ".join((field.description or "").split())
        lines.append(f"`{prefix}{name}`\n: {_type(field.annotation)}, default {_default(field)}. {described}\n")
    return "\n".join(lines)


def _type(annotation: Any) -> str:
    """The type in a user's words: `integer`, `number`, `one of a, b`, ..."""
    origin = get_origin(annotation)
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (list, tuple):
        return "list"
    if origin is dict or "Mapping" in str(origin):
        return "mapping"
    if get_args(annotation):
        parts = [_type(part) for part in get_args(annotation) if isinstance(part, type) or get_origin(part)]
        parts += ["null"] if type(None) in get_args(annotation) else []
        return " or ".join(dict.fromkeys(part for part in parts if part))
    names = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): ""}
    return names.get(annotation, "mapping")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none: it must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{json.dumps(value, default=lambda v: list(v) if not hasattr(v, 'items') else dict(v))}`"


# The reference of the commands


def commands() -> str:
    """The help of every command, as it is printed."""
    text = MADE + "# Commands\n\n`lmsweep COMMAND` and the scripts of the repository are the same functions.\n"
    for name in (
        "run",
        "report",
        "export",
        "generate",
        "status",
        "dashboard",
        "replay",
        "coordcheck",
        "exclude",
        "cluster-token",
    ):
        text += f"\n## `lmsweep {name}`\n\n```text\n{_help('lmsweep.py', name)}```\n"
    text += f"\n## `python -m lmcore.profile`\n\n```text\n{_help('-m', 'lmcore.profile')}```\n"
    return text


def _help(*command: str) -> str:
    environment = os.environ | {"COLUMNS": "80", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    full = [sys.executable, *command, "--help"]
    return subprocess.run(full, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


# The reference of the columns


def columns() -> str:
    """The columns of rows and of the trials table, with the comments beside their names."""
    text = MADE + "# Columns\n\n"
    text += (
        "A *row* is what a trial reports at an interval: one JSON line in `metrics.jsonl`, one row of `run.rows`. The\n"
        "*trials* table has one row per trial (`run.trials`): first trial, size, arm, experiment, status, loss,\n"
        "loss_se, step, tokens, then the fields that were searched, then the rest. Losses are nats per token, times are\n"
        "seconds. A number that is not finite is `null`.\n"
    )
    heading = ""
    for line in (ROOT / "lmcore" / "columns.py").read_text().splitlines():
        named = re.match(r'([A-Z_]+)(?:: Final)? = "(\w+\.?)"(?:  # (.*))?$', line)
        if line.startswith("# "):
            heading += line[1:]
        elif named:
            if heading:
                text += f"\n{heading.strip()}\n\n| name | meaning |\n|---|---|\n"
                heading = ""
            text += f"| `{named[2]}` | {(named[3] or '').replace('<', '&lt;')} |\n"
        elif line.startswith("class "):
            break
    return text


# Benchmarks


def benchmarks() -> str:
    """Tables of every committed measurement; how each was made stands under it."""
    import performance

    from tests.bench.gpu import tables as gpu_tables

    parts = [
        MADE + "# Benchmarks\n\n"
        "Every number on this page comes from a JSON file in `tests/bench/results`, which the script that is named\n"
        "wrote, with command, hardware, versions and commit. Ratios are medians of alternating runs.\n",
        "## The core\n\n`python tests/bench/core.py --nanogpt DIR` races the core with its peers in one process, taking\n"
        "turns. Above 1, lmsweep is faster.\n\n" + performance.table(),
        _packing(),
        gpu_tables.section(gpu_tables.load()),
        _search(),
        _sweeps(),
        _control(),
        _data(),
        _scale(),
        _watching(),
        _log_every(),
        _generating(),
        _faults(),
        _verdicts(),
        _analysis(),
        _transfer(),
        _ladder(),
        _mup(),
    ]
    return "\n".join(parts)


def _load(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def _source(name: str, result: dict[str, Any]) -> str:
    return f"\nMeasured by `{result['command']}` ({name}.json, commit {result['commit'][:10]}).\n"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _median(values: Iterable[float | None]) -> float | None:
    """None if a value is missing."""
    known = list(values)
    return None if None in known else statistics.median(known)


def _packing() -> str:
    result = _load("packing-cpu")["uncompiled"]
    arms = ["packed 2", "packed 4", "packed 8", "packed 16", "auto"]
    rows = []
    for size, measured in result["sizes"].items():
        cells = [f"{measured['arms'][arm]['vs_better']:.2f}x" if arm in measured["arms"] else "-" for arm in arms]
        rows.append([f"{size} parameters", *cells[:-1], f"{cells[-1]} (K = {measured['arms']['auto']['slots'][0]})"])
    return (
        "## Packed trials\n\nTokens/s of K slots trained as one program on each of two CPU cores, divided by those of one\n"
        "process per core that trains its trials one after the other. With K = 1, `auto` is the baseline itself, so the\n"
        "entry shows only noise.\n\n"
        + _table(["model", "K = 2", "K = 4", "K = 8", "K = 16", "`auto`"], rows)
        + _source("packing-cpu", result)
    )


def _search() -> str:
    import search_figure

    about, gaps = _load("curves"), _load("curves-check")["sizes"]
    return (
        "## Search\n\n`python tests/bench/search.py` compares searches on recorded runs, at equal training. The *regret* is the\n"
        "expected loss of the setting that a search would answer with, minus the lowest in the space: the best of its\n"
        "trials that were trained to their end. Means over search seeds with 95 % intervals; the difference from plain Ray\n"
        "Tune is that of pairs of equal seeds. All slots are always busy, so the wall clock is the training divided by the\n"
        "number of slots. *lmsweep's default* is `search.method: optuna` with `scheduler: asha`; the\n"
        "other names are `method-scheduler`.\n\n"
        "![Regret of four searches against training](images/search.png)\n\n"
        + search_figure.tables()
        + f"\nThe problems curves-xs and curves-s are predictions between {about['runs']:,} recorded runs of two tiny models\n"
        f"(`{about['command']}`, curves.json, commit {about['commit'][:10]}). They are the same for every search, but not a\n"
        "trained model. Where the lowest losses are predicted, runs that were trained for it ended higher, by"
        f" {gaps['xs']['lowest']['trained_minus_predicted']:.2f} and {gaps['s']['lowest']['trained_minus_predicted']:.2f}\n"
        "(`python tests/bench/curves_check.py`, curves-check.json).\n"
        "steplaw is a table of final losses of 215M parameters at 100B tokens (Li et al., 2025), on which no search can stop\n"
        "trials early.\n"
    )


def _sweeps() -> str:
    rows = []
    results = _load("sweep")
    sweeps = {"16x80": "16 trials of 80 steps", "64x20": "64 trials of 20 steps"}
    for peer, (key, label) in itertools.product(("", " nanoGPT"), sweeps.items()):
        if (measured := results.get(f"{key} slots=auto{peer}")) is None:
            continue
        label += ", Tune around nanoGPT's model" if peer else ""
        share, refill = (
            {side: _median(value(one[side]) for one in measured["rounds"]) for side in ("ours", "plain")}
            for value in (lambda one: one["useful_share"], lambda one: one["refill_s"]["median"])
        )
        best = {side: statistics.mean(one[side]["best_whole_loss"] for one in measured["rounds"]) for side in share}
        reached = sum(one["ours"]["to_target_s"] is not None for one in measured["rounds"])
        rows.append(
            [
                label,
                *(f"{ratio:.2f}x" for ratio in measured["plain_over_ours"].values()),
                f"{best['ours']:.3f} (Tune {best['plain']:.3f})",
                f"{reached} of {len(measured['rounds'])}",
                " (Tune ".join("-" if one is None else f"{one:.0%}" for one in share.values()) + ")",
                f"{refill['ours']:.2f} s (Tune {refill['plain']:.1f} s)",
            ]
        )
    head = ["sweep", "to Tune's best loss", "whole command", "per trained token", "best loss", "rounds that reach it"]
    head += ["time spent training", "next trial trains after"]
    quick, resume = _load("quick"), _load("resume")
    goal = resume["median"]["start_up_s"] + resume["median"]["interval_s"]
    return (
        "## Whole sweeps\n\nA 1.33M-parameter model, against plain Ray Tune with OptunaSearch, ASHA and an ordinary\n"
        "`nn.Module`, from the same initial values, on the same batches. How many times as fast lmsweep is, medians of the\n"
        "rounds: until a trial that was trained to its end is as good as the best of Tune's, for the whole command, and per\n"
        "token. Both have their defaults, so they do not train equally long. *Best loss* is the mean over the rounds; a dash means not\n"
        "measured.\n\n"
        + _table(head, rows)
        + "".join(_source("sweep", one) for key, one in results.items() if key.split(" slots=")[-1].startswith("auto"))
        + f"\n`{quick['command']}` took {quick['median_seconds'] / 60:.1f} minutes on two CPU cores (runs: "
        f"{len(quick['runs'])}; quick.json).\n\nA sweep that is killed once and resumed takes "
        f"{resume['median']['extra_s']:.0f} s more than one that is left alone; start-up and one interval are "
        f"{goal:.0f} s (resume.json).\n"
    )


def _control() -> str:
    result = _load("control")
    peers = {
        peer: statistics.median(block[peer]["trial_ms"] for block in result["blocks"]) for peer in result["blocks"][0]
    }
    rows = [
        ["lmsweep, a long sweep", str(result["long_run"]["trials"]), f"{result['long_run']['trial_ms']:.0f} ms"],
        ["lmsweep", str(result["blocks"][0]["ours"]["trials"]), f"{peers['ours']:.0f} ms"],
        ["Tune with `reuse_actors`", str(result["blocks"][0]["reuse"]["trials"]), f"{peers['reuse']:.0f} ms"],
        ["Tune by default", str(result["blocks"][0]["defaults"]["trials"]), f"{peers['defaults']:.0f} ms"],
    ]
    return (
        "## What a trial costs besides training\n\nTrials that do nothing but report four times, eight at a time. Writes "
        "to the study are synced.\n\n" + _table(["", "trials", "a trial"], rows) + _source("control", result)
    )


def _data() -> str:
    result = _load("data")
    names = {"lf": "code, lines end in LF", "crlf": "code, lines end in CRLF", "one line": "code, one line"}
    names |= {"chinese": "Chinese, one line", "dna": "DNA, one line"}
    rows = [
        [
            names.get(row["kind"], row["kind"]),
            f"{row['mb_per_s']:.1f}",
            f"{row['ratio']:.2f}x",
            f"{row['trains_mb_per_s']:.1f}",
            f"{row['peak_bytes_per_byte']:.1f}",
            str(row["rounds"]),
        ]
        for row in result["rows"]
    ]
    goals = result["goals"]
    return (
        f"## Preparing text\n\n{result['rows'][0]['bytes'] / 1e6:.0f} MB of text, read, split, tokenized and stored, on "
        f"{result['hardware']['cores']} CPU cores: MB/s with a tokenizer that is\ngiven; how many times as fast that is as "
        "`encode_batch` of the tokenizers library over the same text, which is\nalready in memory; MB/s if a tokenizer is "
        f"trained first; and peak memory in bytes per byte of text. Medians of alternating rounds. The goals are\n"
        f"{goals['ratio']}x and at most {goals['peak_bytes_per_byte']:.0f} bytes.\n\n"
        + _table(["text", "MB/s", "`encode_batch`", "with training, MB/s", "memory", "rounds"], rows)
        + _source("data", result)
    )


def _scale() -> str:
    result = _load("scale")
    first, last = result["blocks"][0], result["blocks"][-1]
    per_s = 1000 / result["report_ms"]
    rows = [
        [f"{gpus:,}", *(f"{gpus * slots / per_s:,.0f} s" if gpus * slots > per_s else "< 1 s" for slots in (1, 4, 16))]
        for gpus in (8, 64, 256, 1000)
    ]
    return (
        "## The driver of a long sweep\n\n<!-- scale -->\n\n"
        f"A sweep of {result['trials']:,} trials that do nothing but report {result['reports_per_trial']} times, "
        f"{result['concurrent']} at a time, on {result['hardware']['cores']} cores:\n\n"
        f"- the driver's memory grows by {result['kb_per_trial']:.0f} KB a trial, to {last['rss_mb']:.0f} MB;\n"
        f"- a trial takes {first['trial_ms']:.0f} ms at the beginning and {last['trial_ms']:.0f} ms at the end, all "
        f"included: {result['report_ms']:.1f} ms\n  a report, or {per_s:.0f} reports a second;\n"
        f"- `study.db` has {result['study_mb']:.0f} MB and `metrics.jsonl` {result['metrics_mb']:.0f} MB.\n\n"
        "Time between two reports of a slot from which on one driver keeps up, by engines and slots of each:\n\n"
        + _table(["GPUs", "1 slot", "4 slots", "16 slots"], rows)
        + "\n<!-- /scale -->\n"
        + _source("scale", result)
    )


def _watching() -> str:
    result = _load("watching")
    # CPU time: tokens/s of a machine whose speed drifts say nothing within a few per cent.
    mean, low, high = (100 * (value - 1) for value in result["ratio_cpu"])
    return (
        "## Watching a sweep\n\n<!-- watching -->\n\n"
        f"Ray's dashboard, Prometheus and `lmsweep status --watch` together take {mean:.1f} % ({low:.1f} to {high:.1f} %) "
        f"of the engines'\nCPU time on {result['hardware']['cores']} cores, all of which train. They were stopped and "
        f"continued in turn ({len(result['pairs'])} pairs of\nperiods). The goal of {100 * (result['goal'] - 1):.0f} % is "
        "not met.\n\n<!-- /watching -->\n" + _source("watching", result)
    )


def _log_every() -> str:
    result = _load("log_every")
    rows = []
    for one in result["rows"]:
        low, high = (100 * value for value in one["cpu_overhead_quartiles"])
        overhead = f"{100 * one['cpu_overhead']:+.1f} % ({low:+.1f} to {high:+.1f} %)"
        rows.append([one["model"], str(one["slots"]), f"{one['update_ms']:.1f}", f"{one['point_us']:.0f}"])
        rows[-1] += [f"{one['share']:.2%}", overhead]
    return (
        "## Training curves\n\nWhat `train.log_every: 1` costs against a run that logs step 0 only, for models smaller than any that are worth\n"
        "searching. *Share* is the processor time of a point over that of an update. The last column is the median of the\n"
        "differences between runs that took turns, with quartiles. A report takes the driver "
        f"{result['report_ms']:.2f} ms more. The goal\nis {result['goals']['overhead']:.0%}.\n\n"
        + _table(["model", "slots", "update, ms", "point, us", "share", "runs in turn"], rows)
        + _source("log_every", result)
    )


def _generating() -> str:
    result = _load("generating")
    rows = [
        [
            one["model"],
            f"{one['context_length']}",
            f"{one['threads']}",
            *(f"{one['tokens_per_s'][arm]:,}" for arm in ("without", "with")),
            f"{one['times_faster']:.1f}x",
            f"{one['times_faster_cpu']:.1f}x",
        ]
        for one in result["cases"]
    ]
    return (
        f"## Generating text\n\nTokens/s of {result['sampled_tokens']} tokens after a prompt of "
        f"{result['prompt_tokens']}, with the key-value cache of `generate` and with one pass over the\nwhole window for "
        f"each token, in turns; medians. At a context of {result['prompt_tokens'] + result['sampled_tokens']} the text "
        "fits into it.\n\n"
        + _table(["model", "context", "threads", "without cache", "with cache", "faster", "in CPU time"], rows)
        + _source("generating", result)
    )


def _faults() -> str:
    result = _load("faults")
    rows = []
    for fault in result["faults"]:
        seconds = f"{statistics.median(fault['recovery_s']):.0f}" if fault["recovery_s"] else ""
        rows.append([fault["fault"], str(fault["injected"]), str(fault["survived"]), seconds])
    return (
        "## Faults\n\n`make faults` breaks real sweeps on purpose and compares what is left with a sweep that nothing\n"
        "happened to. Seconds are the median until a row comes again or the command has ended.\n\n"
        + _table(["what happened", "times", "survived", "seconds"], rows)
        + _source("faults", result)
    )


def _verdicts() -> str:
    result = _load("verdicts")
    described = {
        "flat": "all settings and both arms are alike",
        "close": "settings differ by up to 0.1",
        "typical": "settings differ by up to 1",
        "steep": "settings differ by up to 3",
        "uneven": "as typical, worse settings are noisier",
    }
    keys = (
        "difference_covered_percent",
        "named_set_holds_best_confirmed_percent",
        "named_and_unconfirmed_hold_best_of_16_percent",
        "bias_in_se",
        "bias_of_lowest_search_loss_in_its_se",
        "runs_saved_percent",
    )
    rows = [[described[name], *(f"{found[key]:g}" for key in keys)] for name, found in result["sweeps"].items()]
    head = [
        "settings (nats)",
        "covered, %",
        "best confirmed, %",
        "best of 16, %",
        "bias",
        "bias of the lowest",
        "saved, %",
    ]
    real, windows = result["real_models"], result["windows"]
    low, median, high = real["error_over_bootstrap_of_documents"]
    covered = [[row[f"{key}_covered_percent"] for row in windows] for key in ("clustered", "independent")]
    return (
        "## Answers\n\n"
        f"Simulated sweeps of two arms with {result['settings_per_arm']} settings each, whose best "
        f"{result['confirm']['top']} are confirmed under {result['confirm']['seeds']} seeds;\nanother seed changes a loss by "
        f"{result['sd_between_seeds_nats']:g} nats. *Covered*: how often the 95 % interval of the difference between the\narms holds the "
        "truth. *Best*: how often the settings that the answer names hold the truly best one. *Bias*: mean error of the\n"
        "reported loss in standard errors, and that of the search's lowest loss. *Saved*: confirmation runs that the race\n"
        f"left out. Where both arms are alike, {result['sweeps']['flat']['tie_percent']:g} % of answers are a tie.\n\n"
        + _table(head, rows)
        + "\nThe difference of two fixed models on windows of documents, simulated: intervals clustered by document cover "
        f"in\n{min(covered[0]):g} to {max(covered[0]):g} %, those of independent windows in {min(covered[1]):g} to "
        f"{max(covered[1]):g} %. Of {real['pairs']} pairs of real models ({real['windows']} windows of\n{real['documents']} documents) the "
        f"error is {median:.2f} times that of a bootstrap of documents ({low:.2f} to {high:.2f}), and\n"
        f"{real['error_over_independent_means'][1]:.2f} times that of two independent means.\n"
        + _source("verdicts", result)
    )


def _analysis() -> str:
    scaling, loading = _load("scaling"), _load("load")
    designs = scaling["coverage"]["designs"]
    coverage = [number["coverage_percent"] for design in designs.values() for number in design.values()]
    lost = scaling["steplaw"]["loss_above_best_percent"]
    first = loading["rounds"][0]
    return (
        "## Analysis\n\n"
        f"- **Intervals**: over {scaling['coverage']['sets']} simulated sweeps of each of {len(designs)} designs, 95 % "
        f"intervals hold the truth in {min(coverage):g} to {max(coverage):g} % of cases ({len(coverage)} numbers).\n"
        f"- **Learning rates** from the law that is fitted to {scaling['steplaw']['runs']:,} public runs (Step Law) lose "
        f"{lost['ours']['best_batch_mean']:.3f} % to the best of each size and data; those of the published law "
        f"{lost['published']['best_batch_mean']:.3f} %.\n"
        f"- **Time**: {scaling['time']['resamples']:,} resamples of a loss law of {scaling['time']['runs']} runs take "
        f"{scaling['time']['wall_s']:.1f} s. A run of {first['trials']:,} trials and {first['rows']:,} rows loads in "
        f"{loading['median']['load_s']:.1f} s and {loading['median']['peak_bytes'] / 1e9:.1f} GB.\n"
        + _source("scaling", scaling)
        + _source("load", loading)
    )


def _transfer() -> str:
    result = _load("transfer")
    arms, cells = result["arms"], len(result["cells"])
    names = {
        "random": "random",
        "tpe": "TPE",
        "gp": "Gaussian process",
        "nearest": "the best setting of the largest smaller cell, then a Gaussian process",
        "formula": "Step Law's formula, which was fitted on this table, then a Gaussian process",
        "ours": "transfer",
        "neutral": "transfer, with a prior by which nothing moves",
        "few": "transfer, knowing 16 random trials of each smaller cell",
        "shuffled": "transfer, losses of smaller cells shuffled among their settings",
        "mirrored": "transfer, optima of smaller cells at the other end",
    }
    rows = [
        [
            names[arm],
            f"{one['first_trial']['cells_within_0.25%']:.0%}",
            f"{one['first_trial']['mean_excess_percent']:.3f} %",
            *(f"{one['trials_until'][name]['mean']:.1f}" for name in ("0.25%", "0.1%")),
        ]
        for arm, one in ((arm, arms[arm]) for arm in names if arm in arms)
    ]
    share = arms["ours"]["trials_until"]["0.1%"]["mean"] / arms["tpe"]["trials_until"]["0.1%"]["mean"]
    first = arms["ours"]["first_trial"]["cells_within_0.25%"]
    misled = max(arms[arm]["trials_until"]["0.1%"]["mean"] for arm in ("shuffled", "mirrored"))
    tpe = arms["tpe"]["trials_until"]["0.1%"]["mean"]
    goals = {
        "the first trial is within 0.25 % in at least 85 % of the cells": first >= 0.85,
        "0.1 % takes at most a quarter of TPE's trials": share <= 0.25,
        "it is not worse than TPE where smaller cells mislead it": misled <= tpe,
    }
    others = sorted({arms[arm]["commit"][:10] for arm in ("random", "tpe", "gp", "nearest", "formula")})
    met = "; ".join(f"{goal} ({'met' if reached else 'not met'})" for goal, reached in goals.items())
    return (
        "## Transfer between sizes\n\nLearning rate and batch size of models of Step Law's open table, replayed: each of "
        f"{cells} cells (parameters, tokens) is searched\nwhere only smaller ones are known, under "
        f"{arms['ours']['seeds']} seeds. How far the first trial is above the lowest loss of the cell, and after how\n"
        f"many trials one is within 0.25 % and 0.1 % of it, in the mean. Goals: {met}.\n\n"
        + _table(
            ["search", "first trial within 0.25 %", "first trial above the best", "trials to 0.25 %", "to 0.1 %"], rows
        )
        + _source("transfer", result | {"commit": arms["ours"]["commit"]})
        + f"The arms without transfer were measured at commit {', '.join(others)}.\n"
    )


def _ladder() -> str:
    result = _load("ladder")
    rows = [
        [
            size,
            *(f"{one['lr'][name]:.2g}" for name in ("on", "off")),
            *(f"{sum(one['losses'][name]) / len(one['losses'][name]):.4f}" for name in ("on", "off")),
            f"{one['difference']:+.4f} +- {one['half_of_95_percent_interval']:.4f}",
        ]
        for size, one in result["sizes"].items()
    ]
    seeds = len(next(iter(result["sizes"].values()))["losses"]["on"])
    head = ["size", "lr with transfer", "without", "loss with transfer", "without", "difference (95 %)"]
    whole = result["whole_sweep"]
    return (
        f"## A ladder with and without transfer\n\nThe sweep of `configs/ladder.yaml` takes {whole['seconds'] / 60:.1f} minutes "
        f"on {whole['cores']} CPU cores.\nWithout its confirmation: "
        f"{result['trials']['on']} trials with transfer, {result['trials']['off']} without. Transfer trained "
        f"{result['share_of_flops']:.0%} of the\nFLOPs (the goal is at most 40 %). The best settings of both searches are "
        f"trained again under {seeds} new seeds, and compared\nseed by seed.\n\n"
        + _table(head, rows)
        + _source("ladder", result)
        + _source("ladder", whole)[1:].replace("Measured", "The time of the whole sweep was measured")
    )


def _mup() -> str:
    result = _load("mup")
    settings, names = result["settings"], ("standard", "mup")
    rows = []
    for width in map(str, settings["widths"]):
        cells = [result[name]["best"][width] for name in names]
        rows.append([width, *(f"{one['lr']:.2g} ({one['loss']:.3f})" for one in cells)])
    moved = [f"{result[name]['grid_steps_moved']:+.0f}" for name in names]
    return (
        "## Learning rate and width\n\nThe best learning rate of a grid of factors of 2, and its validation loss, at three widths of a model of "
        f"{settings['layers']} layers;\n{settings['steps']} updates, means over {settings['seeds']} seeds. The goal is that with\n"
        "[muP](howto/mup.md) it moves by at most one factor of 2 over the fourfold width, and by more without"
        f" ({'met' if result['goal_met'] else 'missed'}).\n\n"
        + _table(["width", "standard", "mup"], [*rows, ["factors of 2 from first to last", *moved]])
        + _source("mup", result)
    )


# The README


def readme() -> str:
    """The README with its table of speeds and its sentence about GPUs."""
    import performance

    from tests.bench.gpu import tables as gpu_tables

    text = (ROOT / "README.md").read_text()
    for block, said in (("speed", f"\n{performance.rates()}"), ("gpu", gpu_tables.sentence(gpu_tables.load()))):
        whole = f"<!-- {block} -->{said}<!-- /{block} -->"
        text = re.sub(f"<!-- {block} -->.*?<!-- /{block} -->", lambda _, whole=whole: whole, text, flags=re.DOTALL)
    return text


PAGES = {
    "reference/sweep-file.md": sweep_file,
    "reference/commands.md": commands,
    "reference/columns.md": columns,
    "benchmarks.md": benchmarks,
    "../README.md": readme,
}


def main() -> int:
    """Write every page; with --check, name those that are out of date and return 1."""
    stale = []
    for name, make in PAGES.items():
        page, text = DOCS / name, make()
        if not page.exists() or page.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                page.write_text(text)
    if stale and "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}; run python docs/generate.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
