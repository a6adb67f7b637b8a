"""A trial as the engine that trains it knows it, and what engines and stand-ins say to each other of trials.

Loads neither torch nor Ray: a stand-in's process is light.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lmcore.columns import Row
from lmcore.config import RunSpec

YOUR_TURN = "your turn"
"""Answer to a suspect's question for its row: ask again, saying that you have heard, and it trains."""


class Heartbeat(NamedTuple):
    """How an engine fares."""

    busy_s: float
    """Since the device began what it is doing, or the disk; 0 while both rest."""
    notes: list[str]
    """For the user, a line each."""
    full: str | None
    """Of the disk that its checkpoints do not fit on any more."""


@dataclass
class WorkerTrial:
    """A trial that has entered."""

    run: RunSpec
    title: str
    known_step: int = 0
    """Step of the last row that the driver has; a row up to it is not wanted again."""
    row: Row | None = None
    """The newest row."""
    error: Exception | None = None
    out_of_memory: int = 0
    """How often memory ran out when nothing was left to give up."""
    asking: int = 0
    """Stand-ins that wait for a row."""
    asked_at: float = field(default_factory=time.monotonic)
    """When one last did."""
    proxy: Any = None
    """Handle of the one that asked last."""
    called: bool = False
    """Of a suspect: its turn has come."""
    told: bool = False
    """And its stand-in has heard so."""
    unwanted: bool = False
    """It has left, and so has the interest in its weights."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    saving: asyncio.Task[None] | None = None
    """Its newest row and checkpoint, under way."""
