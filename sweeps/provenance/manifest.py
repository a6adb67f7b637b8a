"""manifest.json: what a reader needs in order to trust or repeat a sweep. It holds no results."""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmcore.cores import cores, processor
from sweeps.cluster.checkout import INSTALLED, ROOT
from sweeps.spec.settings import mask_password
from sweeps.spec.space import paths_of
from sweeps.spec.sweep_spec import SweepSpec

if TYPE_CHECKING:  # a replay needs neither torch nor Ray
    from lmcore.corpus.tokens import Tokens
    from sweeps.cluster.ray_cluster import Cluster
    from sweeps.engine.pool import SlotChoice

PACKAGES = ("lmsweep", "torch", "ray", "optuna", "wandb", "numpy", "pandas", "tokenizers", "safetensors", "pydantic")


def manifest(
    spec: SweepSpec,
    tokens: "Tokens",
    cluster: "Cluster",
    peaks: Sequence[float | None],
    choices: "Sequence[SlotChoice]",
) -> dict[str, Any]:
    """The manifest of a sweep that starts now. A password in the storage URL is masked, also in `command`.

    `peaks` are the measured FLOP/s of each engine's matrix products, None where unknown, and `choices` the number of
    slots for each size.

    Example:
        write_json(folder.manifest, manifest(spec, tokens, cluster, engines.peaks(), engines.choices()))
    """
    sweep = sweep_entries(spec)
    return {
        **sweep,
        "hardware": {
            **sweep["hardware"],
            "engines": len(peaks),
            "peak_flops_per_s": list(peaks),
            "cluster_cores": cluster.cores,
            "cluster_gpus": cluster.gpus,
        },
        "slots": {
            choice.size: {"per_engine": choice.slots, "measured": [sample._asdict() for sample in choice.samples]}
            for choice in choices
        },
        "data": {
            "source": spec.data.source,
            "fingerprint": tokens.fingerprint,
            "vocab_size": tokens.vocab_size,
            "train_tokens": len(tokens.train),
            "val_tokens": len(tokens.val),
            "bytes_per_token": tokens.bytes_per_token,
            "val_entropy_unigram": tokens.unigram_entropy,
            "val_in_train": tokens.val_in_train,
            "read": [reading.model_dump() for reading in tokens.readings],
        },
    }


def sweep_entries(spec: SweepSpec) -> dict[str, Any]:
    """The entries that follow from the sweep, the command and this machine alone.

    Example:
        sweep_entries(spec)["commit"]
    """
    arguments, storage = sys.argv[1:], spec.search.storage
    if storage is not None:
        shown = mask_password(storage)
        arguments, storage = [argument.replace(storage, shown) for argument in arguments], shown
    plans = (*spec.studies, *spec.confirmations)
    return {
        "schema": 2,
        "name": spec.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *arguments],
        "commit": commit(),
        "versions": versions(),
        "hardware": {"machine": platform.machine(), "processor": processor(), "cores": cores()},
        "seeds": {"search": spec.search.seed, "train": spec.train.seed, "data": spec.data.seed},
        "search": {
            "method": spec.search.method,
            "scheduler": spec.search.scheduler,
            **({} if spec.as_many_as_fit else _numbers(spec)),
        },
        "sizes": list(spec.size_names),
        "studies": [
            {
                "id": plan.id,
                "study": spec.study_name(plan),
                "size": plan.size,
                "arm": plan.arm.name,
                "phase": plan.phase,
            }
            for plan in plans
        ],
        "compare": {
            "paths": [path for name in spec.compare for path in paths_of(name, spec.space[name])],
            "arms": {arm.name: dict(arm.overrides) for arm in spec.arms if arm.name is not None},
        },
        "confirm": {**spec.confirm.model_dump(), "seed_values": list(spec.confirm_seeds) if spec.confirm.top else []},
        "storage": storage,
    }


def _numbers(spec: SweepSpec) -> dict[str, int]:
    """Numbers of trials, which nobody knows beforehand if search.time alone limits them."""
    trials = sum(spec.trials_of(size) for size in spec.size_names)
    return {"trials": trials, "most_trials": spec.most_trials}


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that can change a result; None for one that is not installed.

    >>> versions()["python"] == platform.python_version()
    True
    """
    found: dict[str, str | None] = {"python": platform.python_version()} | dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # lmsweep itself, run from a checkout
            found[name] = version(name)
    return found


def commit() -> str | None:
    """The commit of this checkout, followed by `+changes-` and a digest if files differ from it; None without git."""
    if ROOT.name in INSTALLED:  # the repository around an environment is another one
        return None
    files = ["--", ".", ":!tests/bench/results"]  # results of benchmarks change no code
    try:
        commit, status, changes = (
            subprocess.run(["git", "-C", ROOT, *command], capture_output=True, check=True).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", *files], ["diff", "HEAD", *files])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    digest = hashlib.sha256(status + changes).hexdigest()[:8]
    return f"{commit.decode().strip()}{f'+changes-{digest}' if status else ''}"
