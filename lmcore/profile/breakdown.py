"""Where the time of an update goes, measured with torch's profiler around `Trainer.advance`.

The self time of every operator (on CUDA, of the kernels it launched) is attributed to one kind of work and one part of
the step: that of the nearest module of the model, or file of lmcore, in the operator's call stack. A backward operator
has the part of its forward operator. A compiled program is one part. The rest of the measured time, mostly Python
between operators or an idle device, is a part of its own, so that the parts sum to the time of the update.
"""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, schedule

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.corpus.tokens import Tokens
from lmcore.trainer import Trainer

TIMED_INTERVALS = 5
PROFILED_UPDATES = 4  # an update has thousands of events; reading them takes longer than the update itself

HEAD_AND_LOSS, CLIPPING, AUTOGRAD = "head and loss", "gradient norm, clipping", "autograd's bookkeeping"
COMPILED, REST = "compiled model", "the rest"
OVERHEAD = "overhead"
DROPOUT = "dropout"
BATCHES, OPTIMIZER, EVALUATION = "batches, coefficients", "weight update", "evaluation"

PART_OF_MODULE = {
    "SlotEmbedding": "embedding",
    "SlotRMSNorm": "norms",
    "Attention": "attention",
    "FeedForward": "feed-forward",
    "Block": "residual sums",
    "TransformerLM": HEAD_AND_LOSS,  # its own operators are the output projection and the check of token ids
}
PART_OF_FILE = {
    "data": BATCHES,
    "trainer": BATCHES,
    "forward": BATCHES,
    "model": HEAD_AND_LOSS,
    "dropout": DROPOUT,
    "loss": HEAD_AND_LOSS,
    "population": CLIPPING,
    "clip": CLIPPING,
    "update_rule": OPTIMIZER,
    "optim": OPTIMIZER,
    "muon": OPTIMIZER,
    "evaluate": EVALUATION,
}
PART_OF_COMPILED = {HEAD_AND_LOSS: HEAD_AND_LOSS, OPTIMIZER: OPTIMIZER}
"""Part of a compiled program by the part that calls it; any other caller makes it COMPILED."""
PARTS = (BATCHES, DROPOUT, *PART_OF_MODULE.values(), COMPILED, AUTOGRAD, CLIPPING, OPTIMIZER, REST)
"""All parts of an update, in the order of the step."""

_PRODUCT = re.compile(r"aten::(mm|bmm|addmm|baddbmm|matmul|linear)_?$|mkldnn::_linear|mkl::_mkl_linear|triton_tem_")
_ATTENTION = re.compile(r"scaled_dot_product|flash_attention|efficient_attention|cudnn_attention")
_PYTHON = re.compile(r"<built-in |nn\.Module: |.*\(\d+\): ")
_MODULE = re.compile(r"nn\.Module: (\w+)_\d+$")
_FILE = re.compile(r"(?:^|.*/)lmcore/(?:\w+/)?(\w+)\.py\(\d+\): (\w+)")
# File and function in which an update starts. Anything called from elsewhere, such as loading a slot, is ignored.
_ENTRY = ("trainer", "advance")
_BACKWARD = "autograd::engine::evaluate_function: "
_COMPILED = ("Torch-Compiled Region", "CompiledFunction")
_COMPILED_KERNEL = "<built-in function kernel>"  # a C++ function that torch.compile generates on a CPU


class Category(NamedTuple):
    """What time was spent on: one of PARTS, in the backward pass or not, and one of `roofline.KINDS` or OVERHEAD."""

    part: str
    backward: bool
    kind: str


@dataclass(frozen=True)
class Breakdown:
    """The time of one update, by category.

    >>> breakdown = Probe(run, slots=1, tokens=tokens).break_down()
    >>> attention_share = breakdown.total_s(part="attention") / breakdown.update_s
    """

    update_s: float  # seconds per update, profiler overhead included
    seconds: dict[Category, float]  # per update; they sum to update_s

    def total_s(self, part: str | None = None, backward: bool | None = None, kind: str | None = None) -> float:
        """Seconds of all categories that match the given values."""
        return sum(
            seconds
            for category, seconds in self.seconds.items()
            if part in (None, category.part) and backward in (None, category.backward) and kind in (None, category.kind)
        )


class Timing(NamedTuple):
    """Times measured without the profiler."""

    updates_s: list[float]  # seconds per update, the mean of each of TIMED_INTERVALS intervals
    evaluation_s: float  # seconds per evaluation of all slots, the median over intervals

    @property
    def update_s(self) -> float:
        """Seconds per update, the median over intervals."""
        return statistics.median(self.updates_s)

    def evaluation_share(self, eval_every: int) -> float:
        """Share of training time spent on evaluation if it runs every `eval_every` updates."""
        return self.evaluation_s / (eval_every * self.update_s + self.evaluation_s)


class Probe:
    """Trains copies of a run in the slots of one trainer, for as many updates as a measurement needs.

    >>> probe = Probe(run, slots=4, tokens=tokens)
    >>> timing, breakdown = probe.time_updates(seconds=5), probe.break_down()
    """

    def __init__(self, run: RunSpec, slots: int, tokens: Tokens) -> None:
        self._run, self._slots = run, slots
        self._trainer = Trainer([self._with_steps(1)] * slots, tokens)

    def time_updates(self, seconds: float) -> Timing:
        """Time updates and evaluations for about `seconds`, after two warm-up updates."""
        warm_up_s = [self._train(1)[0] for _ in range(2)]
        updates = max(1, round(seconds / TIMED_INTERVALS / warm_up_s[-1]))
        updates_s, evaluations_s = zip(*(self._train(updates) for _ in range(TIMED_INTERVALS)), strict=True)
        return Timing(list(updates_s), statistics.median(evaluations_s))

    def break_down(self, update_s: float | None = None) -> Breakdown:
        """Profile PROFILED_UPDATES updates, after as many that warm up the profiler, and average them.

        The parts are compared with `update_s` seconds per update instead of the time under the profiler. This is for
        CUDA graphs, whose kernels the profiler cannot attribute; those of a run without graphs take as long.
        """
        on_gpu = self._run.train.device == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        once = schedule(wait=0, warmup=1, active=1, repeat=1)
        with profile(activities=activities, with_stack=True, schedule=once, acc_events=True) as profiler:
            for _ in range(2):
                profiled_s, _ = self._train(PROFILED_UPDATES)
                profiler.step()
        update_s = profiled_s if update_s is None else update_s
        totals = attribute_time(profiler.events() or [], on_gpu)
        seconds = {category: total / PROFILED_UPDATES for category, total in totals.items()}
        seconds[Category(REST, False, OVERHEAD)] = update_s - sum(seconds.values())
        return Breakdown(update_s, seconds)

    def _train(self, updates: int) -> tuple[float, float]:
        """Train from scratch for `updates` updates. Returns seconds per update and seconds of the evaluation."""
        for slot in range(self._slots):
            self._trainer.load_slot(slot, self._with_steps(updates))
        row = self._trainer.advance()[0]
        update_s = self._run.tokens_per_step / row[col.TOKENS_PER_S]
        return update_s, row[col.ELAPSED_S] - updates * update_s

    def _with_steps(self, steps: int) -> RunSpec:
        """The run with one report, after its last update. The same trainer accepts it for any number of steps."""
        once = {"steps": steps, "eval_every": 2**40, "eval_tokens": None, "branches": None}
        train = self._run.in_steps().train.model_copy(update=once)
        return self._run.model_copy(update={"train": train})


class _Owner(NamedTuple):
    """What an event belongs to; `part` is None outside of an update."""

    part: str | None
    backward: bool = False


def attribute_time(events: Iterable[FunctionEvent], on_gpu: bool = False) -> dict[Category, float]:
    """Seconds of a profile's events by category. Evaluation, and events outside of an update, are left out."""
    seconds: dict[Category, float] = defaultdict(float)
    owners: dict[int, _Owner] = {}
    forward_parts: dict[int, str] = {}  # by autograd's sequence number of the operator
    for event in sorted(events, key=lambda event: (event.time_range.start, -event.time_range.end)):
        if event.device_type != DeviceType.CPU:
            continue  # the time of a kernel is counted with the operator that launched it
        caller = owners.get(id(event.cpu_parent), _Owner(None))
        owner = owners[id(event)] = _owner(event, caller, forward_parts)
        if event.sequence_nr >= 0 and not owner.backward and owner.part is not None:
            forward_parts[event.sequence_nr] = owner.part
        is_python = _PYTHON.match(event.name) and event.name != _COMPILED_KERNEL
        if owner.part is None or owner.part == EVALUATION or is_python:
            continue
        category = Category(owner.part, owner.backward, _kind(event.name, owner.part))
        seconds[category] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
    return dict(seconds)


def _owner(event: FunctionEvent, caller: _Owner, forward_parts: dict[int, str]) -> _Owner:
    """The owner of an event, given that of its caller and the parts of the forward operators so far."""
    name = event.name
    if name.startswith(_BACKWARD):
        return _Owner(forward_parts.get(event.sequence_nr, AUTOGRAD), backward=True)
    if caller.part == EVALUATION:
        return caller
    if caller.part is not None and name.startswith(_COMPILED):
        return caller._replace(part=PART_OF_COMPILED.get(caller.part, COMPILED))
    if module := _MODULE.match(name):
        return caller._replace(part=PART_OF_MODULE.get(module[1], caller.part))
    if file := _FILE.match(name):
        outside = caller.part is None and file.groups() != _ENTRY
        in_module = file[1] == "model" and caller.part in PART_OF_MODULE.values()
        return caller if outside or in_module else caller._replace(part=PART_OF_FILE.get(file[1], caller.part))
    if "run_backward" in name and caller.part is not None:
        return _Owner(AUTOGRAD, backward=True)
    if caller == _Owner(CLIPPING) and event.sequence_nr >= 0:
        return _Owner(HEAD_AND_LOSS)  # it is differentiated: the mean of the losses, not the clipping after backward
    return caller


def _kind(name: str, part: str) -> str:
    if part in (BATCHES, AUTOGRAD):
        return OVERHEAD
    if part in (CLIPPING, OPTIMIZER):
        return "optimizer"
    if _PRODUCT.search(name):
        return "matrix products"
    return "attention" if _ATTENTION.search(name) else "elementwise"
