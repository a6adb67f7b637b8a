"""What the documentation says about GPUs, made from results/gpu.json: a section of benchmarks.md, a line of README.md.

Loads without torch.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULT = Path(__file__).resolve().parents[1] / "results" / "gpu.json"
COMMAND = "bash tests/bench/gpu.sh --nanogpt DIR"
CORE_ROWS = ("step", "loss", "update")  # have the form of those of tests/bench/core.py


def load(path: Path = RESULT) -> dict[str, Any] | None:
    """The result; None where nothing has been measured on a GPU yet."""
    return dict(json.loads(path.read_text())) if path.is_file() else None


def core_rows(result: dict[str, Any] | None) -> dict[str, Any]:
    """The rows that race peers, as tests/bench/core.py keeps them: by row, what was measured and about what."""
    if result is None:
        return {}
    about = {"hardware": result["hardware"]["gpu"], "threads": 1, "torch": result["versions"]["torch"]}
    rows = {row: result["rows"].get(row, {}) for row in CORE_ROWS}
    raced = {row: {name: one for name, one in named.items() if one["ratio"] is not None} for row, named in rows.items()}
    return {
        row: {"about": about | {"rounds": min(one["rounds"] for one in named.values())}, "measured": named}
        for row, named in raced.items()
        if named
    }


def sentence(result: dict[str, Any] | None) -> str:
    """For the README."""
    if result is None:
        return f"Nothing has been run on a GPU yet; every figure is from CPUs. `{COMMAND}` checks and measures one."
    packing, step = result["rows"].get("packing", {}), result["rows"].get("step", {})
    parts = []
    if best := [row["vs_graphed"] for row in packing.values() if row.get("vs_graphed")]:
        compiled = [row["vs_compiled"] for row in packing.values() if row.get("vs_compiled")]
        also = f" ({_range(compiled)} if those are compiled)" if compiled else ""
        parts.append(f"packed trials train {_range(best)} times the tokens/s of one by one with CUDA graphs{also}")
    if ratios := [row["ratio"] for row in step.values() if row["ratio"]]:
        parts.append(f"a training step is {_range(ratios)} times as fast as compiled nanoGPT's")
    checks = [check["passed"] for check in result["checks"].values()]
    parts.append(f"{checks.count(True)} of {checks.count(True) + checks.count(False)} checks pass")
    return f"On one {result['hardware']['gpu']}, {'; '.join(parts)} ([benchmarks](docs/benchmarks.md#on-a-gpu))."


def section(result: dict[str, Any] | None) -> str:
    """Markdown of docs/benchmarks.md."""
    head = f"## On a GPU\n\n`{COMMAND}` checks the core on a GPU, then measures it, within nine minutes.\n"
    if result is None:
        return head + "It has not been run on a GPU yet. CI runs it with tiny models on a CPU.\n"
    hardware, versions = result["hardware"], result["versions"]
    memory = f"{hardware['gpu_bytes'] / 2**30:.0f} GiB" if hardware["gpu_bytes"] else "no memory of its own"
    parts = [
        head,
        f"One {hardware['gpu']} ({memory}), torch {versions['torch']}, Python {versions['python']}; "
        f"`{result['command']}` (gpu.json, commit {(result['commit'] or 'unknown')[:10]}).\n",
        *(f"Left out: {what}: {why}.\n" for what, why in result["left_out"].items()),
        *(f"Ended in an error: {what}.\n" for what in result["errors"]),
        _checks(result["checks"]),
        _packing(result["rows"].get("packing", {})),
        _steps(result["rows"].get("step", {})),
        _refills(result["rows"].get("refill", {})),
        _goals(result["goals"]),
    ]
    return "\n".join(part for part in parts if part)


def _checks(checks: dict[str, Any]) -> str:
    verdicts = {True: "passed", False: "**failed**", None: "not made"}
    rows = [
        [check["sentence"], _number(check["figure"]), _number(check["tolerance"]), verdicts[check["passed"]]]
        for check in checks.values()
    ]
    text = "Losses are in nats; those of a run may differ as much as if its batches were passed in two halves.\n\n"
    return text + _table(["check", "found", "at most", ""], rows)


def _packing(rows: dict[str, Any]) -> str:
    found = {name: arm["slots"] for row in rows.values() for name, arm in row["arms"].items() if "packed" in name}
    names = sorted(found, key=lambda name: ("compiled" in name, found[name]))
    lines = []
    for size, row in rows.items():
        cells = [_times(row["arms"].get(name, {}).get("vs_graphed")) for name in names]
        ratios = [_times(row.get(name)) for name in ("vs_graphed", "vs_eager", "vs_compiled")]
        lines.append([size, *cells, row["best"] or "-", *ratios])
    titles = [f"K = {found[name]}{', compiled' if 'compiled' in name else ''}" for name in names]
    head = ["parameters", *titles, "best", "over graphed", "over eager", "over compiled"]
    text = (
        "Tokens/s of K packed slots over those of one run after the other: with CUDA graphs, and for the best arm\n"
        "also eager, and compiled with CUDA graphs.\n\n"
    )
    return text + _table(head, lines) if rows else ""


def _steps(rows: dict[str, Any]) -> str:
    lines = [
        [
            f"{row['parameters'] / 1e6:.1f}M",
            f"{row['ms'][row['ours']]:.2f}",
            _times(row["ratio"]),
            f"{row['share_of_bound']:.0%}",
            f"{row['share_of_peak']:.0%}",
            f"{row['tokens_per_s']:,}",
        ]
        for row in rows.values()
    ]
    text = "A training step of one run, and its shares of the roofline bound and of the peak rate of matrix products.\n"
    if not all(row.get("tied") for row in rows.values()):
        text += "nanoGPT's output head is its embedding, while ours is a matrix of its own: it has fewer parameters.\n"
    text += "\n"
    return text + _table(["parameters", "ms", "nanoGPT", "bound", "peak", "tokens/s"], lines) if rows else ""


def _refills(rows: dict[str, Any]) -> str:
    lines = [
        [size, str(row["slots"]), *(f"{row[name]:.1f}" for name in ("load_ms", "to_first_update_ms", "update_ms"))]
        for size, row in rows.items()
    ]
    text = "Milliseconds until a slot trains its next run; neighbours wait as long, less their own update.\n\n"
    return text + _table(["parameters", "slots", "load", "with an update", "an update"], lines) if rows else ""


def _goals(goals: Iterable[dict[str, Any]]) -> str:
    verdicts = {True: "met", False: "missed", None: "not measured"}
    rows = [[one["goal"], str(one["at_least"]), _number(one["is"]), verdicts[one["met"]]] for one in goals]
    return _table(["goal", "at least", "found", ""], rows) if rows else ""


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---"] * len(head), *rows])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}"
