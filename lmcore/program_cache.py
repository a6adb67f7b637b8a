"""The programs that torch.compile keeps on disk: which ones are there, and that only one process compiles each.

torch's caches are content-addressed: whether they have a program shows only once it has been traced, which takes
seconds and needs torch. So a process that has compiled leaves an empty file in the cache's folder, named after what the
program depends on. Whoever deletes the cache deletes these files, too. Loads without torch.

Processes that want the same program at the same time would each compile it, for tens of seconds of all their cores.
Here one of them holds a lock while it compiles, the others wait for its file and then load the program. The system
frees the lock of a process that dies, and nobody waits for longer than WAIT_S. Who waits can compile another program.
"""

import getpass
import hashlib
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lmcore.config import FIELD_ROLES, ModelConfig, TrainConfig

WAIT_S = 120.0
"""How long a process waits for another one that compiles: several times as long as that takes."""
POLL_S = 0.05
FOLDER = "lmsweep"
ARCHITECTURE = tuple(
    path.partition(".")[2] for path, role in FIELD_ROLES.items() if path.startswith("model.") and role == "static"
)
"""Fields of a model that its program depends on."""


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where torch keeps its programs: TORCHINDUCTOR_CACHE_DIR, or torch's default.

    >>> cache_folder({"TORCHINDUCTOR_CACHE_DIR": "/var/cache/inductor"})
    PosixPath('/var/cache/inductor')
    """
    if given := environment.get("TORCHINDUCTOR_CACHE_DIR"):
        return Path(given).absolute()
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
    plain = re.sub(r'[\\/:*?"<>|]', "_", user)
    return Path(tempfile.gettempdir()) / f"torchinductor_{plain}"


def program_name(
    model: ModelConfig, train: TrainConfig, *, slots: int | str, tying: str, windows: int, gradients: bool
) -> str:
    """The name of a program on this machine: equal for two processes if and only if they would compile the same.

    Args:
        train: resolved.
        slots: K, or `*` for a pattern that matches any K.
        tying: which slots have tied embeddings: none, all or mixed.
        windows: B.
        gradients: whether there is a backward pass.
    """
    fields = model.model_dump(include=set(ARCHITECTURE))
    kind = {"dropout": model.dropout > 0, "dtype": train.dtype, "threads": train.threads, "device": train.device}
    parts = json.dumps([fields, kind, windows, gradients, _platform()], sort_keys=True)
    return f"{hashlib.sha256(parts.encode()).hexdigest()[:20]}-{tying}-{slots}"


def is_compiled(name: str) -> bool:
    """Whether the cache has a program of this name, or pattern, and may be used."""
    if os.environ.get("TORCHINDUCTOR_FORCE_DISABLE_CACHES") == "1":
        return False
    return any((cache_folder() / FOLDER).glob(f"{name}.done"))


def note_compiled(name: str) -> None:
    """Note that the cache has a program of this name. A folder that cannot be written notes nothing."""
    with suppress(OSError):
        folder = cache_folder() / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.done").touch()


@contextmanager
def compiled_once(name: str, wait_s: float = WAIT_S, meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Let one process at a time compile the program of this name, until one has noted it; then all load it at once.

        with compiled_once(name):
            first_step()
            note_compiled(name)

    Who has to wait calls `meanwhile` once. Nobody waits for longer than `wait_s`, or where files cannot be locked.
    """
    with ExitStack() as stack:
        if not is_compiled(name) and (lock := _open_lock(name)) is not None:
            stack.callback(os.close, lock)
            _wait(lock, name, wait_s, meanwhile)
            if is_compiled(name):
                stack.close()
        yield


def _open_lock(name: str) -> int | None:
    """The open file to lock; None if it cannot be written."""
    try:
        folder = cache_folder() / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        # Never deleted: a process could then lock the file that is gone, and another one its successor.
        return os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return None


def _wait(lock: int, name: str, wait_s: float, meanwhile: Callable[[], object]) -> None:
    """Return with the lock, or as soon as the program is there, or after `wait_s`."""
    until, asked = time.monotonic() + wait_s, False
    while not _locks(lock) and not is_compiled(name) and time.monotonic() < until:
        if asked:
            time.sleep(POLL_S)
        else:
            asked = True
            meanwhile()


def _locks(lock: int) -> bool:
    """Whether this process now has the lock, or files cannot be locked here."""
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, and file systems without locks
        return True
    return True


@cache
def _platform() -> list[str | None]:
    """What a program depends on besides the run: torch, Python, the CPU's instructions and the code of lmcore."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    torch_version = None
    with suppress(PackageNotFoundError):
        torch_version = version("torch")
    flags = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith("flags")), "")
    limits = [os.environ.get(name) for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")]
    return [torch_version, platform.python_version(), platform.machine(), flags, *limits, digest.hexdigest()]
