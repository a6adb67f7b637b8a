"""Limits of the container or batch job that this process runs in: Linux control groups, versions 1 and 2.

A process is in a group, which lies in others; each of them may have a limit, and the smallest one counts. Without
control groups, as on macOS, there are no limits.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")
UNLIMITED = 2**60
"""Version 1 writes a number of about 2^63 for no limit of memory."""


def cpu_quota(proc: Path = PROC) -> float | None:
    """CPU cores that the groups of this process may use at a time, possibly a fraction; None without a limit.

    >>> cpu_quota()  # in `docker run --cpus 2.5`  # doctest: +SKIP
    2.5
    """
    quotas = []
    for folder in _groups("cpu", proc):
        quota, period = _numbers(folder / "cpu.max", 2) or (
            *(_numbers(folder / "cpu.cfs_quota_us", 1) or [-1.0]),
            *(_numbers(folder / "cpu.cfs_period_us", 1) or [-1.0]),
        )
        if quota > 0 and period > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def memory_limit(proc: Path = PROC) -> int | None:
    """Bytes of memory that the groups of this process may use; None without a limit."""
    limits = [limit for limit, _ in _memory(proc)]
    return min(limits, default=None)


def memory_left(proc: Path = PROC) -> int | None:
    """Bytes of memory that the groups of this process may still take; None without a limit.

    Cached files that the system can drop at once do not count as taken.
    """
    return min((max(0, limit - used) for limit, used in _memory(proc)), default=None)


def _memory(proc: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of each group that has a limit."""
    for folder in _groups("memory", proc):
        for limit_file, used_file, dropped in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _numbers(folder / limit_file, 1)
            if limit is not None and limit[0] < UNLIMITED:
                used = (_numbers(folder / used_file, 1) or [0.0])[0]
                yield int(limit[0]), int(used - _statistic(folder / "memory.stat", dropped))


def _groups(controller: str, proc: Path) -> Iterator[Path]:
    """Folders of the groups that control this process, from its own up to the outermost that is mounted here."""
    with suppress(OSError, ValueError, IndexError):  # no such file, or one in another format
        memberships = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split(" ") for line in (proc / "mountinfo").read_text().splitlines()]
        for fields in mounts:
            root, point, separator = fields[3], Path(_unescaped(fields[4])), fields.index("-")
            kind, options = fields[separator + 1], fields[separator + 3].split(",")
            version_2 = kind == "cgroup2"
            if not version_2 and not (kind == "cgroup" and controller in options):
                continue
            for number, controllers, path in memberships:
                if (number == "0" and not controllers) if version_2 else controller in controllers.split(","):
                    # In a container the path may be that on the host, of which only a part is mounted here.
                    inside = path.removeprefix(root.rstrip("/")) if path.startswith(root) else ""
                    group = point / inside.strip("/")
                    yield group
                    yield from (parent for parent in group.parents if parent.is_relative_to(point))


def _numbers(file: Path, count: int) -> list[float] | None:
    """The `count` numbers in a file; None if it is not there or says `max`."""
    try:
        words = file.read_text().split()
        return [float(word) for word in words] if len(words) == count else None
    except (OSError, ValueError):
        return None


def _statistic(file: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def _unescaped(path: str) -> str:
    """A path in mountinfo, in which spaces and the like are written as octal numbers."""
    return path.encode("ascii", "backslashreplace").decode("unicode_escape") if "\\" in path else path
