"""What was read from a source and what was skipped, so that no file is left out in silence."""

from lmcore.config import Config

MOST_LISTED = 1000


class SkippedFile(Config):
    """A file of the source that was not read, and why."""

    path: str
    why: str


class Reading(Config):
    """What one source, `data.source` or `data.val_source`, was found to hold.

    >>> Reading(field="data.source", files=2, documents=90, bytes=120_000, tokens=None, skipped=1).line
    'data.source: 2 files, 90 documents, 120,000 bytes read; 1 skipped'
    """

    field: str
    files: int
    documents: int | None = None  # None for token files
    bytes: int | None = None  # of the text in UTF-8, without separators; None for token files
    tokens: int | None = None  # of token files; None for text
    skipped: int = 0
    skipped_files: tuple[SkippedFile, ...] = ()  # the first MOST_LISTED of them
    notes: tuple[str, ...] = ()  # how the files were understood: `train.bin is read as uint32, because ...`

    @property
    def line(self) -> str:
        """The reading in one line, as it is printed."""
        counts = [_counted(self.files, "file")]
        counts += [] if self.documents is None else [_counted(self.documents, "document")]
        counts += [] if self.tokens is None else [_counted(self.tokens, "token")]
        counts += [] if self.bytes is None else [_counted(self.bytes, "byte")]
        line = f"{self.field}: {', '.join(counts)} read"
        if self.skipped:
            first = f" (first: {self.skipped_files[0].path}, {self.skipped_files[0].why})" if self.skipped_files else ""
            line += f"; {self.skipped:,} skipped{first}"
        return "; ".join([line, *self.notes])


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
