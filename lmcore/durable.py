"""Files, folders and additions to a file that appear whole or not at all, even after a kill or a power cut."""

import io
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def replace(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Atomically rename `source`, whose content is synced, to `target`. A folder can replace only an empty folder."""
    os.replace(source, target)
    _sync(Path(target).parent)  # otherwise a power cut can undo the rename


def write_file(target: str | os.PathLike[str], parts: Iterable[bytes | memoryview]) -> None:
    """Atomically replace a file, or the file that a symbolic link names, with the concatenated `parts`.

    A killed process leaves at most a hidden file `.NAME.*.tmp`. Raises OSError if the file system refuses; the old file
    is then unchanged.

    Example::

        write_file("config.json", [b"{}"])
    """
    path = Path(os.path.realpath(target))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # Not tempfile, whose files only their owner can read, whatever the umask.
        with temporary.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def append(file: io.FileIO, content: bytes, sync: bool = True) -> None:
    """Append the whole content to an unbuffered file that was opened for appending, and sync it.

    Without `sync`, a power cut may lose what was appended since the last sync; a kill loses nothing. If the disk
    refuses, leaves the file as it was and raises OSError.

    Example::

        with open("rows.jsonl", "ab", buffering=0) as file:
            append(file, b"{}\\n")
    """
    end = os.fstat(file.fileno()).st_size
    try:
        written = 0
        # A disk that is almost full accepts a part of the content first.
        while written < len(content):
            written += file.write(content[written:]) or 0
        if sync:
            os.fsync(file.fileno())
    except OSError:
        file.truncate(end)
        raise


@contextmanager
def new_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `target` that is renamed to `target` if the block succeeds, and deleted if it fails.

    Without `overwrite`, `target` must not exist or be an empty folder. A killed process leaves at most a hidden folder
    `.NAME.*`. Raises OSError if the file system refuses, or `target` is not empty.

    Example::

        with new_folder(Path("exported")) as folder:
            (folder / "config.json").write_bytes(b"{}")
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # A sibling of the target is on the same file system, which makes the rename atomic.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        replaced = temporary.with_name(f"{temporary.name}.replaced")
        if overwrite and target.exists():
            target.rename(replaced)
        replace(temporary, target)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    if os.name == "nt":  # Windows opens no folder, and syncs nothing that is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
