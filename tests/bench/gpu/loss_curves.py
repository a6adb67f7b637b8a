"""Losses of every update of several runs, packed or each alone, and how far apart they are.

A curve is the list of a run's training losses, in nats per token.
"""

import math
import multiprocessing
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from lmcore import columns as col
from lmcore.config import OptimConfig, RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens
from lmcore.trainer import Trainer
from tests.bench.core_arms import dtype_on
from tests.bench.gpu.cases import Cases

Curve = list[float]
REPORTS = 4


@dataclass(frozen=True)
class Mode:
    """How runs are trained; the numbers should not depend on it, or to rounding only."""

    device: str
    compiled: bool = False
    graphs: bool = True
    split: bool = False
    """Whether each batch is passed in two micro batches."""
    dtype: str | None = None


def run_of(cases: Cases, mode: Mode, seed: int, tied: bool = False) -> RunSpec:
    """A run with its own seed and learning rate."""
    model = cases.checked.model_copy(update={"tie_embeddings": tied})
    train = TrainConfig(
        steps=cases.updates,
        batch_size=cases.batch_size,
        micro_batch_size=cases.batch_size // 2 if mode.split else None,
        eval_every=cases.updates // REPORTS,
        eval_windows=cases.batch_size,
        final_eval_windows=cases.batch_size,
        log_every=1,
        seed=seed,
        compile=mode.compiled,
        threads=1,
    )
    device = {"device": mode.device, "dtype": mode.dtype or dtype_on(mode.device)}
    graphs = mode.graphs and mode.device == "cuda"
    return RunSpec(
        model=model,
        train=train.model_copy(update=device | {"cuda_graphs": graphs}),
        optim=OptimConfig(lr=1e-3 * (1 + seed % 4), warmup_fraction=0.1),
    )


def chain_tokens(vocab_size: int) -> Tokens:
    """Tokens of a Markov chain, which a model can learn: every token has four successors."""
    rng = np.random.default_rng(0)
    successors = rng.integers(0, vocab_size, size=(vocab_size, 4))
    ids = np.empty(2**16, dtype=np.uint16)
    token = 0
    for i, choice in enumerate(rng.integers(0, 4, size=len(ids))):
        token = successors[token, choice]
        ids[i] = token
    return Tokens.of(ids[2**13 :], ids[: 2**13], vocab_size)


def train(trainer: Trainer) -> list[Curve]:
    """Train to the end -> the curve of each slot."""
    curves: list[Curve] = [[] for _ in trainer.slots]
    for row in trainer:
        curves[row[col.SLOT]] += [loss for _, loss, *_ in row[col.POINTS]]
    return curves


def packed(runs: Sequence[RunSpec], tokens: Tokens) -> list[Curve]:
    """The curves of runs that train as one program."""
    return train(Trainer(runs, tokens))


def first_losses(runs: Sequence[RunSpec], tokens: Tokens) -> list[Curve]:
    """The curves of packed runs up to their first report."""
    return [[loss for _, loss, *_ in row[col.POINTS]] for row in Trainer(runs, tokens).advance(batched=True)]


def alone(runs: Sequence[RunSpec], tokens: Tokens) -> list[Curve]:
    """The curves of runs that train one after the other, each in a trainer of its own."""
    return [packed([run], tokens)[0] for run in runs]


def refilled(runs: Sequence[RunSpec], newcomer: RunSpec, slot: int, tokens: Tokens) -> tuple[list[Curve], Curve]:
    """Curves of the runs, of which that in `slot` ends half-way for `newcomer`, and the curve of `newcomer`."""
    trainer = Trainer(runs, tokens)
    curves: list[Curve] = [[] for _ in runs]
    late: Curve = []
    loaded = False
    for row in trainer:
        curve = late if loaded and row[col.SLOT] == slot else curves[row[col.SLOT]]
        curve += [loss for _, loss, *_ in row[col.POINTS]]
        if not loaded and row[col.SLOT] == slot and row[col.STEP] >= runs[slot].steps // 2:
            trainer.load_slot(slot, newcomer)
            loaded = True
    return curves, late


def resumed(runs: Sequence[RunSpec], tokens: Tokens, folder: Path) -> tuple[list[Curve], bool]:
    """Curves of runs that are saved half-way and go on in another process, and whether it restored every bit."""
    trainer = Trainer(runs, tokens)
    curves: list[Curve] = [[] for _ in runs]
    while any(slot is not None and slot.step < slot.run.steps // 2 for slot in trainer.slots):
        for row in trainer.advance():
            curves[row[col.SLOT]] += [loss for _, loss, *_ in row[col.POINTS]]
    trainer.save(folder)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        rest, same = process.submit(_go_on, list(runs), folder).result()
    return [curve + late for curve, late in zip(curves, rest, strict=True)], same


def _go_on(runs: list[RunSpec], folder: Path) -> tuple[list[Curve], bool]:
    """In the other process: the rest of each curve, and whether what it would save is what it has read."""
    trainer = Trainer(runs, chain_tokens(runs[0].model.vocab_size))
    trainer.restore(folder)
    again = folder / "again"
    trainer.save(again)
    files = sorted(path.name for path in again.iterdir())
    same = all((again / name).read_bytes() == (folder / name).read_bytes() for name in files)
    return train(trainer), same and len(files) == len(runs)


def apart(some: Sequence[Curve], others: Sequence[Curve]) -> list[float]:
    """How far each curve is from the other of its run: the root of the mean squared difference. NaN if one has NaN."""
    found = []
    for one, other in zip(some, others, strict=True):
        squares = [(a - b) ** 2 for a, b in zip(one, other, strict=True)]
        found.append(math.sqrt(sum(squares) / len(squares)))
    return found


def mean_apart(some: Sequence[Curve], others: Sequence[Curve]) -> float:
    """The mean over runs of `apart`: 0 only if all losses are equal, bit for bit."""
    return statistics.fmean(apart(some, others))


def least_neighbours_apart(curves: Sequence[Curve]) -> float:
    """How far the two most similar of neighbouring runs are apart: what a check must be able to see."""
    return min(apart([one], [other])[0] for one, other in pairwise(curves))
