"""Documents of text, and which of them validate.

Here: the text sources (`stdlib`, one text file, a folder of text files) read as a list of documents, and their split.
Not here: turning text into tokens (`lmcore.corpus.tokenizer`, `lmcore.corpus.prepare`) and files that hold tokens
already (`lmcore.corpus.token_files`). Text is read into memory; a corpus too large for that belongs in a .bin.
"""

import logging
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmcore.errors import InputError

END_OF_TEXT = "<|endoftext|>"  # separates documents, in files of text and as a token

STDLIB = "stdlib"
STDLIB_SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})

MIN_DOCUMENTS_TO_HOLD_OUT = 20  # with fewer, whole documents are too coarse a unit: the end of the text validates

logger = logging.getLogger(__name__)


def stdlib_files(folder: Path | None = None) -> list[Path]:
    """The .py files of the running interpreter's standard library, sorted by their path within it.

    Left out: tests, installed packages, and `_sysconfigdata*`, which describes one machine. `folder` reads another
    library by the same rules.
    """
    root = Path(sysconfig.get_path(STDLIB)) if folder is None else folder
    return [
        path
        for path in _files(root, STDLIB_SKIPPED_FOLDERS)
        if path.suffix == ".py" and not path.name.startswith("_sysconfigdata")
    ]


def read_documents(source: str, field: str = "data.source") -> list[str]:
    """The documents of a text source in a fixed order; none is blank and none contains `<|endoftext|>`.

    A folder is read recursively in the order of its relative paths, without hidden files, symbolic links to folders,
    and files that are not UTF-8 text. A file that contains `<|endoftext|>` holds several documents.

    Raises:
        InputError: starting with `field`, when there is nothing to read or no text in it.
    """
    path = Path(os.path.expanduser(source))
    try:
        if source == STDLIB:
            texts = list(_readable_texts(stdlib_files()))
        elif path.is_dir():
            texts = list(_readable_texts(_files(path)))
        elif path.is_file():
            texts = [_decode_file(path, field)]
        else:
            raise InputError(f"{field}: must be stdlib, a file or a folder, but {source!r} is none; check the path")
    except OSError as error:
        raise InputError(
            f"{field}: must be readable, but {error.filename!r} is not ({error.strerror}); check its permissions"
        ) from error
    documents = [document for text in texts for document in text.split(END_OF_TEXT) if document.strip()]
    if not documents:
        raise InputError(f"{field}: must contain text, but {source!r} has none in UTF-8; name another file or folder")
    return documents


def split_documents(documents: Sequence[str], val_fraction: float) -> tuple[list[str], list[str]]:
    """Training and validation documents, about `val_fraction` of them (at least one) for validation.

    From 20 documents on, the validation documents lie evenly over the list: the middle ones of equal stretches, so that
    they are no alphabetical tail. With fewer, the last `val_fraction` of the characters validates, from the start of a
    line where there is one.

    Raises:
        InputError: when the text is too short to leave a character for both.
    """
    if len(documents) < MIN_DOCUMENTS_TO_HOLD_OUT:
        return _split_at_tail(documents, val_fraction)
    count = len(documents)
    held_out_count = min(max(round(val_fraction * count), 1), count - 1)
    held_out = {(2 * i + 1) * count // (2 * held_out_count) for i in range(held_out_count)}
    train = [document for i, document in enumerate(documents) if i not in held_out]
    return train, [documents[i] for i in sorted(held_out)]


def _split_at_tail(documents: Sequence[str], val_fraction: float) -> tuple[list[str], list[str]]:
    total_chars = sum(map(len, documents))
    if total_chars < 2:
        raise InputError(
            f"data.source: must leave text for training and validation, but has {total_chars} character; bring more"
        )
    position = min(max(round((1 - val_fraction) * total_chars), 1), total_chars - 1)
    train, val = [], []
    end = 0
    for document in documents:
        start, end = end, end + len(document)
        if end <= position:
            train.append(document)
        elif start >= position:
            val.append(document)
        else:
            cut = document.rfind("\n", 0, position - start) + 1 or position - start
            train.append(document[:cut])
            val.append(document[cut:])
    return train, val


def _files(folder: Path, skipped_folders: frozenset[str] = frozenset()) -> list[Path]:
    """Regular files below `folder` that are not hidden, in the order of their relative paths.

    A folder that cannot be listed raises OSError: a part of the data must not vanish silently.
    """
    found = []
    for root, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skipped_folders]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    # is_file() is false for a FIFO, on which opening would wait for ever.
    return sorted(filter(Path.is_file, found), key=lambda path: path.relative_to(folder).as_posix())


def _raise(error: OSError) -> None:
    raise error


def _readable_texts(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        try:
            yield _decode(path.read_bytes())
        except UnicodeDecodeError:
            logger.info("skipping %s: not UTF-8 text", path)


def _decode_file(path: Path, field: str) -> str:
    content = path.read_bytes()
    if not content:
        raise InputError(f"{field}: must not be empty, but {str(path)!r} has 0 bytes; name another file")
    try:
        return _decode(content)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{field}: must be UTF-8 text, but {str(path)!r} is not at byte {error.start}; "
            "convert it, or name a .npy or .bin of tokens"
        ) from error


def _decode(content: bytes) -> str:
    """Text of a file without its byte order mark; a zero byte, which UTF-8 allows and text never has, is refused."""
    if (position := content.find(b"\0")) >= 0:
        raise UnicodeDecodeError("utf-8", content, position, position + 1, "zero byte")
    return content.decode("utf-8-sig")
