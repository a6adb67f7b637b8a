"""One sweep from beginning to end: data, cluster, studies, Tuner, and what is left in the folder.

The order matters. Everything that the user can have got wrong is found before Ray starts; everything that a trial
produces is on disk before the next decision is taken.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from lmcore import columns as col
from lmcore.device import resolve
from lmcore.prepare import prepare_tokens
from lmcore.tokens import Tokens, check_windows, save_tokens
from sweeps.folder import RunFolder, write_json, write_text
from sweeps.interrupts import Interrupts
from sweeps.spec import SweepSpec, dump_yaml
from sweeps.tracking import Tracking, mode_of

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from sweeps.cluster import Cluster


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended."""

    statuses: dict[str, str]
    """Status by trial id."""
    seconds: float
    """Wall clock of the trials, Ray's start not included."""

    @property
    def exit_code(self) -> int:
        """0 if any trial completed, else 1."""
        return 0 if col.COMPLETE in self.statuses.values() else 1


def with_data(spec: SweepSpec) -> tuple[SweepSpec, Tokens]:
    """Prepare the tokens and let them settle the vocabulary.

    Raises:
        InputError: the data are missing, damaged, too few or do not fit the vocabulary.
    """
    tokens = prepare_tokens(spec.data)
    spec = spec.with_vocab_size(tokens.vocab_size)
    check_windows(tokens, spec.longest_context())
    return spec.absolute(), tokens


def run_sweep(
    spec: SweepSpec, address: str | None, dashboard: bool, console: Console, interrupts: Interrupts
) -> Outcome:
    """Run `spec` in its folder, on the Ray cluster at `address` or on this machine.

    Raises:
        InputError: the user's input is wrong; nothing was started.
        FolderInUseError: another process holds the folder.
    """
    if spec.train.device == "cuda" and address is None and "RAY_ADDRESS" not in os.environ:
        import torch  # only who demands a GPU of this machine waits for this import

        resolve(spec.train, torch.cuda.is_available())
    spec, tokens = with_data(spec)
    folder = RunFolder.named(spec.name)
    with folder.claimed():
        # Ray and Optuna are imported only now, when hardly anything of the user's input can be wrong any more.
        from sweeps.cluster import connect
        from sweeps.storage import check_unused, open_storage

        storage = open_storage(spec.search.storage, folder)
        check_unused(storage, [spec.study_name(size) for size in spec.size_names])
        console.print(f"lmsweep {spec.name}: starting Ray", highlight=False)
        with connect(address, dashboard) as cluster:
            interrupts.install()
            return run_on(cluster, spec, tokens, folder, storage, console, interrupts)


def run_on(
    cluster: "Cluster",
    spec: SweepSpec,
    tokens: Tokens,
    folder: RunFolder,
    storage: "BaseStorage",
    console: Console,
    interrupts: Interrupts,
) -> Outcome:
    """Run `spec`, whose data are prepared, on a cluster that is connected, in a folder that is claimed."""
    from sweeps.engines import Engines
    from sweeps.ledger import Ledger
    from sweeps.manifest import manifest
    from sweeps.occupancy import Occupancy
    from sweeps.progress import Progress
    from sweeps.rows import RowFile
    from sweeps.trial_files import TrialFiles
    from sweeps.watchers import Watchers

    spec = spec.model_copy(update={"train": resolve(spec.train, cuda=cluster.gpus > 0)})
    total = sum(spec.trials_of(size) for size in spec.size_names)
    most = min(spec.search.concurrent or total, cluster.room_for_trials(spec.train), total)
    engines = Engines(cluster, spec, tokens, folder, most)
    # While the engines start and measure:
    from sweeps.tuning import tune_all

    write_text(folder.sweep_yaml, dump_yaml(spec))
    ledger = Ledger(spec, storage)
    save_tokens(tokens, folder.tokens)
    if cluster.dashboard_url:
        token = f" (it asks for a token: {Path(sys.executable).with_name('ray')} get-auth-token)"
        console.print(f"Ray dashboard: {cluster.dashboard_url}{token if cluster.local else ''}", highlight=False)
    choices = engines.choices()
    training, in_line = engines.open(choices, most)
    about = manifest(spec, tokens, cluster, len(engines.handles), choices)
    write_json(folder.manifest, about)
    console.print(f"Slots on each of {len(engines.handles)} engines: {', '.join(map(str, choices))}", highlight=False)
    console.print(
        f"{total} trials, {training} at a time{f' and {in_line} next in line' if in_line else ''}, "
        f"on {spec.train.device} in {spec.train.dtype}; everything goes to {folder.display}",
        highlight=False,
    )
    rows = RowFile(folder.metrics)
    occupancy = Occupancy(len(engines.handles))
    tracking = Tracking(folder, spec.tracking.project, mode_of(spec.tracking.wandb))
    began = time.monotonic()
    try:
        with Progress(console, total, training, in_line) as progress:
            watchers = Watchers([rows, TrialFiles(folder, ledger), occupancy, progress])
            with interrupts.insisting():
                tune_all(ledger, engines, watchers, folder, training + in_line)
    finally:
        seconds = time.monotonic() - began
        engines.close()
        rows.close()
        if occupancy.share is not None:
            console.print(
                f"Until the last trial started, engines trained {occupancy.share:.0%} of the time", highlight=False
            )
            write_json(folder.manifest, about | {"occupancy": occupancy.share})
        problem = tracking.finish()
        if problem:
            console.print(problem, highlight=False)
    return Outcome(ledger.statuses(), seconds)
