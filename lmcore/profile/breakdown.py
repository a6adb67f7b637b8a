"""Where the time of an update goes, as torch's profiler sees `Trainer.advance`.

Every operator's own time (without the operators that it calls) is counted once, by the part of the step that ran it and
by the kind of work that it is. The part is the nearest module of the model, or file of lmcore, that it was called from;
a backward operator belongs to the part whose forward operator it differentiates. What remains of the measured time is
a part of its own, mostly Python between the operators: the parts sum to the time of the update exactly.

On CUDA an operator's time is that of the kernels which it launched, and what remains is a device without work. A
compiled program is one part: its operators do not know their module.
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

INTERVALS = 5  # that are timed
UPDATES = 4  # that are profiled: an update is thousands of events, and reading them takes longer than the update

HEAD_AND_LOSS, STEP, AUTOGRAD = "head and loss", "gradient norm, clipping", "autograd's bookkeeping"
COMPILED, REST = "compiled model", "the rest"
OVERHEAD = "overhead"
BATCHES, OPTIMIZER, EVALUATION = "batches, coefficients", "AdamW", "evaluation"

MODULES = {
    "SlotEmbedding": "embedding",
    "SlotRMSNorm": "norms",
    "Attention": "attention",
    "FeedForward": "feed-forward",
    "Block": "residual sums",
    "TransformerLM": HEAD_AND_LOSS,  # of its own it has the last product, and a look at the token ids
}
FILES = {
    "data": BATCHES,
    "trainer": BATCHES,
    "model": HEAD_AND_LOSS,
    "loss": HEAD_AND_LOSS,
    "population": STEP,
    "clip": STEP,
    "optim": OPTIMIZER,
    "evaluate": EVALUATION,
}
COMPILED_OF = {HEAD_AND_LOSS: HEAD_AND_LOSS, STEP: OPTIMIZER}
"""What a compiled program is a part of, by who called it; by default the model."""
PARTS = (BATCHES, *MODULES.values(), COMPILED, AUTOGRAD, STEP, OPTIMIZER, REST)
"""In the order of the step."""

_PRODUCT = re.compile(r"aten::(mm|bmm|addmm|baddbmm|matmul|linear)$|mkldnn::_linear|mkl::_mkl_linear|triton_tem_")
_ATTENTION = re.compile(r"scaled_dot_product|flash_attention|efficient_attention|cudnn_attention")
_PYTHON = re.compile(r"<built-in |nn\.Module: |.*\(\d+\): ")
_MODULE = re.compile(r"nn\.Module: (\w+)_\d+$")
_FILE = re.compile(r"(?:^|.*/)lmcore/(?:\w+/)?(\w+)\.py\(\d+\): (\w+)")
_BEGIN = ("trainer", "advance")  # what is called from elsewhere, loading a slot for instance, is not of the step
_BACKWARD = "autograd::engine::evaluate_function: "
_COMPILED = ("Torch-Compiled Region", "CompiledFunction")
_COMPILED_KERNEL = "<built-in function kernel>"  # as the profiler calls the C++ that torch.compile makes for a CPU


class Share(NamedTuple):
    """What seconds of an update are put down to."""

    part: str
    """One of PARTS."""
    backward: bool
    kind: str
    """One of `lmcore.profile.roofline.KINDS`, or OVERHEAD."""


@dataclass(frozen=True)
class Breakdown:
    """One update under the profiler."""

    update_s: float
    """Wall seconds, the profiler's own included."""
    seconds: dict[Share, float]
    """Its parts; they sum to `update_s`."""

    def of(self, part: str | None = None, backward: bool | None = None, kind: str | None = None) -> float:
        """Seconds of the shares that have these properties."""
        return sum(
            seconds
            for share, seconds in self.seconds.items()
            if part in (None, share.part) and backward in (None, share.backward) and kind in (None, share.kind)
        )


class Timing(NamedTuple):
    """Wall seconds without the profiler."""

    updates_s: list[float]
    """Of an update, the mean of each of INTERVALS intervals."""
    evaluation_s: float
    """Of one evaluation of all slots, the median of the intervals'."""

    @property
    def update_s(self) -> float:
        """Of an update, the median of the intervals'."""
        return statistics.median(self.updates_s)

    def evaluation_share(self, eval_every: int) -> float:
        """Part of a run's time that is spent evaluating after every `eval_every` updates."""
        return self.evaluation_s / (eval_every * self.update_s + self.evaluation_s)


class Probe:
    """Copies of a run in the slots of one trainer, which train for as many updates as a measurement needs."""

    def __init__(self, run: RunSpec, slots: int, tokens: Tokens) -> None:
        self._run = run
        self._slots = slots
        self._trainer = Trainer([self._of(1)] * slots, tokens)

    def time_updates(self, seconds: float) -> Timing:
        """Train for about `seconds`, after two updates that warm up."""
        warm_up_s = [self._interval(1)[0] for _ in range(2)]
        updates = max(1, round(seconds / INTERVALS / warm_up_s[-1]))
        updates_s, evaluations_s = zip(*(self._interval(updates) for _ in range(INTERVALS)), strict=True)
        return Timing(list(updates_s), statistics.median(evaluations_s))

    def break_down(self, total_s: float | None = None) -> Breakdown:
        """The mean of UPDATES updates, after as many that warm up the profiler.

        With `total_s` the parts are held against that time of an update, in place of what it took under the profiler: a
        kernel of a GPU takes as long in the replay of a graph, where the profiler cannot tell which part it belongs to.
        """
        on_gpu = self._run.train.device == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        once = schedule(wait=0, warmup=1, active=1, repeat=1)
        with profile(activities=activities, with_stack=True, schedule=once, acc_events=True) as profiler:
            for _ in range(2):
                profiled_s, _ = self._interval(UPDATES)
                profiler.step()
        update_s = profiled_s if total_s is None else total_s
        seconds = {share: total / UPDATES for share, total in attributed(profiler.events() or [], on_gpu).items()}
        seconds[Share(REST, False, OVERHEAD)] = update_s - sum(seconds.values())
        return Breakdown(update_s, seconds)

    def _interval(self, updates: int) -> tuple[float, float]:
        """Seconds of an update of all slots, the mean of so many from fresh weights on, and of the evaluation after."""
        for slot in range(self._slots):
            self._trainer.load_slot(slot, self._of(updates))
        row = self._trainer.advance()[0]
        update_s = self._run.tokens_per_step / row[col.TOKENS_PER_S]
        return update_s, row[col.ELAPSED_S] - updates * update_s

    def _of(self, updates: int) -> RunSpec:
        """The run with one report, after its last update: intervals of any length then fit the same trainer."""
        train = self._run.train.model_copy(update={"steps": updates, "eval_every": 2**40})
        return self._run.model_copy(update={"train": train})


class _Owner(NamedTuple):
    part: str | None
    backward: bool = False


def attributed(events: Iterable[FunctionEvent], on_gpu: bool = False) -> dict[Share, float]:
    """Seconds of a profile's events by what they are put down to, without evaluation and what is not lmcore's."""
    seconds: dict[Share, float] = defaultdict(float)
    owners: dict[int, _Owner] = {}
    forward_parts: dict[int, str] = {}  # by autograd's number of the operator
    for event in sorted(events, key=lambda event: (event.time_range.start, -event.time_range.end)):
        if event.device_type != DeviceType.CPU:
            continue  # a kernel, which counts at the operator that launched it
        caller = owners.get(id(event.cpu_parent), _Owner(None))
        owner = owners[id(event)] = _owner(event, caller, forward_parts)
        if event.sequence_nr >= 0 and not owner.backward and owner.part is not None:
            forward_parts[event.sequence_nr] = owner.part
        if owner.part is None or owner.part == EVALUATION:
            continue
        if _PYTHON.match(event.name) and event.name != _COMPILED_KERNEL:
            continue
        share = Share(owner.part, owner.backward, _kind(event.name, owner.part))
        seconds[share] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
    return dict(seconds)


def _owner(event: FunctionEvent, caller: _Owner, forward_parts: dict[int, str]) -> _Owner:
    """The part that an event belongs to, given its caller's; the last number seen is that of the operator itself."""
    name = event.name
    if name.startswith(_BACKWARD):
        return _Owner(forward_parts.get(event.sequence_nr, AUTOGRAD), backward=True)
    if caller.part == EVALUATION:
        return caller
    if caller.part is not None and name.startswith(_COMPILED):
        return caller._replace(part=COMPILED_OF.get(caller.part, COMPILED))
    if module := _MODULE.match(name):
        return caller._replace(part=MODULES.get(module[1], caller.part))
    if file := _FILE.match(name):
        outside = caller.part is None and file.groups() != _BEGIN
        of_a_module = file[1] == "model" and caller.part in MODULES.values()
        return caller if outside or of_a_module else caller._replace(part=FILES.get(file[1], caller.part))
    if "run_backward" in name and caller.part is not None:
        return _Owner(AUTOGRAD, backward=True)
    if caller == _Owner(STEP) and event.sequence_nr >= 0:
        return _Owner(HEAD_AND_LOSS)  # still differentiated: the mean of the losses, not what follows backward
    return caller


def _kind(name: str, part: str) -> str:
    if part in (BATCHES, AUTOGRAD):
        return OVERHEAD
    if part in (STEP, OPTIMIZER):
        return "optimizer"
    if _PRODUCT.search(name):
        return "matrix products"
    return "attention" if _ATTENTION.search(name) else "elementwise"
