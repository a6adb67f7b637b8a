"""Where the time of a training step goes, and how far it is from what the device could do. See `--help`.

    python -m lmcore.profile --config configs/quick.yaml --size s

Prints plain tables and does nothing else. Measuring is in `lmcore.profile.breakdown` and `lmcore.measure.peak`,
counting in `lmcore.profile.roofline`. Exit codes: 0 done, 2 wrong input (one line), 130 interrupted.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lmcore.config import RunSpec
from lmcore.device import resolve_run, this_machine
from lmcore.errors import InputError, OneLineParser
from lmcore.params import count_parameters, flops_per_token
from lmcore.profile.roofline import KINDS, update_work
from lmcore.runfile.run_file import load_run

if TYPE_CHECKING:
    from lmcore.corpus.tokens import Tokens
    from lmcore.profile.breakdown import Breakdown, Timing

DESCRIPTION = """\
Measure where the time of a training step goes, by torch's profiler, and hold it against this device's peak of matrix
products, its memory bandwidth and the roofline of both. Trains on random tokens; writes nothing.
"""
TRAIN_TOKENS = 2**20
OTHER = "batches, autograd, the rest"


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    p = OneLineParser(prog="python -m lmcore.profile", description=DESCRIPTION, allow_abbrev=False)
    p.add_argument("--config", required=True, metavar="FILE", help="a sweep's YAML file: its base run is measured")
    p.add_argument("--size", metavar="NAME", help="which of the file's sizes (default: the last)")
    p.add_argument(
        "--slots", type=_positive(int), default=1, metavar="K", help="slots that train as one program (default: 1)"
    )
    p.add_argument(
        "--seconds", type=_positive(float), default=5.0, metavar="S", help="of training that is timed (default: 5)"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Load, measure, print; the process's exit code."""
    options = parser().parse_args(argv)
    try:
        run, size = load_run(options.config, options.size)
        title = f"{options.config}, size {size}"
        _profile(title, run, options.slots, options.seconds)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _profile(title: str, run: RunSpec, slots: int, seconds: float) -> None:
    # With torch, and so only when the command line and the file are right.
    import torch

    from lmcore.measure.peak import copy_bytes_per_s, matmul_flops_per_s
    from lmcore.measure.throughput import is_out_of_memory
    from lmcore.profile.breakdown import Probe

    run = resolve_run(run, this_machine())
    train = run.train
    print(_subject(title, run, slots, torch.__version__), flush=True)
    try:
        peak, bandwidth = matmul_flops_per_s(train), copy_bytes_per_s(train)
        tokens = _random_tokens(run)
        probe = Probe(run, slots, tokens)
        timing = probe.time_updates(seconds)
        if train.cuda_graphs:
            launched = run.model_copy(update={"train": train.model_copy(update={"cuda_graphs": False})})
            breakdown = Probe(launched, slots, tokens).break_down(total_s=timing.update_s)
        else:
            breakdown = probe.break_down()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"--slots: must fit the memory (got {slots}); take fewer, or a smaller size") from None
    print(_breakdown(breakdown, timing, run))
    print(_rates(run, slots, timing.update_s, peak, bandwidth))
    print(_roofline(run, slots, breakdown, timing.update_s, peak, bandwidth))


def _subject(title: str, run: RunSpec, slots: int, torch_version: str) -> str:
    train, count = run.train, count_parameters(run.model)
    B, T = train.batch_size, run.model.context_length
    compiled = "compiled" if train.compile else "not compiled"
    graphs = ", CUDA graphs" if train.cuda_graphs else ""
    return f"""\
What is measured

  {title}: {count.total:,} parameters, {count.non_embedding:,} of them neither embedding nor head
  slots K = {slots}, batch B = {B}, time T = {T}: {slots * run.tokens_per_step:,} tokens an update
  {train.device}, {train.dtype}, {compiled}{graphs}, CPU threads: {train.threads}, torch {torch_version}
  random tokens in place of the data, which are not read
"""


def _breakdown(breakdown: "Breakdown", timing: "Timing", run: RunSpec) -> str:
    from lmcore.profile.breakdown import PARTS

    rows = [("part", "ms", "of it backward", "share")]
    for part in (*PARTS, None):
        seconds, backward = breakdown.of(part), breakdown.of(part, backward=True)
        if seconds:
            share = seconds / breakdown.update_s
            rows.append((part or "an update", _in_ms(seconds), _in_ms(backward) if backward else "", f"{share:.1%}"))
    fastest, slowest = min(timing.updates_s), max(timing.updates_s)
    eval_every = min(run.train.eval_every, run.train.steps)
    if breakdown.update_s == timing.update_s:
        remark = "The parts are kernels launched one by one, without a graph."
    else:
        remark = f"Under the profiler it took {breakdown.update_s / timing.update_s - 1:+.0%}."
    rest = (
        "a device without work" if run.train.device == "cuda" else "Python between operators, and the profiler itself"
    )
    return f"""\
Where an update's time goes

{_table(rows)}

  An update takes {_ms(timing.update_s)}, the median of {len(timing.updates_s)} intervals from {_ms(fastest)} to \
{_ms(slowest)}. {remark}
  The rest is {rest}.
  An evaluation takes {_ms(timing.evaluation_s)}: after every {eval_every} updates, it is \
{timing.evaluation_share(eval_every):.1%} of a run's time.
"""


def _rates(run: RunSpec, slots: int, update_s: float, peak: float, bandwidth: float) -> str:
    tokens_per_s = slots * run.tokens_per_step / update_s
    per_token = flops_per_token(run.model)
    rows = [
        ("rate", "measured", "of the peak"),
        ("tokens of all slots", f"{tokens_per_s:,.0f} /s", ""),
        (
            f"FLOPs, {_si(per_token)} a token",
            _si(tokens_per_s * per_token, "FLOP/s"),
            f"{tokens_per_s * per_token / peak:.1%}",
        ),
        ("peak: product of two large matrices", _si(peak, "FLOP/s"), ""),
        ("bandwidth: copy of a large tensor, read + written", _si(bandwidth, "B/s"), ""),
    ]
    return f"Rates\n\n{_table(rows)}\n"


def _roofline(run: RunSpec, slots: int, breakdown: "Breakdown", update_s: float, peak: float, bandwidth: float) -> str:
    from lmcore.profile.breakdown import OVERHEAD

    works = [work for work in update_work(run, slots) if work.times]
    bounds_s = [work.bound_s(peak, bandwidth) for work in works]
    rows = [("operations", "FLOPs", "bytes", "bound ms", "profiled ms")]
    for kind in KINDS:
        rows.append((kind, "", "", "", _in_ms(breakdown.of(kind=kind))))
        for work, least_s in zip(works, bounds_s, strict=True):
            if work.kind == kind:
                flops = _si(work.total_flops) if work.flops else ""
                rows.append((f"  {work.name}", flops, _si(work.total_bytes, "B"), _in_ms(least_s), ""))
    rows.append((OTHER, "", "", "", _in_ms(breakdown.of(kind=OVERHEAD))))
    all_flops = sum(work.total_flops for work in works)
    all_bytes = sum(work.total_bytes for work in works)
    bound_s = sum(bounds_s)
    rows.append(("an update", _si(all_flops), _si(all_bytes, "B"), _in_ms(bound_s), _in_ms(breakdown.update_s)))
    return f"""\
Roofline: each operation at the peak or at the bandwidth, whichever takes longer

{_table(rows)}

  An update takes {_ms(update_s)}, {update_s / bound_s:.2f} times its bound of {_ms(bound_s)}. Its FLOPs alone take \
{_ms(all_flops / peak)} at the peak, its bytes {_ms(all_bytes / bandwidth)}."""


def _random_tokens(run: RunSpec) -> "Tokens":
    """Training tokens beyond the first caches, and as many for validation as its windows take."""
    import numpy as np

    from lmcore.corpus.tokens import Tokens

    T, V = run.model.context_length, run.model.vocab_size
    rng = np.random.default_rng(0)
    counts = (max(TRAIN_TOKENS, T + 1), run.train.eval_windows * T + 1)
    train, val = (rng.integers(0, V, size=count, dtype=np.uint32) for count in counts)
    return Tokens.of(train, val, V)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines, the first column flush left, a rule below the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  "
        + "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "  " + "-" * (len(lines[0]) - 2), *lines[1:]])


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"


def _in_ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _si(number: float, unit: str = "") -> str:
    """Three digits and a prefix: 1.33 G."""
    power = 0
    while abs(number) >= 999.5 and power < 5:
        number /= 1000
        power += 1
    return f"{number:.3g} {' kMGTP'[power].strip()}{unit}".rstrip()


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """A type for argparse: a finite number above 0, at least 1 if whole."""
    rule = "a whole number >= 1" if kind is int else "a number > 0"

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be {rule} (got {text!r})")
        return value

    return parse


if __name__ == "__main__":
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # before torch is loaded: its profiler talks to stderr
    if hasattr(signal, "SIGPIPE"):  # `... | head` ends as quietly as `cat FILE | head`
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
