"""Training K runs of one shape side by side, as an iterator of report rows.

To train is to iterate; to stop is to stop iterating. A trainer has K slots, and each holds one run or is empty. Between
two reports a slot can be freed, loaded with another run, saved and restored. Each slot's numbers are those of its run
alone (bitwise on a CPU), so K is a matter of speed only. There is no search, no tracking and no early stopping here.

A branch of a run (`lmcore.branches`) is trained in the run's slot as soon as the trunk has come to where it leaves. The
trunk's tensors wait in host memory until the branch has ended.

Shapes: K slots, B batch, T time, C coefficients of an update.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from lmcore import columns as col
from lmcore.checkpoint import JSON, CheckpointError, read_checkpoint, write_checkpoint
from lmcore.columns import Row
from lmcore.config import RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens, check_windows
from lmcore.data import get_batch, validation_batches, validation_windows
from lmcore.device import resolve_run, this_machine
from lmcore.dropout import Dropout, dropout_key, dropout_rates
from lmcore.errors import InputError
from lmcore.model import TransformerLM
from lmcore.population.compile_once import CompileOnce
from lmcore.population.evaluate import ValLoss, val_loss, window_losses
from lmcore.population.forward import forward_of, hidden_of
from lmcore.population.graph import GraphedStep
from lmcore.population.interval_log import IntervalLog, Trained
from lmcore.population.population import Coefficients, Population, StepResult, mean_nll, nll_per_token
from lmcore.population.slot import Slot

# A slot's elements must fill whole vector registers. Otherwise exp, log and silu compute the remainder in another way,
# and a slot's last bits depend on its place. Shapes that do not fill them run one slot after the other.
VECTOR = 64
BRANCH_TENSORS = "branch."
"""How the names of a branch's tensors begin in the checkpoint of a run."""


class Trainer:
    """K slots of one shape (`RunSpec.static_signature`); a slot given as None is empty until it is loaded.

    Example::

        trainer = Trainer([RunSpec(...), RunSpec(...)], tokens)
        for row in trainer:
            print(row["slot"], row["step"], row["val_loss"])

    Raises ValueError for no run at all or runs of different shapes, and InputError for too few tokens, token ids beyond
    the vocabulary, or a missing device.
    """

    def __init__(self, runs: Sequence[RunSpec | None], tokens: Tokens) -> None:
        machine = this_machine()
        resolved = [run and resolve_run(run, machine) for run in runs]
        first = next(filter(None, resolved), None)
        if first is None:
            raise ValueError("a trainer needs at least one run to know its shape, got none")
        check_windows(tokens, first.model.context_length)
        if tokens.vocab_size > first.model.vocab_size:
            raise InputError(
                f"model.vocab_size must cover the data's vocabulary of {tokens.vocab_size} tokens, "
                f"got {first.model.vocab_size}; raise it"
            )
        self.static_signature = first.static_signature
        self.tokens = tokens
        self.slots: list[Slot | None] = [None] * len(resolved)
        self._train = first.train
        self._device = torch.device(first.train.device)
        self._sum_dtype = torch.float32 if self._device.type == "mps" else torch.float64  # an Apple GPU has no float64

        model = TransformerLM(first.model, len(resolved)).to(self._device)
        micro_batch_size = first.train.micro_batch_size
        self._all = Population(model, first.optim.name, bool(first.train.compile), micro_batch_size)
        self._views: dict[int, Population] = {}  # slots as populations of their own, made when needed
        self._graphs: dict[str, GraphedStep] = {}  # by model.tying
        self._trunks: dict[int, dict[str, Tensor]] = {}  # of slots with a branch, in host memory; never changed

        self._once = CompileOnce(self._train)
        hidden = hidden_of(self._train)
        fused = bool(self._train.compile) and self._device.type == "cuda"
        self._mean_nll = forward_of(partial(mean_nll, fused=fused), hidden, self._train)
        self._nll_per_token = forward_of(nll_per_token, hidden, self._train)
        windows = validation_windows(tokens.val, first.model.context_length, first.train.eval_windows)
        self._windows = tuple(part.to(self._device) for part in windows)
        for k, run in enumerate(resolved):
            if run is not None:
                self.load_slot(k, run)

    @property
    def model(self) -> TransformerLM:
        """The model of all slots."""
        return self._all.model

    @property
    def active(self) -> list[int]:
        """Slots that hold a run with updates left."""
        return [k for k, slot in enumerate(self.slots) if slot is not None and not slot.finished]

    def __iter__(self) -> Iterator[Row]:
        """Report rows until no slot has updates left; slots may be freed and loaded between rows.

        The row of a branch comes when it ends, and again among the `branches` of the next row of its run. Until the
        slot is advanced, `model` has the branch's weights.
        """
        while self.active:
            yield from self.advance()

    def advance(self, some: Sequence[int] | None = None, batched: bool | None = None) -> list[Row]:
        """Train the active slots, or `some` of them, up to the nearest report; rows of the slots that reached theirs.

        Where a branch begins or is under way, it may return earlier and without a row.

        `batched` trains the slots as one program, or one after the other; the numbers are the same. By default it is
        true if all K slots advance, because a batched program also computes inactive slots. Shapes that do not fill
        vector registers always run one after the other.

        Raises ValueError if one of `some` is not active. If an error is raised while training, the state of these slots
        is undefined: restore or reload them.
        """
        active = self.active if some is None else sorted(some)
        if not active:
            return []
        if idle := sorted(set(active) - set(self.active)):
            raise ValueError(f"only active slots can advance, but {idle} are not; the active ones are {self.active}")
        slots = {k: slot for k in active if (slot := self.slots[k]) is not None}
        if batched is None:
            batched = len(active) == len(self.slots)
        began = time.perf_counter()
        for k, slot in slots.items():
            self._change_course(k, slot)
        current = {k: slot.branch or slot for k, slot in slots.items()}
        updates = min(slot.updates_to_event for slot in current.values())
        with cpu_threads(int(self._train.threads)):
            trained = self._update(current, updates, batched)
            trained_s = time.perf_counter() - began
            for k, slot in current.items():
                slot.step += updates
                slot.updates_since_report += updates
                slot.train_loss_sum += trained[k].loss_sum
                slot.points = [*slot.points, *trained[k].points]  # a new list, because snapshots have the old one
                slot.train_s += trained_s
            due = [k for k, slot in current.items() if slot.report_is_due]
            together = batched and len(due) == len(slots)
            losses = self._validate(due, together)
            finished = {k: current[k] for k in due if current[k].finished}
            finals = self._validate_finally(finished, losses, together)
        elapsed_s = time.perf_counter() - began
        for k, slot in slots.items():
            slot.elapsed_s += elapsed_s
            current[k].elapsed_s = slot.elapsed_s
        rows = {k: self._report(k, current[k], losses[k], finals.get(k), trained[k].grad_norm) for k in due}
        for k, row in rows.items():
            if current[k] is slots[k].branch:
                slots[k].branches_done += 1
                slots[k].branch_rows = [*slots[k].branch_rows, row]
        return list(rows.values())

    def load_slot(self, k: int, run: RunSpec) -> None:
        """Begin `run` in slot k, replacing what was there. Raises ValueError if its shape is not this trainer's."""
        run = self._check_signature(run)
        self._all.reset(k, run.train.seed, run.model.tie_embeddings)
        self._views.pop(k, None)
        self._trunks.pop(k, None)
        self.slots[k] = Slot(run)

    def free_slot(self, k: int) -> None:
        """End slot k's run; its weights can be read until the slot is loaded again."""
        self.slots[k] = None
        self._trunks.pop(k, None)

    def save_slot(self, k: int, out: str | PathLike[str]) -> None:
        """Write slot k's weights, optimizer state and progress as one checkpoint file. Raises ValueError if empty."""
        write_checkpoint(out, *self.snapshot_slot(k))

    def snapshot_slot(self, k: int) -> tuple[dict[str, Tensor], dict[str, JSON]]:
        """What `save_slot` writes, copied to the host: another thread can write it while this one trains on.

        While a branch is under way, the tensors are those of the trunk, and with names that begin with BRANCH_TENSORS
        those of the branch.
        """
        slot = self.slots[k]
        if slot is None:
            raise ValueError(f"slot {k} is empty; only a loaded slot can be saved")
        tensors = self._trunks[k] if slot.branch is not None else self._copy_of(k)
        if slot.branch is not None and not slot.branch.finished:
            tensors = {**tensors, **{f"{BRANCH_TENSORS}{name}": copy for name, copy in self._copy_of(k).items()}}
        return tensors, {**slot.state(), "data_fingerprint": self.tokens.fingerprint}

    def restore_slot(self, k: int, src: str | PathLike[str]) -> None:
        """Continue in slot k the run that `save_slot` wrote: the same rows follow as if it had never stopped.

        Raises CheckpointError if the file is damaged or not a slot's, and ValueError if its run has another shape or
        was trained on other data.
        """
        tensors, meta = read_checkpoint(src)
        try:
            # The run keeps its dtype, on which its numbers depend, and takes this trainer's device and compile mode.
            saved = meta.pop("run")
            # A checkpoint from before there was a final evaluation takes this trainer's.
            saved["train"].setdefault("final_eval_windows", self._train.final_eval_windows)
            run = with_runtime(RunSpec.model_validate(saved), self._train)
            fingerprint = meta.pop("data_fingerprint")
            slot = Slot.of_state(self._check_signature(run), meta)
        except (KeyError, TypeError, ValidationError):
            raise CheckpointError(f"{src}: is a checkpoint, but not a slot's; give one that save_slot wrote") from None
        if fingerprint != self.tokens.fingerprint:
            raise ValueError(f"{src}: was trained on other data ({fingerprint[:12]}); give it its own tokens")
        names = self.model.slot_names(k, run.model.tie_embeddings)
        parts = self._slot_tensors().items()
        expected = {f"{part}.{name}" for part, named in parts for name in names if name in named}
        trunk = {name: tensors[name] for name in expected & set(tensors)}
        branch = {name: tensors[full] for name in expected if (full := f"{BRANCH_TENSORS}{name}") in tensors}
        wanted = (expected, set() if slot.branch is None else expected)
        if (set(trunk), set(branch)) != wanted or len(tensors) != len(trunk) + len(branch):
            raise CheckpointError(f"{src}: lacks tensors of its run, or has others; take the checkpoint before it")
        self.load_slot(k, slot.run)
        self._write(k, branch or trunk)
        if branch:
            self._trunks[k] = trunk
        self.slots[k] = slot

    def save(self, folder: str | PathLike[str]) -> None:
        """Write every loaded slot to `folder` as slot-<k>.safetensors."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for k, slot in enumerate(self.slots):
            if slot is not None:
                self.save_slot(k, _slot_file(folder, k))

    def restore(self, folder: str | PathLike[str]) -> None:
        """Continue the slots that `save` wrote to `folder`; slots without a file become empty."""
        for k in range(len(self.slots)):
            if _slot_file(folder, k).exists():
                self.restore_slot(k, _slot_file(folder, k))
            else:
                self.free_slot(k)

    def _check_signature(self, run: RunSpec) -> RunSpec:
        """The run, resolved for this machine, if it fits this trainer."""
        run = resolve_run(run, this_machine())
        if run.static_signature != self.static_signature:
            mine = dict(self.static_signature)
            other = [f"{path} = {new!r} for {mine[path]!r}" for path, new in run.static_signature if new != mine[path]]
            raise ValueError(f"slots of one trainer share their shape, but this run has {', '.join(other)}")
        return run

    def _change_course(self, k: int, slot: Slot) -> None:
        """Go back to the trunk if slot k's branch has ended, and onto the next branch if that leaves here."""
        if slot.branch is not None and slot.branch.finished:
            self._write(k, self._trunks.pop(k))
            slot.branch = None
        if slot.branch is None and slot.branches_here:
            self._trunks[k] = self._copy_of(k)
            slot.begin_branch()

    def _copy_of(self, k: int) -> dict[str, Tensor]:
        """A copy in host memory of what slot k consists of, by name in checkpoints."""
        return {
            f"{part}.{name}": named[name].detach()[k].to("cpu", copy=True)
            for part, named in self._slot_tensors().items()
            for name in self.model.slot_names(k)
            if name in named
        }

    def _write(self, k: int, tensors: Mapping[str, Tensor]) -> None:
        """Give slot k the weights and state that `_copy_of` returned."""
        for part, named in self._slot_tensors().items():
            for name in self.model.slot_names(k):
                if name in named:
                    named[name].detach()[k].copy_(tensors[f"{part}.{name}"])

    def _slot_tensors(self) -> dict[str, dict[str, Tensor]]:
        """What slots consist of, under the names in checkpoints: weights and optimizer state, by parameter name."""
        return {"model": dict(self.model.named_parameters()), **self._all.state}

    def _populations(self, slots: Sequence[int], windows: int, batched: bool) -> list[tuple[Population, list[int]]]:
        """How to run these slots with `windows` windows each: populations, and which slot each of their rows is."""
        fills_vectors = windows * self.model.config.context_length % VECTOR == 0
        if len(self.slots) == 1 or (batched and fills_vectors):
            return [(self._all, list(range(len(self.slots))))]
        self._views |= {k: self._all.view(k) for k in slots if k not in self._views}
        return [(self._views[k], [k]) for k in slots]

    def _update(self, slots: dict[int, Slot], updates: int, batched: bool) -> dict[int, Trained]:
        """Make `updates` updates of `slots`."""
        trained: dict[int, Trained] = {}
        for population, members in self._populations(list(slots), self._train.windows_per_pass, batched):
            # An inactive row of a batched program repeats the inputs of an active one, and its result is dropped.
            rows = [slots.get(k, next(iter(slots.values()))) for k in members]
            mask = torch.tensor([k in slots for k in members])
            active = None if mask.all() else self._to_device(mask)
            coefficients, max_norms = self._hyperparameters(rows, updates)
            dropouts = self._dropouts(rows, updates)
            log = IntervalLog([slots.get(k) for k in members], updates, self._sum_dtype, self._device)
            for n in range(updates):
                x, y = self._batches([(slot.run.data.seed, slot.step + n) for slot in rows])
                log.add(n, self._step(population, x, y, coefficients[n], max_norms, active, dropouts[n]))
            # The only place in an interval of updates where the host waits for the device.
            trained |= {k: given for k, given in zip(members, log.read(), strict=True) if given is not None}
        return trained

    def _step(
        self,
        population: Population,
        x: Tensor,
        y: Tensor,
        c: Coefficients,
        max_norms: Tensor,
        active: Tensor | None,
        dropout: Dropout | None,
    ) -> StepResult:
        """One update; as a CUDA graph if the run wants it and the whole population takes part."""
        if not self._train.cuda_graphs or population is not self._all:
            evaluate = partial(self._evaluate_once, population)
            with self._once(population.model, len(x), self._train.windows_per_pass, evaluate):
                return population.step(self._mean_nll, x, y, c, max_norms, active, dropout)
        assert isinstance(c, Tensor)  # graphs are for GPUs
        tying = self.model.tying  # the only thing besides tensors that a step depends on
        if tying not in self._graphs:
            self._graphs[tying] = GraphedStep(population, self._mean_nll, x, y, c, max_norms, dropout)
        return self._graphs[tying](x, y, c, max_norms, active, dropout)

    def _evaluate_once(self, population: Population) -> None:
        """Evaluate on one batch of windows and drop the result, so that the program for it is there."""
        x, y = (part[: self._train.windows_per_pass] for part in self._windows)
        window_losses([population.model], self._nll_per_token, [(x, y)])

    def _hyperparameters(self, rows: Sequence[Slot], updates: int) -> tuple[Sequence[Coefficients], Tensor]:
        """Optimizer coefficients of each update, and clipping norms [K]. A GPU gets them in one piece."""
        norms = self._to_device(torch.tensor([slot.max_norm for slot in rows], dtype=torch.float32))
        groups = self._all.groups
        table = [[slot.coefficients(groups, slot.step + n) for slot in rows] for n in range(1, updates + 1)]
        if self._device.type == "cpu":
            return table, norms
        return list(self._to_device(torch.tensor(table, dtype=torch.float32).transpose(1, 2))), norms

    def _dropouts(self, rows: Sequence[Slot], updates: int) -> Sequence[Dropout | None]:
        """What the masks of each update depend on; None for runs without dropout."""
        if not self.model.config.dropout:  # either all runs of a trainer have dropout or none
            return [None] * updates
        steps = range(updates)
        keys = self._to_device(
            torch.tensor([[dropout_key(slot.run.train.seed, slot.step + n) for slot in rows] for n in steps])
        )
        thresholds, scales = map(self._to_device, dropout_rates([slot.run.model.dropout for slot in rows]))
        windows = torch.arange(self._train.batch_size, device=self._device)
        return [Dropout(keys[n], thresholds, scales, windows) for n in steps]

    def _to_device(self, host: Tensor) -> Tensor:
        """A copy on the device; the host does not wait for one on a CUDA device."""
        host = host.contiguous()
        if self._device.type == "cuda":
            return host.pin_memory().to(self._device, non_blocking=True)
        return host.to(self._device)

    def _batches(self, keys: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Training windows x, y [K, B, T]: each slot's batch by data seed and number; equal keys share one."""
        shape = (self._train.batch_size, self.model.config.context_length)
        batches = {key: get_batch(self.tokens.train, *shape, self._device, *key) for key in set(keys)}
        return torch.stack([batches[key][0] for key in keys]), torch.stack([batches[key][1] for key in keys])

    def _validate(self, due: Sequence[int], batched: bool) -> dict[int, ValLoss]:
        """Losses of slots on the small set of windows."""
        x, y = self._windows
        batch_size = min(self._train.windows_per_pass, len(x))
        whole = len(x) % batch_size == 0  # else the last batch is shorter, and may not fill the vectors
        batches = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
        return self._losses(due, batches, len(x), batch_size if whole else 1, batched)

    def _validate_finally(
        self, finished: dict[int, Slot], small: dict[int, ValLoss], batched: bool
    ) -> dict[int, ValLoss]:
        """Losses of slots that have made all their updates, each on as many windows as its run wants.

        `small` has their losses on the small set, which is the same set if the number is.
        """
        context_length = self.model.config.context_length
        by_count: dict[int, list[int]] = {}
        for k, slot in finished.items():
            by_count.setdefault(slot.final_windows(len(self.tokens.val)), []).append(k)
        losses: dict[int, ValLoss] = {}
        for count, slots in by_count.items():
            if count == len(self._windows[0]):
                losses |= {k: small[k] for k in slots}
                continue
            size = min(self._train.windows_per_pass, count)
            batches = validation_batches(self.tokens.val, context_length, count, size, self._device)
            losses |= self._losses(slots, batches, count, size, batched and len(slots) == len(small))
        return losses

    def _losses(
        self, slots: Sequence[int], batches: Iterable[tuple[Tensor, Tensor]], count: int, batch_size: int, batched: bool
    ) -> dict[int, ValLoss]:
        """Losses of slots on the first `count` windows of `batches`; `batch_size` is for `_populations`."""
        populations = self._populations(slots, batch_size, batched)
        found = window_losses([population.model for population, _ in populations], self._nll_per_token, batches)
        return {
            k: val_loss(losses[row, :count])
            for losses, (_, members) in zip(found, populations, strict=True)
            for row, k in enumerate(members)
            if k in slots
        }

    def _report(self, k: int, slot: Slot, loss: ValLoss, final: ValLoss | None, grad_norm: float) -> Row:
        if loss.mean < slot.best_val_loss:  # false for nan
            slot.best_val_loss, slot.best_step, slot.best_window_losses = loss.mean, slot.step, loss.windows
        row: Row = {
            col.SLOT: k,
            col.STEP: slot.step,
            col.BRANCH: slot.fraction,
            col.TOKENS: slot.step * slot.run.tokens_per_step,
            col.TRAIN_LOSS: slot.train_loss_sum / slot.updates_since_report,
            col.VAL_LOSS: loss.mean,
            col.VAL_LOSS_SE: loss.se,
            col.FINAL_VAL_LOSS: None if final is None else final.mean,
            col.FINAL_VAL_LOSS_SE: None if final is None else final.se,
            col.FINAL_WINDOWS: None if final is None else len(final.windows),
            col.GRAD_NORM: grad_norm,
            col.LR: slot.lr(slot.step),
            col.TOKENS_PER_S: slot.updates_since_report * slot.run.tokens_per_step / slot.train_s,
            col.ELAPSED_S: slot.elapsed_s,
            col.WINDOW_LOSSES: (final or loss).windows,
            col.BEST_WINDOW_LOSSES: slot.best_window_losses,
            col.BEST_STEP: slot.best_step,
            col.POINTS: slot.points,
            col.BRANCHES: slot.branch_rows,
        }
        slot.updates_since_report, slot.train_loss_sum, slot.train_s = 0, 0.0, 0.0
        slot.points, slot.branch_rows = [], []
        slot.last_row = row
        return row


def with_runtime(run: RunSpec, train: TrainConfig) -> RunSpec:
    """`run` where `train` runs: with its device, compile mode and threads, which may change when a run is resumed."""
    here = train.model_dump(include={"device", "compile", "cuda_graphs", "threads"})
    return run.model_copy(update={"train": run.train.model_copy(update=here)})


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Run with `count` torch threads, then restore the previous number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _slot_file(folder: str | PathLike[str], k: int) -> Path:
    return Path(folder) / f"slot-{k}.safetensors"
