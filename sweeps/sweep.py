"""One sweep from beginning to end: data, cluster, studies, Tuner, and what is left in the folder.

The order matters. Everything that the user can have got wrong is found before Ray starts; everything that a trial
produces is on disk before the next decision is taken.
"""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.tokens import Tokens, check_windows, save_tokens
from lmcore.device import resolve, this_machine, training_flops, why_compile
from sweeps.callbacks.tracking import Tracking
from sweeps.cli.interrupts import Interrupts
from sweeps.cluster.reaper import reaped
from sweeps.provenance.resume import check_data, differences, manifest_of, resumed_manifest, resumed_tokens
from sweeps.rundir.folder import RunFolder, write_json, write_text
from sweeps.spec.settings import password_left_out, without_password
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml

STOP_S = 12.0
"""For engines to end their intervals after Ctrl-C; with wandb's and Ray's part the end takes less than 30 s."""
STOP_WANDB_S = 8.0

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from sweeps.cluster.ray_cluster import Cluster


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
    spec: SweepSpec,
    folder: RunFolder,
    address: str | None,
    dashboard: str | None,
    console: Console,
    interrupts: Interrupts,
    resume: bool = False,
) -> Outcome:
    """Run `spec` in `folder`, or with `resume` what is left of it, on the Ray cluster at `address` or on this machine.

    `dashboard` is the host that the dashboard of a Ray that is started listens on; None for no dashboard.

    Raises:
        InputError: the user's input is wrong; nothing was started.
        FolderInUseError: another process holds the folder.
    """
    if spec.train.device == "cuda" and address is None and "RAY_ADDRESS" not in os.environ:
        resolve(spec.train, this_machine())  # only who demands a GPU of this machine waits for torch
    if not resume:
        spec, tokens = with_data(spec)
    with folder.claimed(resume):
        if resume:
            kept = resumed_tokens(folder)
            spec, tokens = with_data(spec) if kept is None else (spec, kept)
            check_data(folder, tokens)
        # Ray and Optuna are imported only now, when hardly anything of the user's input can be wrong any more.
        from sweeps.callbacks.metrics_file import last_rows
        from sweeps.cluster.ray_cluster import connect
        from sweeps.study.integrity import check_file, check_trials
        from sweeps.study.storage import check_unused, open_storage

        url = spec.search.storage
        database = f"{folder.display}/study.db" if url is None else without_password(url)
        rows, begun = (last_rows(folder.metrics), manifest_of(folder)) if resume else ({}, {})
        if url is None:
            check_file(folder.study_db, rows, database)
        storage = open_storage(url, folder)
        if resume:
            check_trials(storage, spec, rows, database)
        else:
            check_unused(storage, [spec.study_name(size) for size in spec.size_names])
        console.print(f"lmsweep {spec.name}: starting Ray", highlight=False)
        with reaped(), connect(address, dashboard) as cluster:
            interrupts.install()
            return run_on(cluster, spec, tokens, folder, storage, console, interrupts, rows, begun)


def run_on(
    cluster: "Cluster",
    spec: SweepSpec,
    tokens: Tokens,
    folder: RunFolder,
    storage: "BaseStorage",
    console: Console,
    interrupts: Interrupts,
    known: Mapping[str, Row] = MappingProxyType({}),
    begun: Mapping[str, Any] = MappingProxyType({}),
) -> Outcome:
    """Run `spec`, whose data are prepared, on a cluster that is connected, in a folder that is claimed.

    Of a sweep that is resumed, `known` is the last row of each trial so far, and `begun` its manifest.
    """
    from sweeps.callbacks.base import Callbacks
    from sweeps.callbacks.metrics_file import RowFile
    from sweeps.callbacks.progress import Progress
    from sweeps.callbacks.trial_files import TrialFiles
    from sweeps.callbacks.utilization import Utilization
    from sweeps.engine.pool import WorkerPool
    from sweeps.engine.watchdog import Watchdog
    from sweeps.provenance.manifest import manifest
    from sweeps.study.ledger import Ledger

    asked, flops = spec.train, max(training_flops(spec.run_for(size, {})) for size in spec.size_names)
    spec = spec.model_copy(update={"train": resolve(asked, cluster.machine, flops)})
    total = sum(spec.trials_of(size) for size in spec.size_names)
    most = min(spec.search.concurrent or total, cluster.room_for_trials(spec.train), total)
    engines = WorkerPool(cluster, spec, tokens, folder, most)
    # While the engines start and measure:
    from sweeps.tune.tuner import tune_all

    kept = spec.search.model_copy(update={"storage": password_left_out(spec.search.storage)})
    write_text(folder.sweep_yaml, dump_yaml(spec.model_copy(update={"search": kept})))
    ledger = Ledger(spec, storage, known)
    if not (folder.tokens / "meta.json").exists():
        for unfinished in folder.path.glob(".tokens.*"):  # of a driver that was killed
            shutil.rmtree(unfinished)
        save_tokens(tokens, folder.tokens)
    if cluster.dashboard_url:
        demands_token = cluster.local and os.environ.get("RAY_AUTH_MODE") == "token"
        token = f" (it asks for a token: {Path(sys.executable).with_name('ray')} get-auth-token)"
        console.print(f"Ray dashboard: {cluster.dashboard_url}{token if demands_token else ''}", highlight=False)
    watchdog = Watchdog(
        engines.handles,
        spec.search.hung_after_s,
        cluster.head,
        say=lambda line: console.print(line, highlight=False),
        end=lambda line: interrupts.end_at_once(line, 1),
    )
    with watchdog:
        choices, peaks = engines.choices(), engines.peaks()
    training, in_line = engines.open(choices, most)
    about = manifest(spec, tokens, cluster, peaks, choices)
    if begun:
        for line in differences(begun, about):
            console.print(
                f"Note: {line}; trials that go on may differ from what they would have been.", highlight=False
            )
        about = resumed_manifest(begun, about)
    write_json(folder.manifest, about)
    console.print(f"Slots on each of {len(engines.handles)} engines: {', '.join(map(str, choices))}", highlight=False)
    console.print(
        f"{total} trials, {training} at a time{f' and {in_line} next in line' if in_line else ''}, "
        f"on {spec.train.device} in {spec.train.dtype}, {why_compile(asked, spec.train, flops)}; "
        f"everything goes to {folder.display}",
        highlight=False,
    )
    ended = [status for status in ledger.statuses().values() if status != col.RUNNING]
    if begun:
        console.print(f"Resumed: {len(ended)} trials have ended, {ledger.unfinished} go on", highlight=False)
    rows = RowFile(folder.metrics)
    files = TrialFiles(folder, ledger)
    files.catch_up()
    utilization = Utilization(len(engines.handles))
    logged = folder.metrics.stat().st_size
    tracking = Tracking(folder, spec.tracking, logged)
    began = time.monotonic()
    try:
        with Progress(console, total, training, in_line, ended, ledger.best_losses) as progress:
            callbacks = Callbacks([rows, files, utilization, progress])
            with watchdog, interrupts.insisting():
                while ledger.sizes_left:  # after the last one was asked for, a trial may have been given back
                    tune_all(ledger, engines, callbacks, folder, training + in_line)
        engines.stop(STOP_S)  # checkpoints may be under way still
    finally:
        seconds = time.monotonic() - began
        if interrupts.received is not None and not engines.stop(STOP_S):
            console.print(f"An interval was not done in {STOP_S:.0f} s; it will be trained again.", highlight=False)
        engines.close()
        rows.close()
        problem = tracking.finish(*([] if interrupts.received is None else [STOP_WANDB_S]))
        if problem:
            console.print(problem, highlight=False)
        if utilization.share is not None:
            console.print(
                f"Until the last trial started, engines trained {utilization.share:.0%} of the time", highlight=False
            )
            write_json(folder.manifest, about | {"utilization": utilization.share})
    return Outcome(ledger.statuses(), seconds)
