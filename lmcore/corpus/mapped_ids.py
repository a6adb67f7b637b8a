"""`MappedIds`: token ids in one or more files, read as one 1-D array without loading or copying the files.

It behaves like a numpy array where the trainer needs one: `len`, slices, and indexing by an array of positions.
Pickled, it is the paths of its files, so a process on another machine maps the same files itself.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcore.errors import InputError

CHUNK = 1 << 22  # ids that are read at a time
OTHER_OPEN_FILES = 512  # of a process with Ray


@dataclass(frozen=True)
class IdFile:
    """A stretch of the ids in a file."""

    path: str
    dtype: str  # of the ids, with their byte order: `<u2`
    offset: int  # bytes before the first id of the file
    start: int  # first id of the stretch
    stop: int  # first id behind it

    def __len__(self) -> int:
        return self.stop - self.start

    def map(self) -> NDArray[np.integer[Any]]:
        """The ids, memory-mapped. Raises InputError if the file is not there, or is shorter than it was."""
        item = np.dtype(self.dtype)
        try:
            whole = np.memmap(self.path, item, "r", self.offset, shape=(self.stop,))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is shorter than it was"
            if isinstance(error, OSError) and error.errno == errno.EMFILE:
                raise InputError(
                    "data.source: each of its files stays open, and this process may open no more; raise the limit "
                    "(ulimit -n), or join some files"
                ) from error
            raise InputError(
                f"data.source: its files must stay where they are, but {self.path!r} cannot be read ({reason}); "
                "restore it, or set data.copy: always for the next sweep"
            ) from error
        return np.asarray(whole)[self.start :]


@dataclass(frozen=True, eq=False)
class MappedIds:
    """Ids of several files, one after another.

    >>> ids = MappedIds.of([IdFile("a.bin", "<u2", 0, 0, 100), IdFile("b.bin", "<u2", 0, 0, 50)])
    >>> len(ids), ids[99:101], ids[np.array([[0, 149]])]
    """

    files: tuple[IdFile, ...]
    _parts: list[NDArray[np.integer[Any]]] = field(init=False, repr=False, default_factory=list)

    @classmethod
    def of(cls, files: Sequence[IdFile]) -> "MappedIds":
        """The ids of `files`, of which empty ones are left out. Raises InputError as `IdFile.map` does."""
        ids = cls(tuple(file for file in files if len(file)))
        _allow_open_files(len(ids.files))
        ids._parts.extend(file.map() for file in ids.files)
        return ids

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedIds.of, (self.files,)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([len(file) for file in self.files], dtype=np.int64)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Type that holds the ids of every file, in the machine's byte order."""
        return np.result_type(*(np.dtype(file.dtype).newbyteorder("=") for file in self.files))

    @property
    def nbytes(self) -> int:
        """Bytes of the ids, as an array of their dtype."""
        return len(self) * self.dtype.itemsize

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.files else 0

    def __getitem__(self, key: Any) -> Any:
        """An array of ids for an array of positions, `MappedIds` for a slice, and an id for a position."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                raise ValueError(f"a slice of MappedIds must have step 1 (got {step})")
            return self._stretch(start, max(start, stop))
        positions = np.asarray(key)
        if positions.ndim == 0:
            return self[positions[None]][0]
        if positions.size and (positions.min() < 0 or positions.max() >= len(self)):
            raise IndexError(f"positions must be in 0..{len(self) - 1}")
        if len(self._parts) == 1:
            return self._parts[0][positions].astype(self.dtype, copy=False)
        found = np.empty(positions.shape, self.dtype)
        part_of = np.searchsorted(self._ends, positions, side="right")
        for part in np.unique(part_of):
            here = part_of == part
            first = self._ends[part - 1] if part else 0
            found[here] = self._parts[part][positions[here] - first]
        return found

    def _stretch(self, start: int, stop: int) -> "MappedIds":
        found, begin = [], 0
        for file, part in zip(self.files, self._parts, strict=True):
            low, high = max(start - begin, 0), min(stop - begin, len(file))
            if low < high:
                stretch = IdFile(file.path, file.dtype, file.offset, file.start + low, file.start + high)
                found.append((stretch, part[low:high]))
            begin += len(file)
        ids = MappedIds(tuple(stretch for stretch, _ in found))
        ids._parts.extend(part for _, part in found)  # mapped already: each mapping holds a file descriptor
        return ids

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All ids in memory."""
        if copy is False:
            raise ValueError("MappedIds cannot become an array without a copy")
        parts = [np.asarray(part, self.dtype if dtype is None else dtype) for part in self._parts]
        return np.concatenate(parts) if parts else np.empty(0, np.uint16 if dtype is None else dtype)


def _allow_open_files(count: int) -> None:
    """Let this process open so many files for each split, and OTHER_OPEN_FILES, as far as the system allows."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft if soft == resource.RLIM_INFINITY else max(soft, 2 * count + OTHER_OPEN_FILES)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if wanted > soft:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def id_chunks(ids: NDArray[np.integer[Any]] | MappedIds, size: int = CHUNK) -> Iterator[NDArray[np.integer[Any]]]:
    """The ids as arrays of at most `size` ids, in order.

    >>> [chunk.tolist() for chunk in id_chunks(np.arange(5), size=2)]
    [[0, 1], [2, 3], [4]]
    """
    for part in ids._parts if isinstance(ids, MappedIds) else [ids]:
        for start in range(0, len(part), size):
            yield part[start : start + size]


def paths_of(ids: NDArray[np.integer[Any]] | MappedIds) -> list[Path]:
    """The files that the ids are in; none for an array."""
    return [Path(file.path) for file in ids.files] if isinstance(ids, MappedIds) else []
