"""The table of the core's speed, made for docs/benchmarks.md by docs/generate.py.

The CPU's column is results/core-cpu.json, the GPU's the same rows of results/gpu.json, if there is one.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.gpu import tables as gpu_tables

RESULTS = Path(__file__).parent / "results"
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
UNMEASURED = "unmeasured"


def table() -> str:
    """Markdown: a line for each measurement of tests/bench/core.py, a column for each device."""
    measured = {"cpu": _load(RESULTS / "core-cpu.json"), "cuda": gpu_tables.core_rows(gpu_tables.load())}
    found = {device: rows for device, rows in measured.items() if rows}
    columns = {device: _cells(result) for device, result in found.items()}
    names = list(dict.fromkeys(name for cells in columns.values() for name in cells))
    lines = [f"| times as fast as | {' | '.join(DEVICES[device] for device in found)} |", f"|---|{'---|' * len(found)}"]
    lines += [f"| {name} | {' | '.join(columns[device].get(name, UNMEASURED) for device in found)} |" for name in names]
    return "\n".join([*lines, "", *(_about(device, result) for device, result in found.items())]) + "\n"


def rates() -> str:
    """Markdown for the README: how fast engines train, as a sweep runs them, beside the same code without lmsweep."""
    row = _load(RESULTS / "core-cpu.json")["engines"]
    size, one = next(iter(row["measured"].items()))
    names = {
        "ours": "lmsweep",
        "nanoGPT": "nanoGPT",
        "Llama": "Hugging Face's Llama",
        "nn.Module": "the same `nn.Module`",
    }
    found = {ours: [one["tokens_per_s"][name] for name in (ours, f"{ours} compiled")] for ours in names}
    lines = [f"tokens/s of {size} parameters", *names.values()], ["---"] * (len(names) + 1)
    cells = [[how, *(f"{found[name][n]:,}" for name in names)] for n, how in enumerate(("eager", "compiled"))]
    table = "\n".join(f"| {' | '.join(line)} |" for line in (*lines, *cells))
    eager, compiled = one["ratios"]["ours"]["nanoGPT"], one["ratios"]["ours compiled"]["nanoGPT compiled"]
    rounds = row["about"]["rounds"]
    return (
        f"{table}\n\n{one['processes']} engines of one thread at once on as many CPU cores, medians of {rounds} rounds "
        "([core-cpu.json](tests/bench/results/core-cpu.json)). Round by round, lmsweep is "
        f"{eager['ratio']:.2f} times as fast as nanoGPT eager, and {compiled['ratio']:.2f} times compiled."
    )


def _load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _cells(result: dict[str, Any]) -> dict[str, str]:
    """A device's column: cells by the name of their line. Rows that were not measured have none."""
    rows = {row: part["measured"] for row, part in result.items()}
    cells = {}
    for size, one in rows.get("engines", {}).items():
        for ours, ratios in one["ratios"].items():
            for peer, ratio in ratios.items():
                how = "compiled" if ours.endswith("compiled") else "eager"
                cells[f"{peer}, as a sweep trains ({one['processes']} processes of one thread), {size}, ours {how}"] = (
                    _ratio(ratio)
                )
    cells |= {f"nanoGPT's training step, {size}": _ratio(one) for size, one in rows.get("step", {}).items()}
    for name, one in rows.get("module", {}).items():
        width, how = name.split()
        how += f", {_threads(result['module'])}"
        cells[f"the same model as nn.Module with fused AdamW, d = {width[1:]}, {how}"] = _ratio(one)
    for shape, parts in rows.get("kernels", {}).items():
        for part, one in parts.items():
            cells[f"{part} in torch's operations, forward and backward, {shape}, 1 thread"] = _ratio(one)
    for name, one in rows.get("loss", {}).items():
        held = one["peak_over_logits"]
        peer = one["peer"]
        cells[f"head and loss of torch, V = {name[1:]}"] = (
            f"{_ratio(one)}, {held[one['ours']]:.2f} of the logits' memory ({held[peer]:.2f})"
        )
    for name, one in rows.get("update", {}).items():
        cells[f"torch's clipping and fused AdamW, {name[1:]} x 10M"] = _ratio(one)
    for name, one in rows.get("optimizer", {}).items():
        how = f"{', '.join(name.split())}, {_threads(result['optimizer'])}"
        cells[f"the same step with the fused form of AdamW, {how}"] = _ratio(one)
    for name, one in rows.get("muon", {}).items():
        how = f"{', '.join(name.split())}, {_threads(result['muon'])}"
        cells[f"the same step with AdamW in place of Muon, {how}"] = _ratio(one)
    for name, one in rows.get("program", {}).items():
        cells[f"the whole step as one program of torch.compile, d = {name[1:]}"] = _ratio(one)
    for name, one in rows.get("layout", {}).items():
        what, width, slots = name.split()
        if what == "step":
            cells[f"the step with arenas in place of tensors, d = {width[1:]}, K = {slots[1:]}"] = _ratio(one)
    for size, one in rows.get("shares", {}).items():
        cells[f"evaluation's share of the time, configs/quick.yaml, size {size}"] = f"{one['evaluation']:.1%}"
    if "compile" in rows:
        share = rows["compile"]
        cells["seconds to the first compiled step: cold, then in a second process"] = (
            f"{share['cold_s']:.0f}, {share['second_process_s']:.1f}"
        )
    return cells


def _ratio(one: dict[str, Any]) -> str:
    low, high = one["ratio_range"]
    return f"{one['ratio']:.2f}x ({low:.2f}-{high:.2f})"


def _threads(part: dict[str, Any]) -> str:
    threads = part["about"]["threads"]
    return f"{threads} thread{'s' if threads != 1 else ''}"


def _about(device: str, result: dict[str, Any]) -> str:
    parts = [part for row, part in result.items() if row not in ("engines", "module", "kernels")]  # they say it
    abouts = [part["about"] for part in result.values()]
    about, rounds = abouts[0], min(one["rounds"] for one in abouts)
    hardware = " and ".join(dict.fromkeys(one["hardware"] for one in abouts))
    name = {"cpu": "core-cpu.json", "cuda": "gpu.json"}[device]
    graphs = "; our steps replay a CUDA graph, loss and update launch kernel after kernel" if device == "cuda" else ""
    return (
        f"{DEVICES[device]}: {hardware}, {_threads(parts[0])} if nothing else is said, torch {about['torch']}, "
        f"medians of at least {rounds} rounds (range of all){graphs}; [{name}](../tests/bench/results/{name})."
    )
