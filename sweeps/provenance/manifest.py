"""manifest.json: what a reader needs to know to trust or repeat a sweep."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmcore.corpus.tokens import Tokens
from sweeps.cluster.ray_cluster import Cluster
from sweeps.engine.pool import SlotChoice
from sweeps.spec.settings import without_password
from sweeps.spec.sweep_spec import SweepSpec

PACKAGES = ("lmsweep", "torch", "ray", "optuna", "wandb", "numpy", "pandas", "tokenizers", "safetensors", "pydantic")


def manifest(
    spec: SweepSpec, tokens: Tokens, cluster: Cluster, peaks: Sequence[float | None], choices: Sequence[SlotChoice]
) -> dict[str, Any]:
    """The manifest of a sweep that starts now, whose engines multiply matrices at `peaks` FLOP/s (None: unknown).

    A password in the storage's URL is not in it, nor in `command`.
    """
    url = spec.search.storage
    storage = None if url is None else without_password(url)
    arguments = sys.argv[1:] if url is None else [argument.replace(url, storage) for argument in sys.argv[1:]]
    return {
        "schema": 1,
        "name": spec.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *arguments],
        "commit": commit(),
        "versions": versions(),
        "hardware": {
            "machine": platform.machine(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "engines": len(peaks),
            "peak_flops_per_s": list(peaks),
            "cluster_cores": cluster.cores,
            "cluster_gpus": cluster.gpus,
        },
        "seeds": {"search": spec.search.seed, "train": spec.train.seed, "data": spec.data.seed},
        "search": {
            "method": spec.search.method,
            "scheduler": spec.search.scheduler,
            "trials": sum(spec.trials_of(size) for size in spec.size_names),
        },
        "slots": {
            choice.size: {"per_engine": choice.slots, "measured": [pace._asdict() for pace in choice.samples]}
            for choice in choices
        },
        "sizes": list(spec.size_names),
        "studies": {size: spec.study_name(size) for size in spec.size_names},
        "storage": storage,
        "data": {
            "source": spec.data.source,
            "fingerprint": tokens.fingerprint,
            "vocab_size": tokens.vocab_size,
            "train_tokens": len(tokens.train),
            "val_tokens": len(tokens.val),
            "bytes_per_token": tokens.bytes_per_token,
            "val_entropy_unigram": tokens.unigram_entropy,
        },
    }


def versions() -> dict[str, str | None]:
    """Of Python and of all that a number may hang on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:  # PackageNotFoundError is one: lmsweep run from a checkout is not installed
        return None


def commit() -> str | None:
    """The checkout's commit; where files differ from it, with `+changes-` and a digest of the changes.

    Results of benchmarks are left aside.
    """
    root = Path(__file__).resolve().parents[2]
    files = ["--", ".", ":!tests/bench/results"]
    try:
        commit, status, changes = (
            subprocess.run(["git", "-C", root, *command], capture_output=True, check=True).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", *files], ["diff", "HEAD", *files])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    digest = hashlib.sha256(status + changes).hexdigest()[:8]
    return f"{commit.decode().strip()}{f'+changes-{digest}' if status else ''}"


def processor() -> str | None:
    """The processor's name as Linux gives it; platform.processor() is often empty."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
