"""What is checked and measured: the sizes for a GPU, and tiny ones of every kind that CPUs run within a minute."""

from dataclasses import dataclass
from typing import NamedTuple

from lmcore.config import ModelConfig
from tests.bench.core_arms import sized


class Timed(NamedTuple):
    """A model whose training is timed."""

    model: ModelConfig
    batch_size: int
    updates: int
    """Of one call, after which a GPU is waited for: 25 between two reports of a sweep, fewer for large models."""


@dataclass(frozen=True)
class Cases:
    """All sizes of one kind of machine."""

    checked: ModelConfig
    """Trained by the checks of slots: one run per seed, each for `updates` updates of `batch_size` windows."""
    seeds: int
    updates: int
    batch_size: int
    loss: tuple[int, int, int]
    """Positions, width and vocabulary of the check of the loss."""
    steps: dict[str, Timed]
    packing: dict[str, Timed]
    slots: tuple[int, ...]
    """K of the packed arms."""
    compiled_slots: dict[str, tuple[int, ...]]
    """K of those that are also measured compiled, by the names of `packing`."""
    losses: dict[str, tuple[int, int, int]]
    optimizer: ModelConfig
    """Model of the rows of clipping and AdamW, for each K of `optimizer_slots`."""
    optimizer_slots: tuple[int, ...]
    refill: dict[str, Timed]
    refill_slots: int
    rounds: int
    turn_s: float
    """Seconds of an arm in a round, about."""


HALF, ONE = sized(64, 4, 4, 2048, 128), sized(128, 4, 4, 2048, 128)
FIVE, TEN = sized(192, 4, 6, 8192, 256), sized(256, 7, 8, 8192, 256)


def _tied(model: ModelConfig) -> ModelConfig:
    """As nanoGPT's."""
    return model.model_copy(update={"tie_embeddings": True})


GPU = Cases(
    checked=HALF,
    seeds=8,
    updates=40,
    batch_size=16,
    loss=(4096 + 512, 256, 8192),  # a chunk and a part of one
    steps={
        "1.3M": Timed(_tied(ONE), 16, 25),
        "10M": Timed(_tied(TEN), 32, 25),
        "30M": Timed(_tied(sized(512, 6, 8, 8192, 512)), 32, 10),
        "124M": Timed(_tied(sized(768, 12, 12, 50304, 1024)), 16, 5),
    },
    packing={
        "0.5M": Timed(HALF, 16, 25),
        "1.3M": Timed(ONE, 16, 25),
        "5M": Timed(FIVE, 16, 25),
        "10M": Timed(TEN, 16, 10),
    },
    slots=(2, 4, 8, 16, 32, 64),
    compiled_slots={"0.5M": (16, 64), "1.3M": (16, 64), "5M": (16,), "10M": (16,)},
    losses={"V2048": (2048, 128, 2048), "V8192": (8192, 256, 8192), "V50304": (16384, 768, 50304)},
    optimizer=TEN,
    optimizer_slots=(1, 8, 32),
    refill={"1.3M": Timed(ONE, 16, 25), "10M": Timed(TEN, 16, 10)},
    refill_slots=8,
    rounds=4,
    turn_s=0.2,
)

TINY = ModelConfig(d_model=64, num_layers=1, num_heads=4, d_ff=128, vocab_size=128, context_length=32)
QUICK = Cases(
    checked=TINY,
    seeds=3,
    updates=12,
    batch_size=4,
    loss=(300, 16, 64),
    steps={"tiny": Timed(TINY, 4, 2)},
    packing={"tiny": Timed(TINY, 4, 2)},
    slots=(2, 4),
    compiled_slots={},
    losses={"V128": (128, 64, 128)},
    optimizer=TINY,
    optimizer_slots=(1, 2),
    refill={"tiny": Timed(TINY, 4, 2)},
    refill_slots=2,
    rounds=2,
    turn_s=0.02,
)
