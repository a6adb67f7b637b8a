"""Reads wandb's offline files: LevelDB's log format (blocks of 32 KiB) around protocol buffers, after 7 bytes."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
FIRST, LAST, FULL = 2, 4, 1


@dataclass
class OfflineRun:
    """What an offline run would upload."""

    id: str = ""
    name: str = ""
    entity: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    notes: str = ""
    resume: bool = False
    config: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, str]] = field(default_factory=list)
    """Logged values as JSON text, by key."""
    summary: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    """Definitions of metrics, wandb's MetricRecord, by name or pattern."""
    exit_code: int | None = None


def read_offline_run(path: Path) -> OfflineRun:
    """The run in a `run-*.wandb` file."""
    from wandb.proto import wandb_internal_pb2

    run = OfflineRun()
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.name, run.project, run.group = record.run.display_name, record.run.project, record.run.run_group
            run.entity, run.notes = record.run.entity, record.run.notes
            run.id, run.job_type, run.tags = record.run.run_id, record.run.job_type, list(record.run.tags)
            run.resume = record.run.resume
            run.config |= {item.key: item.value_json for item in record.run.config.update}
        elif kind == "history":
            run.history.append({item.key or ".".join(item.nested_key): item.value_json for item in record.history.item})
        elif kind == "summary":
            run.summary |= {item.key or ".".join(item.nested_key): item.value_json for item in record.summary.update}
        elif kind == "metric":
            run.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _records(content: bytes) -> Iterator[bytes]:
    at, parts = 7, []
    while at + 7 <= len(content):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []
