"""What a machine must show before an engine trains on it: the run's folder, free space, and the promised device.

Each function returns None, or the fault and its remedy in one line. They run on the machine in question.
"""

import hashlib
import os
import platform
import secrets
import shutil
import time
from pathlib import Path

from rich.filesize import decimal

from lmcore.cores import available_memory
from lmcore.corpus.tokens import missing_files
from sweeps.cluster.checkout import packages

TOKEN = ".engine-token"
"""File in the run's folder. Who reads the driver's token there sees the driver's folder, not one of the same name."""
SHARED_WITHIN_S = 10.0
"""A network file system may show a new file late."""


def write_token(folder: Path) -> str:
    """Write a new token into the run's folder and return it."""
    token = secrets.token_hex(16)
    (folder / TOKEN).write_text(token)
    return token


def folder_fault(folder: Path, token: str, wait_s: float = SHARED_WITHIN_S) -> str | None:
    """Whether this machine sees the driver's folder and can write to it."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            seen = (folder / TOKEN).read_text()
        except OSError as error:
            reason = f"{folder} is not there ({error.strerror})"
        else:
            reason = f"{folder} is another folder than the driver's"
            if seen == token:
                break
        if time.monotonic() > deadline:
            return f"{reason}; run the sweep from a folder that all nodes share"
        time.sleep(0.2)
    written = folder / f".written-by-{platform.node()}-{os.getpid()}.tmp"
    try:
        written.write_text("")
        written.unlink()
    except OSError as error:
        return f"{folder} cannot be written to ({error.strerror}); give its user the right to write there"
    return None


def data_fault(tokens: Path) -> str | None:
    """Whether this machine has the token files that the run's folder `tokens` only refers to (`data.copy`)."""
    try:
        missing = missing_files(tokens)
    except (OSError, ValueError):  # not written yet, or damaged: its reader says so
        return None
    if not missing:
        return None
    return f"{missing[0]} is not there as the driver has it; put it there, or start the sweep with data.copy: always"


def space_fault(folder: Path, disk_bytes: int, memory_bytes: int) -> str | None:
    """Whether there is room for the checkpoints and the memory of one trial at least."""
    free = shutil.disk_usage(folder).free
    if free < disk_bytes:
        return f"the disk of {folder} has {decimal(free)} free, and checkpoints need {decimal(disk_bytes)}; free space"
    available = available_memory()
    if available is not None and available < memory_bytes:
        return f"{decimal(available)} of memory are free, and a trial needs {decimal(memory_bytes)}; free memory"
    return None


def device_fault(device: str, gpus: int = 1) -> str | None:
    """Whether torch has the GPUs that Ray counts here, and computes on them. Imports torch unless `device` is cpu."""
    if device == "cpu":
        return None
    import torch

    if device == "mps":
        return None if torch.backends.mps.is_available() else "torch has no Apple GPU here; use train.device: cpu"
    remedy = "install torch and a driver that see the GPU, or start Ray there with --num-gpus=0"
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < gpus:
        return f"Ray counts {gpus} GPU{'s' if gpus > 1 else ''} and torch {found}; {remedy}"
    for number in range(gpus):
        try:
            torch.ones(2, 2, device=f"cuda:{number}").matmul(torch.ones(2, 2, device=f"cuda:{number}")).cpu()
        except RuntimeError as error:
            return f"GPU {number} does not compute ({str(error).splitlines()[0]}); {remedy}"
    return None


def code_digest() -> str:
    """A digest of the code of lmcore and sweeps that this process imports."""
    digest = hashlib.sha256()
    for package in map(Path, packages()):
        for path in sorted(package.rglob("*.py")):
            digest.update(path.relative_to(package.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
