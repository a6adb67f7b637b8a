"""Profile a training step and compare it with what the device could do. See `--help`.

    python -m lmcore.profile --config configs/quick.yaml --size s

Prints plain tables and writes no files. The measurements are in `lmcore.profile.breakdown` and `lmcore.measure.peak`,
the bound in `lmcore.profile.roofline`. Exit codes: 0 done, 2 wrong input (one line), 130 interrupted.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmcore.config import RunSpec
from lmcore.corpus.tokens import Tokens
from lmcore.device import resolve_run, this_machine
from lmcore.errors import InputError, OneLineParser, number_type
from lmcore.params import count_parameters, flops_per_token
from lmcore.profile.roofline import KINDS, update_operations
from lmcore.runfile.run_file import load_run

if TYPE_CHECKING:
    from lmcore.profile.breakdown import Breakdown, Timing

DESCRIPTION = """\
Measure where the time of a training step goes with torch's profiler, and compare it with this device's peak rate of
matrix products, its memory bandwidth, and the roofline bound of both. Trains on random tokens; writes nothing.
"""
TRAIN_TOKENS = 2**20
OTHER = "batches, autograd, the rest"


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    p = OneLineParser(prog="python -m lmcore.profile", description=DESCRIPTION, allow_abbrev=False)
    p.add_argument("--config", required=True, metavar="FILE", help="a sweep's YAML file; its base run is measured")
    p.add_argument("--size", metavar="NAME", help="which of the file's sizes (default: the last)")
    slots = number_type(int, "a whole number >= 1", lambda n: n >= 1)
    p.add_argument("--slots", type=slots, default=1, metavar="K", help="slots that train as one program (default: 1)")
    seconds = number_type(float, "a number > 0", lambda s: s > 0)
    p.add_argument("--seconds", type=seconds, default=5.0, metavar="S", help="seconds of timed training (default: 5)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parser().parse_args(argv)
    try:
        run, size = load_run(options.config, options.size)
        _profile(f"{options.config}, size {size}", run, options.slots, options.seconds)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _profile(title: str, run: RunSpec, slots: int, seconds: float) -> None:
    # torch takes seconds to import, so mistakes in the command line and the file are reported first.
    import torch

    from lmcore.measure.peak import copy_bytes_per_s, matmul_flops_per_s
    from lmcore.measure.throughput import is_out_of_memory
    from lmcore.profile.breakdown import Probe

    run = resolve_run(run, this_machine())
    train = run.train
    if train.device == "mps":
        raise InputError("train.device: must be cpu or cuda to be profiled (got mps); use device: cpu")
    print(_setup(title, run, slots, torch.__version__), flush=True)
    try:
        peak, bandwidth = matmul_flops_per_s(train), copy_bytes_per_s(train)
        # The training tokens exceed the first-level caches.
        T, V = run.model.context_length, run.model.vocab_size
        lengths = (max(TRAIN_TOKENS, T + 1), train.eval_windows * T + 1)
        rng = np.random.default_rng(0)
        train_ids, val_ids = (rng.integers(0, V, size=length, dtype=np.uint32) for length in lengths)
        tokens = Tokens.of(train_ids, val_ids, V)
        probe = Probe(run, slots, tokens)
        timing = probe.time_updates(seconds)
        if train.cuda_graphs:
            without_graphs = run.model_copy(update={"train": train.model_copy(update={"cuda_graphs": False})})
            breakdown = Probe(without_graphs, slots, tokens).break_down(timing.update_s)
        else:
            breakdown = probe.break_down()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"--slots: must fit the memory (got {slots}); take fewer, or a smaller size") from None
    print(_breakdown(breakdown, timing, run))
    print(_rates(run, slots, timing.update_s, peak, bandwidth))
    print(_roofline(run, slots, breakdown, timing.update_s, peak, bandwidth))


def _setup(title: str, run: RunSpec, slots: int, torch_version: str) -> str:
    train, count = run.train, count_parameters(run.model)
    B, T = train.batch_size, run.model.context_length
    parts = "" if train.windows_per_pass == B else f" in micro batches of {train.windows_per_pass}"
    compiled = ("compiled" if train.compile else "not compiled") + (", CUDA graphs" if train.cuda_graphs else "")
    return f"""\
What is measured

  {title}: {count.total:,} parameters, {count.non_embedding:,} without embedding and head
  slots K = {slots}, batch B = {B}{parts}, time T = {T}: {slots * run.tokens_per_step:,} tokens per update
  {train.device}, {train.dtype}, {compiled}, CPU threads: {train.threads}, torch {torch_version}
  random tokens instead of the data
"""


def _breakdown(breakdown: "Breakdown", timing: "Timing", run: RunSpec) -> str:
    from lmcore.profile.breakdown import PARTS

    rows = [("part", "ms", "backward ms", "share")]
    for part in (*PARTS, None):
        seconds, backward = breakdown.total_s(part), breakdown.total_s(part, backward=True)
        if seconds:
            share = seconds / breakdown.update_s
            rows.append((part or "an update", _in_ms(seconds), _in_ms(backward) if backward else "", f"{share:.1%}"))
    fastest, slowest = min(timing.updates_s), max(timing.updates_s)
    eval_every = min(run.train.eval_every, run.steps)
    if breakdown.update_s == timing.update_s:
        remark = "The parts were measured without CUDA graphs."
    else:
        remark = f"Profiling changed that time by {breakdown.update_s / timing.update_s - 1:+.0%}."
    rest = "idle time of the device" if run.train.device == "cuda" else "Python between operators, and the profiler"
    return f"""\
Where an update's time goes

{_table(rows)}

  An update takes {_ms(timing.update_s)}, the median of {len(timing.updates_s)} intervals from {_ms(fastest)} to \
{_ms(slowest)}. {remark}
  The rest is {rest}.
  An evaluation takes {_ms(timing.evaluation_s)}. After every {eval_every} updates, it is \
{timing.evaluation_share(eval_every):.1%} of a run's time.
"""


def _rates(run: RunSpec, slots: int, update_s: float, peak: float, bandwidth: float) -> str:
    tokens_per_s, per_token = slots * run.tokens_per_step / update_s, flops_per_token(run.model)
    flops_per_s = tokens_per_s * per_token
    rows = [
        ("rate", "measured", "of the peak"),
        ("tokens of all slots", f"{tokens_per_s:,.0f} /s", ""),
        (f"FLOPs, {_si(per_token)} per token", _si(flops_per_s, "FLOP/s"), f"{flops_per_s / peak:.1%}"),
        ("peak: product of two large matrices", _si(peak, "FLOP/s"), ""),
        ("bandwidth: copy of a large tensor, read + written", _si(bandwidth, "B/s"), ""),
    ]
    return f"Rates\n\n{_table(rows)}\n"


def _roofline(run: RunSpec, slots: int, breakdown: "Breakdown", update_s: float, peak: float, bandwidth: float) -> str:
    from lmcore.profile.breakdown import OVERHEAD

    operations = [operation for operation in update_operations(run, slots) if operation.bytes]
    flops, traffic = sum(o.flops for o in operations), sum(o.bytes for o in operations)
    bound_s = sum(o.bound_s(peak, bandwidth) for o in operations)
    rows = [("operations", "FLOPs", "bytes", "bound ms", "profiled ms")]
    for kind in KINDS:
        rows.append((kind, "", "", "", _in_ms(breakdown.total_s(kind=kind))))
        for o in operations:
            if o.kind == kind:
                own_flops = _si(o.flops) if o.flops else ""
                rows.append((f"  {o.name}", own_flops, _si(o.bytes, "B"), _in_ms(o.bound_s(peak, bandwidth)), ""))
    rows.append((OTHER, "", "", "", _in_ms(breakdown.total_s(kind=OVERHEAD))))
    rows.append(("an update", _si(flops), _si(traffic, "B"), _in_ms(bound_s), _in_ms(breakdown.update_s)))
    return f"""\
Roofline: each operation at the peak or at the bandwidth, whichever takes longer

{_table(rows)}

  An update takes {_ms(update_s)}, {update_s / bound_s:.2f} times its bound of {_ms(bound_s)}. Its FLOPs alone take \
{_ms(flops / peak)} at the peak, its bytes {_ms(traffic / bandwidth)}."""


def _table(rows: Sequence[Sequence[str]]) -> str:
    """An indented table with a rule below the header; the first column is left-aligned, the others right-aligned."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(["", row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in rows]
    lines.insert(1, f"  {'-' * (first + sum(others) + 2 * len(others))}")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"


def _in_ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _si(number: float, unit: str = "") -> str:
    """A number with three digits and an SI prefix: 1.33 GFLOP/s."""
    power = 0
    while abs(number) >= 999.5 and power < 5:
        number /= 1000
        power += 1
    return f"{number:.3g} {' kMGTP'[power].strip()}{unit}".rstrip()


if __name__ == "__main__":
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # set before torch is imported: its profiler logs to stderr
    if hasattr(signal, "SIGPIPE"):  # exit quietly when `| head` closes the pipe
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
