"""Checks lmcore on a GPU, then measures it, within nine minutes: what `tests/bench/gpu.sh` runs.

Correctness comes first: packed slots, refills, CUDA graphs, compilation, a slot that becomes NaN, restarts, and the
fast forms of update and loss. Then rows: `packing`, `step`, `refill`, `loss`, `update`. The JSON is written after each
of them. Exit codes: 0 done, also if a goal is missed; 1 a check failed or ended in an error; 2 wrong input.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lmcore.measure.throughput import is_out_of_memory
from lmcore.params import count_parameters
from tests.bench.circumstances import ROOT
from tests.bench.gpu.cases import GPU, QUICK
from tests.bench.gpu.clock import Clock, OutOfTime
from tests.bench.gpu.form_checks import check_forms
from tests.bench.gpu.goals import goals
from tests.bench.gpu.gpu_tests import start_gpu_tests
from tests.bench.gpu.kernel_rows import loss_row, update_row
from tests.bench.gpu.packing_rows import packing_rows
from tests.bench.gpu.record import Record, exit_code, shown_path
from tests.bench.gpu.refill_rows import refill_row
from tests.bench.gpu.slot_checks import SlotChecks
from tests.bench.gpu.step_rows import Ceilings, ceilings, step_row
from tests.bench.gpu.warm_cache import LANES, WarmCache, compile_lane
from tests.bench.race import forget

SECONDS = 525.0
SHARES_S = {"slots": 160.0, "forms": 45.0, "packing": 65.0, "step": 25.0, "refill": 12.0, "loss": 14.0, "update": 14.0}
"""Seconds of all checks of a kind, and of each row, on a GPU."""
PARAMETERS_A_SECOND = 4e6
"""Rows `step` have a second more for so many parameters, which take longer to make and to compile."""
COMPILED_BY = 190.0
"""Seconds after the start at which timing begins, whether all programs are compiled or not."""


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="everything with tiny models, within a minute")
    parser.add_argument(
        "--nanogpt", metavar="DIR", type=Path, help="folder of nanoGPT's model.py, to compare steps with"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: tests/bench/results/gpu.json")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"time for all of it (default: {SECONDS:.0f})")
    parser.add_argument("--commit", help="of the code, where the checkout has no git")
    parser.add_argument("--compile-lane", choices=LANES, help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: cuda needs a GPU that torch can use, and there is none; use --device cpu --quick")
    if found.device == "cpu" and not found.quick:
        parser.error("--device cpu: needs --quick; a CPU is measured by tests/bench/core.py and packing.py")
    if found.nanogpt is not None and not (found.nanogpt / "model.py").is_file():
        parser.error(f"--nanogpt: must be a folder with nanoGPT's model.py, got {found.nanogpt}")
    if found.quick and found.out is None:
        parser.error("--out: must be given with --quick, because gpu.json has measurements")
    found.out = found.out or ROOT / "tests" / "bench" / "results" / "gpu.json"
    return found


class Run:
    """The checks and rows of one run, each group within its time and none lost by an error in another."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self._device = args, args.device
        self._cases = QUICK if args.quick else GPU
        self._clock = Clock(args.seconds)
        self._began = time.perf_counter()
        self.record = Record(args.out, args.device, _command(args), args.commit)

    def make(self) -> int:
        """Check, measure, summarize -> the exit code."""
        ahead = WarmCache(sys.argv[1:]) if self._device == "cuda" and not self._args.quick else None
        tests = start_gpu_tests(self._device, self.record)
        checks = SlotChecks(self._cases, self._device, self.record)
        self._group("checks of slots", SHARES_S["slots"], lambda until: checks.make())
        self._group(
            "checks of forms", SHARES_S["forms"], lambda until: check_forms(self._cases, self._device, self.record)
        )
        if tests is not None:
            tests.finish(COMPILED_BY - (time.perf_counter() - self._began), self.record)
        if ahead is not None:
            lines = ahead.wait(COMPILED_BY - (time.perf_counter() - self._began))
            self.record.document["compiled_ahead"] = lines
        self._rows()
        self.record.document["goals"] = goals(self.record.rows)
        self.record.document["ended"] = True
        self.record.write()
        self._summarize()
        return exit_code(self.record)

    def _rows(self) -> None:
        limits = ceilings(self._device)
        self.record.row("peak", "device", limits._asdict())
        for name in self._cases.packing:
            self._group(f"packing {name}", SHARES_S["packing"], partial(self._packing, name))
        if self._args.nanogpt is None:
            self.record.left_out("nanoGPT", "it needs --nanogpt DIR")
        slots = [f"K{slots}" for slots in self._cases.optimizer_slots]
        steps = sorted(self._cases.steps, key=lambda name: self._cases.steps[name].model.d_model)
        singles: dict[str, Iterable[str]] = {
            "step": steps,
            "refill": self._cases.refill,
            "loss": self._cases.losses,
            "update": slots,
        }
        for group, rows in singles.items():
            for name in rows:
                self._group(
                    f"{group} {name}",
                    SHARES_S[group] if group != "step" else self._step_seconds(name),
                    partial(self._single, group, name, limits),
                )

    def _step_seconds(self, name: str) -> float:
        """As PARAMETERS_A_SECOND says."""
        return SHARES_S["step"] + int(count_parameters(self._cases.steps[name].model)) / PARAMETERS_A_SECOND

    def _single(self, group: str, name: str, limits: Ceilings, until: float) -> None:
        cases, device = self._cases, self._device
        if group == "step":
            nanogpt, quick = self._args.nanogpt, self._args.quick
            row = step_row(cases.steps[name], cases, device, nanogpt, limits, quick, until)
        elif group == "refill":
            row = refill_row(cases.refill[name], cases, device, until)
        elif group == "loss":
            row = loss_row(cases.losses[name], cases, device, limits, until)
        else:
            row = update_row(int(name.removeprefix("K")), cases, device, limits, until)
        self.record.row(group, name, row)

    def _packing(self, name: str, until: float) -> None:
        row: dict[str, Any] = {}
        for row in packing_rows(name, self._cases, self._device, until):
            self.record.row("packing", name, row, done=False)
        self.record.row("packing", name, row)

    def _group(self, name: str, seconds: float, body: Callable[[float], None]) -> None:
        """Run `body` with the time at which it should be done."""
        if self._clock.left_s < 3:
            self.record.left_out(name, "no time was left")
            return
        until = time.perf_counter() + seconds
        try:
            with self._clock.limit(seconds) as until:
                body(until)
        except OutOfTime:
            self.record.left_out(name, "was cut short, its time was over")
        except Exception as error:
            if time.perf_counter() > until:  # torch.compile wraps what it is interrupted by
                self.record.left_out(name, "was cut short, its time was over")
            elif is_out_of_memory(error):
                self.record.left_out(name, "memory ran out")
            else:
                self.record.error(name, traceback.format_exc())
        forget()

    def _summarize(self) -> None:
        checks = [check["passed"] for check in self.record.checks.values()]
        found = self.record.document["goals"]
        for goal in found:
            verdict = "not measured" if goal["met"] is None else "met" if goal["met"] else "MISSED"
            print(f"goal  {goal['goal']} at least {goal['at_least']}: {verdict} ({goal['is']})")
        for what, why in self.record.document["left_out"].items():
            print(f"left out  {what}: {why}")
        for name, check in self.record.checks.items():
            if check["passed"] is False:
                print(f"FAIL  {name}: {check['sentence']} ({check['figure']}, at most {check['tolerance']})")
        met, known = (
            sum(goal["met"] is not None and goal["met"] >= least for goal in found) for least in (True, False)
        )
        print(
            f"{checks.count(True)} checks passed, {checks.count(False)} failed, {checks.count(None)} skipped; "
            f"{len(self.record.document['errors'])} errors; {met} of {known} goals met"
            f"{' (they are those of a GPU)' if self._device == 'cpu' else ''}; "
            f"{self.record.document['seconds']:.0f} s; {shown_path(self._args.out)}"
        )


def _command(args: argparse.Namespace) -> str:
    """The command without the paths of this machine."""
    given = {f"--device {args.device}": args.device != "cuda", "--quick": args.quick}
    given |= {"--nanogpt DIR": args.nanogpt is not None, "--out FILE": args.quick}
    given |= {f"--seconds {args.seconds:.0f}": args.seconds != SECONDS}
    return " ".join(["bash tests/bench/gpu.sh", *(option for option, is_given in given.items() if is_given)])


def main() -> int:
    """Run the command."""
    args = options()
    if args.compile_lane is not None:
        compile_lane(args.compile_lane, QUICK if args.quick else GPU, args.device, args.nanogpt)
        return 0
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # its size is fixed, so that products repeat
    if args.device == "cpu":
        torch.set_num_threads(1)
    return Run(args).make()


if __name__ == "__main__":
    sys.exit(main())
