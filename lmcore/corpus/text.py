"""Reading text as documents, and splitting documents into training and validation data.

A source is `stdlib`, one text file, or a folder of text files. It is read into memory; a corpus that does not fit
belongs in a .bin. Tokenization is in `lmcore.corpus.tokenizer`, files of tokens in `lmcore.corpus.token_files`.
"""

import logging
import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from lmcore.errors import InputError

END_OF_TEXT = "<|endoftext|>"
"""Separates documents, both in text files and as a token."""
STDLIB = "stdlib"
STDLIB_SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})

MIN_DOCUMENTS_TO_HOLD_OUT = 20

logger = logging.getLogger(__name__)


def stdlib_files(folder: Path | None = None) -> list[Path]:
    """The .py files of the running interpreter's standard library, sorted by their path within it.

    Tests, installed packages and `_sysconfigdata*` (which describes the machine) are left out. `folder` reads another
    library by the same rules.
    """
    files = _files(folder or Path(sysconfig.get_path(STDLIB)), STDLIB_SKIPPED_FOLDERS)
    return [path for path in files if path.suffix == ".py" and not path.name.startswith("_sysconfigdata")]


def read_documents(source: str, field: str = "data.source") -> list[str]:
    """The documents of a text source, in a fixed order. No document is blank, and none contains `<|endoftext|>`.

    A file that contains `<|endoftext|>` holds several documents. A folder is read recursively, in the order of relative
    paths. Hidden files, symbolic links to folders, and files that are not UTF-8 text are skipped.

    Raises InputError if the source cannot be read or contains no text. The message starts with `field`.

    >>> documents = read_documents("stdlib")
    """
    path = Path(os.path.expanduser(source))
    try:
        if source == STDLIB or path.is_dir():
            texts = []
            for file in stdlib_files() if source == STDLIB else _files(path):
                try:
                    texts.append(_read_text(file))
                except UnicodeDecodeError:
                    logger.info("skipping %s: not UTF-8 text", file)
        elif not path.is_file():
            raise InputError(f"{field}: must be stdlib, a file or a folder, but {source!r} is none; check the path")
        elif path.stat().st_size == 0:
            raise InputError(f"{field}: must not be empty, but {str(path)!r} has 0 bytes; name another file")
        else:
            texts = [_read_text(path)]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{field}: must be UTF-8 text, but {str(path)!r} is not at byte {error.start}; "
            "convert it, or name a .npy or .bin of tokens"
        ) from error
    except OSError as error:
        raise InputError(
            f"{field}: must be readable, but {error.filename!r} is not ({error.strerror}); check its permissions"
        ) from error
    documents = [document for text in texts for document in text.split(END_OF_TEXT) if document.strip()]
    if not documents:
        raise InputError(f"{field}: must contain text, but {source!r} has none in UTF-8; name another file or folder")
    return documents


def split_documents(documents: Sequence[str], val_fraction: float) -> tuple[list[str], list[str]]:
    """Split documents into training and validation documents.

    From 20 documents on, about `val_fraction` of the documents (at least one) is held out, evenly spaced over the list
    so that validation is not an alphabetical tail. With fewer documents, the last `val_fraction` of the characters is
    held out, cut at the start of a line if possible.

    >>> split_documents(["a line\\n" * 4], val_fraction=0.25)
    (['a line\\na line\\na line\\n'], ['a line\\n'])

    Raises InputError if the text is too short to give each split one character.
    """
    count = len(documents)
    if count < MIN_DOCUMENTS_TO_HOLD_OUT:
        return _split_at_tail(documents, val_fraction)
    val_count = min(max(round(val_fraction * count), 1), count - 1)
    # The middle document of each of val_count equal stretches.
    held_out = {(2 * i + 1) * count // (2 * val_count) for i in range(val_count)}
    train = [document for i, document in enumerate(documents) if i not in held_out]
    return train, [documents[i] for i in sorted(held_out)]


def _split_at_tail(documents: Sequence[str], val_fraction: float) -> tuple[list[str], list[str]]:
    total_chars = sum(map(len, documents))
    if total_chars < 2:
        raise InputError(
            f"data.source: must leave text for training and validation, but has {total_chars} character; bring more"
        )
    train_chars = min(max(round((1 - val_fraction) * total_chars), 1), total_chars - 1)
    train, val = [], []
    for document in documents:
        cut = min(max(train_chars, 0), len(document))
        if 0 < cut < len(document):
            cut = document.rfind("\n", 0, cut) + 1 or cut
        train.append(document[:cut])
        val.append(document[cut:])
        train_chars -= len(document)
    return list(filter(None, train)), list(filter(None, val))


def _files(folder: Path, skipped_folders: frozenset[str] = frozenset()) -> list[Path]:
    """Regular files below `folder` that are not hidden, in the order of their relative paths."""

    def raise_error(error: OSError) -> None:
        raise error  # os.walk would skip a folder that cannot be listed, and part of the data would silently be missing

    found = []
    for root, folders, names in os.walk(folder, onerror=raise_error):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skipped_folders]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    # is_file() is False for a FIFO, which would block when opened.
    return sorted(filter(Path.is_file, found), key=lambda path: path.relative_to(folder).as_posix())


def _read_text(path: Path) -> str:
    """The text of a UTF-8 file without its byte order mark. UnicodeDecodeError also for a zero byte: binary data."""
    content = path.read_bytes()
    if (position := content.find(b"\0")) >= 0:
        raise UnicodeDecodeError("utf-8", content, position, position + 1, "zero byte")
    return content.decode("utf-8-sig")
