"""Files and folders that appear whole or not at all, even after a kill or a power cut."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Atomically rename `source` to `target`. The caller has synced the content of `source`.

    A folder can replace only an empty folder.

    Raises:
        OSError: the file system refuses.
    """
    os.replace(source, target)
    _sync(Path(target).parent)  # otherwise a power cut can undo the rename


@contextmanager
def new_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `target` that is renamed to `target` if the block succeeds, and deleted if it fails.

    A killed process leaves at most a hidden folder `.NAME.*`.

    >>> with new_folder(Path("exported")) as folder:
    ...     _ = (folder / "config.json").write_bytes(b"{}")

    Args:
        overwrite: replace an existing folder. Otherwise `target` must not exist, or be an empty folder.

    Raises:
        OSError: the file system refuses, or `target` is not empty.
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
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
