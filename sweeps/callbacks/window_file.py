"""window_losses.bin: the loss of every validation window, of the last and of the best evaluation of each trial.

`lmcore.window_records` describes the format. Differences between trials are estimated from it, because losses of two
trials on the same window have most of their noise in common.
"""

from functools import cached_property
from typing import Any

import numpy as np

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.corpus.documents import window_documents
from lmcore.corpus.tokens import Tokens, load_tokens
from lmcore.durable import append
from lmcore.window_records import DOCUMENTS, encode_record, read_records
from sweeps.callbacks.base import Callback
from sweeps.rundir.folder import RunFolder
from sweeps.study.trial_handle import TrialHandle


class WindowFile(Callback):
    """Callback that appends the window losses of each trial that ends with a row, and of each branch.

    A writer that is killed may leave a part of a record at the end; opening the file again removes it. The tokens in
    the run's folder tell which documents the windows begin in.

    Example:
        callbacks = Callbacks([WindowFile(folder), RowFile(folder.metrics)])
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._file = folder.window_losses.open("ab", buffering=0)
        # Context lengths and numbers of windows that have a record of documents.
        self._documented: set[tuple[int | None, int]] = set()
        end = 0
        for record in read_records(folder.window_losses.read_bytes()):
            end = record.end
            if DOCUMENTS in record.header:
                self._documented.add((record.header.get("context_length"), record.header["n"]))
        self._file.truncate(end)

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        """Append the records of a trial that `row` ended, and of the branches that ended before it.

        Rows from older checkpoints have no window losses.
        """
        losses: list[tuple[dict[str, Any], list[float]]] = []
        for branch in row.get(col.BRANCHES, ()):
            ended = {"step": branch[col.STEP], "set": "final", "evaluation": "branch", "branch": branch[col.BRANCH]}
            losses.append((ended, branch[col.WINDOW_LOSSES]))
        if trial.status != col.RUNNING and row.get(col.WINDOW_LOSSES) is not None:
            final = row.get(col.FINAL_WINDOWS) is not None
            last = {"step": row[col.STEP], "set": "final" if final else "val", "evaluation": "last"}
            losses.append((last, row[col.WINDOW_LOSSES]))
            if (best := row.get(col.BEST_WINDOW_LOSSES)) is not None:
                losses.append(({"step": row[col.BEST_STEP], "set": "val", "evaluation": "best"}, best))
        if not losses:
            return
        kinds = {(trial.run.model.context_length, len(values)) for _, values in losses}
        content = b"".join(self._documents(*kind) for kind in sorted(kinds - self._documented))
        for header, values in losses:
            content += encode_record({col.TRIAL: trial.id, **header}, np.array(values))
        append(self._file, content)
        self._documented |= kinds

    def close(self) -> None:
        self._file.close()

    @cached_property
    def _tokens(self) -> Tokens:
        return load_tokens(self._folder.tokens, verify=False)

    def _documents(self, context_length: int, num_windows: int) -> bytes:
        """The record of documents; nothing if they are unknown."""
        documents = window_documents(self._tokens, context_length, num_windows)
        if documents is None:
            return b""
        return encode_record({"context_length": context_length, DOCUMENTS: True}, documents)
