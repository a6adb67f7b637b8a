"""Which files a source of text names, in which order.

A source is `stdlib`, a file, a folder, a pattern such as `data/*.jsonl`, or a data set that Hugging Face's `datasets`
saved to disk. What is in a file is read by `lmcore.corpus.text_formats`.
"""

import glob
import json
import os
import sysconfig
from pathlib import Path

from lmcore.errors import InputError

STDLIB = "stdlib"
STDLIB_SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


def stdlib_files(folder: Path | None = None) -> list[Path]:
    """The .py files of the running interpreter's standard library, sorted by their path within it.

    Tests, installed packages and `_sysconfigdata*` (which describes the machine) are left out. `folder` reads another
    library by the same rules.
    """
    files = _below(folder or Path(sysconfig.get_path(STDLIB)), STDLIB_SKIPPED_FOLDERS)
    return [path for path in files if path.suffix == ".py" and not path.name.startswith("_sysconfigdata")]


def text_files(source: str, field: str) -> tuple[list[Path], bool]:
    """The files of a source, and whether the user named that file itself: then it must be text.

    A folder is read recursively, in the order of relative paths, without hidden files and links to folders.

    Raises InputError if the source is not there, or is a data set of several splits. The message starts with `field`.
    OSError if a folder cannot be listed.

    >>> text_files("stories.jsonl.gz", "data.source")  # doctest: +SKIP
    ([PosixPath('stories.jsonl.gz')], True)
    """
    if source == STDLIB:
        return stdlib_files(), False
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that is too long
        return _saved_data_set(path, field) or _below(path), False
    if os.path.isfile(path):
        if path.stat().st_size == 0:
            raise InputError(f"{field}: must not be empty, but {str(path)!r} has 0 bytes; name another file")
        return [path], True
    if glob.has_magic(str(path)):
        if found := sorted(Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name)):
            return found, False
        raise InputError(f"{field}: must match files, but {source!r} matches none; check the pattern and its folder")
    raise InputError(f"{field}: must be stdlib, a file or a folder, but {source!r} is none; check the path")


def _saved_data_set(path: Path, field: str) -> list[Path] | None:
    """The files of a data set that was saved to this folder; None if it is no such folder."""
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_bytes()).get("splits", [])
        train = "train" if "train" in splits else next(iter(splits), "train")
        others = sorted((split for split in splits if split != train), key=lambda split: not split.startswith("val"))
        remedy = f"give data.source: {path}/{train}" + (f" and data.val_source: {path}/{others[0]}" if others else "")
        raise InputError(
            f"{field}: must be one split of a data set, but {str(path)!r} has {', '.join(splits)}; {remedy}"
        )
    if not ((path / "state.json").is_file() and (path / "dataset_info.json").is_file()):
        return None
    state = json.loads((path / "state.json").read_bytes())
    if state.get("_indices_files"):
        raise InputError(
            f"{field}: a saved data set must hold its rows in their order, but {str(path)!r} refers to rows by number; "
            "save it again after flatten_indices()"
        )
    return [path / one["filename"] for one in state["_data_files"]]


def _below(folder: Path, skipped_folders: frozenset[str] = frozenset()) -> list[Path]:
    """Regular files below `folder` that are not hidden, in the order of their relative paths."""

    def raise_error(error: OSError) -> None:
        raise error  # os.walk would skip a folder that cannot be listed, and part of the data would silently be missing

    found = []
    for root, folders, names in os.walk(folder, onerror=raise_error):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skipped_folders]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    # is_file() is False for a FIFO, which would block when opened.
    return sorted(filter(Path.is_file, found), key=lambda path: path.relative_to(folder).as_posix())
