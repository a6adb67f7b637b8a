"""Checks that a slot has the numbers of its run alone, whatever its neighbours, graphs, compilation and restarts do.

On a CPU the losses are equal bit for bit. On a GPU they may differ as much as those of one run whose batches are passed
in two halves instead of whole (the *gap*): the mean over seeds must not exceed the largest gap of a seed. Atomic sums
make the last bits of a GPU differ from run to run even without a change.
"""

import math
import tempfile
from pathlib import Path

from lmcore.config import OptimConfig, RunSpec
from lmcore.corpus.tokens import Tokens
from tests.bench.gpu.cases import Cases
from tests.bench.gpu.loss_curves import (
    Curve,
    Mode,
    alone,
    apart,
    chain_tokens,
    first_losses,
    least_neighbours_apart,
    mean_apart,
    packed,
    refilled,
    resumed,
    run_of,
)
from tests.bench.gpu.record import Record

COMPILED_TIMES_GAP = 2.0
"""Compiled programs round intermediate results elsewhere, which changes the losses more than a split of the batch."""
CPU_ROUNDING = 1e-5
"""Nats; compilation changes the last bits, and the losses of a dozen updates by 1e-7."""
FLOAT32_ROUNDING = 1e-4
"""Nats; the losses of the first updates in float32 on a GPU and on a CPU."""
WILD = OptimConfig(lr=1e30, warmup_fraction=0.0, clip_norm=None, min_lr_ratio=1.0)


class SlotChecks:
    """The checks of one device; the first ones make the curves that the others compare with."""

    def __init__(self, cases: Cases, device: str, record: Record) -> None:
        self._cases, self._device, self._record = cases, device, record
        self._tokens: Tokens = chain_tokens(cases.checked.vocab_size)
        self._gap = 0.0
        self._packed: list[Curve] = []

    def make(self) -> None:
        """Make all checks; `Record.check` keeps them."""
        self._packing()
        self._graphs()
        self._refill()
        self._nan()
        self._resume()
        self._compiled()
        self._other_device()

    def _runs(self, mode: Mode, mixed: bool = True) -> list[RunSpec]:
        """A run per seed; if `mixed`, every second one has tied embeddings."""
        return [run_of(self._cases, mode, seed, mixed and seed % 2 == 1) for seed in range(self._cases.seeds)]

    @property
    def _plain(self) -> Mode:
        return Mode(self._device)

    def _packing(self) -> None:
        runs = self._runs(self._plain)
        single = alone(runs, self._tokens)
        self._packed = packed(runs, self._tokens)
        others = {}
        if self._device == "cuda":
            gaps = apart(alone(self._runs(Mode(self._device, split=True)), self._tokens), single)
            self._gap = max(gaps)
            noise = mean_apart(packed(runs, self._tokens), self._packed)
            others = {"gaps": gaps, "noise_of_a_second_run": noise}
        self._record.check(
            "packed",
            f"{self._cases.seeds} packed slots, tied and untied, have the losses of their runs alone",
            mean_apart(self._packed, single),
            self._gap,
            **others,
        )
        # Turned around: the distance between two runs, which the tolerance must not reach.
        self._record.check(
            "visible",
            "the tolerance is below the distance between neighbouring runs",
            self._gap,
            least_neighbours_apart(single) / 2,
        )

    def _graphs(self) -> None:
        sentence = "CUDA graphs do not change the losses of packed slots"
        if self._device != "cuda":
            self._record.skip("graphs", sentence, "needs a GPU")
            return
        launched = packed(self._runs(Mode(self._device, graphs=False)), self._tokens)
        self._record.check("graphs", sentence, mean_apart(launched, self._packed), self._gap)

    def _refill(self) -> None:
        runs = self._runs(self._plain)
        newcomer = run_of(self._cases, self._plain, seed=100)
        curves, late = refilled(runs, newcomer, 1, self._tokens)
        half = len(curves[1])
        neighbours = mean_apart(curves, [*self._packed[:1], self._packed[1][:half], *self._packed[2:]])
        self._record.check(
            "refill neighbours",
            "a slot that is refilled in mid-run leaves its neighbours as they were",
            neighbours,
            self._gap,
        )
        self._record.check(
            "refill newcomer",
            "a run that begins in a slot while its neighbours train on has the losses of that run alone",
            mean_apart([late], alone([newcomer], self._tokens)),
            self._gap,
        )

    def _nan(self) -> None:
        runs = self._runs(self._plain)
        runs[1] = runs[1].model_copy(update={"optim": WILD})
        curves = packed(runs, self._tokens)
        diverged = not all(map(math.isfinite, curves[1]))
        others = [k for k in range(len(runs)) if k != 1]
        figure = mean_apart([curves[k] for k in others], [self._packed[k] for k in others])
        self._record.check(
            "nan",
            "the neighbours of a slot that becomes NaN have the losses that they have beside a sane one",
            figure if diverged else math.nan,
            self._gap,
            diverged=diverged,
        )

    def _resume(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            curves, same = resumed(self._runs(self._plain), self._tokens, Path(folder))
        self._record.check(
            "restored", "another process restores weights and optimizer state bit for bit", 1.0 - float(same), 0.0
        )
        self._record.check(
            "resumed",
            "slots that go on in another process have the losses of an uninterrupted run",
            mean_apart(curves, self._packed),
            self._gap,
        )

    def _compiled(self) -> None:
        """Untied, so that the rows of packing have the same programs."""
        plain = packed(self._runs(self._plain, mixed=False), self._tokens)
        mode = Mode(self._device, compiled=True)
        runs = self._runs(mode, mixed=False)
        together = packed(runs, self._tokens)
        tolerance = COMPILED_TIMES_GAP * self._gap if self._device == "cuda" else CPU_ROUNDING
        self._record.check(
            "compiled", "compiled slots have the losses of slots that are not", mean_apart(together, plain), tolerance
        )
        some = runs if self._device == "cuda" else runs[1:2]
        single = alone(some, self._tokens)
        self._record.check(
            "compiled, packed",
            "packed slots that are compiled have the losses of their runs alone, compiled",
            mean_apart(together if some is runs else together[1:2], single),
            self._gap,
        )

    def _other_device(self) -> None:
        sentence = "in float32 a GPU has the losses of a CPU for the first updates"
        if self._device != "cuda":
            self._record.skip("float32", sentence, "needs a GPU")
            return
        on_gpu, on_cpu = (
            first_losses([run_of(self._cases, Mode(device, dtype="float32"), seed) for seed in (0, 1)], self._tokens)
            for device in ("cuda", "cpu")
        )
        self._record.check("float32", sentence, mean_apart(on_gpu, on_cpu), FLOAT32_ROUNDING)
