"""The documents of one file: plain text or JSON lines, which may be compressed by gzip, Parquet, or Arrow.

A record is a document: its field `data.text_field`. Everything is read in stretches, so a file may be larger than
memory. What cannot be read as text raises `NotTextError`; the caller decides whether that is an error or the file is
skipped.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from lmcore.corpus.pieces import Fragment
from lmcore.errors import InputError

CHUNK_BYTES = 1 << 20
BATCH_RECORDS = 1024
JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
DAMAGED_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)
BYTE_ORDER_MARKS = {  # the longer ones first: that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class NotTextError(Exception):
    """A file is not text in an encoding that is read; the message says why, in a few words."""


def read_fragments(path: Path, text_field: str, field: str) -> Iterator[Fragment]:
    """The documents of a file, in the order of the file. A plain file is one document.

    Raises:
        NotTextError: the file is binary, damaged, or text in another encoding.
        InputError: a record has no field `text_field`. The message starts with `field`.
        OSError: the file cannot be read.

    >>> list(read_fragments(Path("stories.jsonl"), "text", "data.source"))  # doctest: +SKIP
    [('Once upon a time ...', True), ('Anna had a dog ...', True)]
    """
    if path.name.endswith(JSON_LINES):
        return ((text, True) for text in _json_lines(path, text_field, field))
    if path.suffix == ".parquet":
        return ((text, True) for text in _parquet(path, text_field, field))
    if path.suffix == ".arrow":
        return ((text, True) for text in _arrow(path, text_field, field))
    return _plain(path)


def is_records(path: Path) -> bool:
    """Whether a file is one of records, which have fields."""
    return path.name.endswith((*JSON_LINES, ".parquet", ".arrow"))


def is_compressed(path: Path) -> bool:
    """Whether a file holds more bytes of text than its own size."""
    return path.suffix in (".gz", ".parquet")


def _plain(path: Path) -> Iterator[Fragment]:
    with _opened(path) as file:
        start = _read(file)
        mark = next((mark for mark in BYTE_ORDER_MARKS if start.startswith(mark)), b"")
        encoding = BYTE_ORDER_MARKS.get(mark, "utf-8")
        decode = codecs.getincrementaldecoder(encoding)()
        chunk, position = start[len(mark) :], len(mark)
        while chunk:
            text = _decoded(decode, chunk, position, encoding)
            if encoding == "utf-8" and (zero := chunk.find(b"\0")) >= 0:
                raise NotTextError(f"a zero byte at byte {position + zero}")
            yield text, False
            position += len(chunk)
            chunk = _read(file)
        yield _decoded(decode, b"", position, encoding, final=True), True


def _decoded(decode: codecs.IncrementalDecoder, chunk: bytes, position: int, encoding: str, final: bool = False) -> str:
    held = len(decode.getstate()[0])  # bytes of a character that the last chunk cut
    try:
        return decode.decode(chunk, final)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding == "utf-8" else encoding.upper()
        raise NotTextError(f"not {name} at byte {position - held + error.start}") from error


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _read(file: BinaryIO) -> bytes:
    try:
        return file.read(CHUNK_BYTES)
    except DAMAGED_GZIP as error:
        raise NotTextError(f"a damaged gzip file ({error})") from error


def _json_lines(path: Path, text_field: str, field: str) -> Iterator[str]:
    with _opened(path) as file:
        lines = enumerate(file, 1)
        while True:
            try:
                number, line = next(lines)
            except StopIteration:
                return
            except DAMAGED_GZIP as error:
                raise NotTextError(f"a damaged gzip file ({error})") from error
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise NotTextError(f"line {number} is not JSON ({error})") from error
            if not isinstance(record, dict):
                raise NotTextError(f"line {number} is {type(record).__name__}, not an object with fields")
            text = _text_of(record, text_field, f"line {number} of {str(path)!r}", field)
            if b"\\u" in line and any("\ud800" <= char <= "\udfff" for char in text):
                raise NotTextError(f"line {number} has half of a character (a lone surrogate)")
            yield text


def _text_of(record: dict[str, Any], text_field: str, place: str, field: str) -> str:
    if text_field not in record:
        raise _no_field(list(record), text_field, place, field)
    text = record[text_field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InputError(
            f"{field}: the field {text_field!r} of a record must be text, but in {place} it is {type(text).__name__}; "
            "set data.text_field to the field with the text"
        )
    return text


def _no_field(names: list[str], text_field: str, place: str, field: str) -> InputError:
    return InputError(
        f"{field}: records must have the field {text_field!r}, but {place} has {', '.join(names) or 'none'}; "
        "set data.text_field to the field with the text"
    )


def _parquet(path: Path, text_field: str, field: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text_field not in names:
                raise _no_field(names, text_field, repr(str(path)), field)
            for batch in file.iter_batches(BATCH_RECORDS, columns=[text_field]):
                yield from _column(batch, text_field, repr(str(path)), field)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        _raise_if_unreadable(error)
        raise NotTextError(f"a damaged Parquet file ({_one_line(error)})") from error


def _arrow(path: Path, text_field: str, field: str) -> Iterator[str]:
    """A stream of Arrow record batches, as Hugging Face's `Dataset.save_to_disk` writes it."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            if text_field not in stream.schema.names:
                raise _no_field(stream.schema.names, text_field, repr(str(path)), field)
            for batch in stream:
                for start in range(0, batch.num_rows, BATCH_RECORDS):
                    yield from _column(batch.slice(start, BATCH_RECORDS), text_field, repr(str(path)), field)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        _raise_if_unreadable(error)
        raise NotTextError(f"not a whole stream of Arrow batches ({_one_line(error)})") from error


def _raise_if_unreadable(error: Exception) -> None:
    """Arrow raises OSError for damaged files too, but then without a number."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _column(batch: Any, text_field: str, place: str, field: str) -> Iterator[str]:
    for text in batch.column(text_field).to_pylist():
        yield _text_of({text_field: text}, text_field, place, field)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
