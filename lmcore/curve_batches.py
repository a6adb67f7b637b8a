"""Points of training curves as record batches of curves.arrow, which is an Arrow IPC stream that is appended to.

Columns: trial (string), step (int32), train_loss and grad_norm (float32), lr (float64), as `lmcore.columns` explains
POINT_COLUMNS. Each batch has the points of one report of one trial. A step that occurs again replaces the earlier one,
whose numbers are the same. The stream has no end marker, because it can always go on.

Any Arrow reader reads a file that is whole. `read_batches` also reads one that is being written or was damaged. Loads
without torch.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from lmcore import columns as col

SCHEMA = pa.schema(
    [
        (col.TRIAL, pa.string()),
        (col.STEP, pa.int32()),
        (col.TRAIN_LOSS, pa.float32()),
        (col.GRAD_NORM, pa.float32()),
        (col.LR, pa.float64()),
    ]
)
HEADER: bytes = SCHEMA.serialize().to_pybytes()
"""What a file begins with."""
MESSAGE = b"\xff\xff\xff\xff"
"""What every message of a stream begins with."""


class Batch(NamedTuple):
    """A batch that was read, None if it is the header, and the position after it."""

    points: "pa.RecordBatch | None"
    end: int


def encode_batch(trial: str, points: Sequence[Sequence[float]]) -> bytes:
    """The bytes of a batch: the points of a trial, each a sequence of POINT_COLUMNS.

    >>> (_, (batch, _)) = read_batches(HEADER + encode_batch("xs-0003", [[0, 7.5, 1.25, 0.001]]))
    >>> batch.to_pylist()
    [{'trial': 'xs-0003', 'step': 0, 'train_loss': 7.5, 'grad_norm': 1.25, 'lr': 0.001}]
    """
    columns = [[trial] * len(points), *zip(*points, strict=True)]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    return bytes(pa.record_batch(arrays, schema=SCHEMA).serialize().to_pybytes())


def read_batches(content: bytes) -> Iterator[Batch]:
    """The header and the undamaged batches in the content of a file, in order; what was cut short is ignored."""
    start = 0
    while start >= 0:
        batch = _decode(content, start)
        if batch is not None:
            yield batch
        # After damage, whatever is a message of the right columns is a batch.
        start = content.find(MESSAGE, start + 1) if batch is None else batch.end


def _decode(content: bytes, start: int) -> Batch | None:
    """The message at `start`, or None if there is no whole and undamaged one."""
    reader = pa.BufferReader(pa.py_buffer(content).slice(start))
    try:
        message = pa.ipc.read_message(reader)
        if message.type == "schema":
            return Batch(None, start + reader.tell()) if pa.ipc.read_schema(message) == SCHEMA else None
        points = pa.ipc.read_record_batch(message, SCHEMA)
        points.validate(full=True)
    except (pa.ArrowException, EOFError, OSError):
        return None
    return Batch(points, start + reader.tell())
