"""One sweep from start to end: prepare the data, start Ray, open the studies, run the trials.

The order of the steps matters. All user input is checked before Ray starts. All results of a trial are on disk before
the next decision is made.
"""

import functools
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lmcore.columns import Row
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.text import Report, no_report
from lmcore.corpus.tokens import Tokens, check_windows, load_tokens, save_tokens
from lmcore.device import resolve, this_machine
from lmcore.errors import InputError
from sweeps.callbacks.tracking import check_installed
from sweeps.cli.alive import Alive
from sweeps.cli.interrupts import Interrupts
from sweeps.cli.introduction import introduce
from sweeps.cli.output import fit_hint, plain_lines
from sweeps.cli.timings import Timings
from sweeps.cluster.dashboard import dashboard_line
from sweeps.cluster.joining import check_address
from sweeps.cluster.late_dashboard import LateDashboard
from sweeps.cluster.reaper import reaped
from sweeps.provenance.history import change_line, changes_of, note_changes
from sweeps.provenance.resume import check_data, differences, manifest_of, resumed_manifest, resumed_tokens
from sweeps.provenance.sweep_file import ENTRY, announce, sweep_entry
from sweeps.rundir.folder import RunFolder, write_json, write_text
from sweeps.rundir.in_place import InPlace
from sweeps.rundir.kept_data import find_data, gone_note, other_data, stay_note
from sweeps.rundir.leftovers import clear_leftovers, holds_nothing
from sweeps.spec.settings import is_own, mask_password, strip_password
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml
from sweeps.study.deadline import Deadline

# Ray and Optuna take seconds to import, so each function imports what needs them, after all input has been checked.
if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from sweeps.cluster.ray_cluster import Cluster
    from sweeps.study.study_storage import StudyStorage
    from sweeps.trials import Outcome

FIRST_S = 0.5
"""How long a resume may take to read the folder before it says so."""


def with_data(
    spec: SweepSpec,
    kept: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    report: Report = no_report,
) -> tuple[SweepSpec, Tokens]:
    """Prepare the tokens; returns them with the spec whose vocabulary size is theirs, and whose notes say what is odd.

    Args:
        kept: folder of the tokens of the run that wrote the spec's file; used if the data's own files are gone.
        say: called with a line about each source that was read.
        report: told how far the work is.

    Raises:
        InputError: the data are missing, damaged, too few, or do not fit the vocabulary.
    """
    folder, notes = find_data(spec.data, kept), list(spec.notes)
    if folder is None:
        tokens = prepare_tokens(spec.data, say=say, report=report)
    else:
        tokens = load_tokens(folder)
        notes.append(gone_note(folder))
    if (note := other_data(spec.data, tokens)) is not None:
        notes.append(note)
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"fingerprint": None})})
    spec = spec.model_copy(update={"notes": tuple(notes)}).with_vocab_size(tokens.vocab_size)
    check_windows(tokens, spec.longest_context())
    return spec.absolute(), tokens


def with_data_said(spec: SweepSpec, console: Console, kept: Path | None) -> tuple[SweepSpec, Tokens]:
    """`with_data`, with its notes after it. While it lasts, the console shows how far it is."""
    say = plain_lines(console)
    with Alive(console, "reading the data") as alive:
        prepared, tokens = with_data(spec, kept, say, alive.report)
    for note in prepared.notes[len(spec.notes) :]:
        say(f"Note: {note}.")
    return prepared, tokens


def run_sweep(
    spec: SweepSpec,
    folder: RunFolder,
    address: str | None,
    dashboard: str | None,
    console: Console,
    interrupts: Interrupts,
    resume: bool = False,
    kept: Path | None = None,
    retry: bool = False,
    anew: bool = False,
    timings: Timings | None = None,
    on_last_trials: Callable[[], None] = lambda: None,
) -> "Outcome":
    """Run `spec` in `folder`, or with `resume` the rest of the sweep that was started there.

        spec = load_spec("configs/quick.yaml")
        outcome = run_sweep(spec, RunFolder.named(spec.name), None, None, Console(), Interrupts())

    Args:
        address: of the Ray cluster to use; None starts Ray on this machine, or uses RAY_ADDRESS.
        dashboard: host that the dashboard listens on if Ray is started; None for no dashboard.
        kept: see `with_data`.
        retry: on resume, train failed trials again.
        anew: if `resume` is false, delete what an earlier start left before it had computed anything.
        timings: is told when the stages of the sweep are reached.
        on_last_trials: called when a slot is idle for the first time, because no trial can be handed out.

    Raises:
        InputError: the user's input is wrong; nothing was started.
        FolderInUseError: another process uses the folder.
    """
    deadline, timings = Deadline(spec.search.time), timings or Timings()
    check_address(address)
    check_installed(spec.tracking)
    if is_own(spec.search.method):
        from sweeps.study.own_sampler import check_sampler

        check_sampler(spec.search.method)
    joins = address is not None or "RAY_ADDRESS" in os.environ
    if spec.train.device == "mps" and joins:
        rule = "mps is the GPU of this Mac, and the sweep is to run on a cluster"
        raise InputError(f"train.device: {rule} (got {address or os.environ['RAY_ADDRESS']}); use device: auto")
    say = plain_lines(console)
    if not resume:
        introduce(spec, console)
    if spec.train.device in ("cuda", "mps") and not joins:
        with Alive(console, "looking for the GPU"):
            resolve(spec.train, this_machine())  # imports torch, hence only if a GPU of this machine is demanded
    if not resume:
        spec, tokens = with_data_said(spec, console, kept)

    def clear() -> None:
        if anew and not resume and holds_nothing(folder):
            clear_leftovers(folder)

    with folder.claimed(resume, clear):
        last_rows: Mapping[str, Row] = {}
        previous_manifest: Mapping[str, Any] = {}
        if resume:
            from sweeps.callbacks.metrics_file import last_rows as read_last_rows

            with Alive(console, "reading what the sweep has so far", first_s=FIRST_S):
                own = resumed_tokens(folder)
            spec, tokens = with_data_said(spec, console, kept) if own is None else (spec, own)
            check_data(folder, tokens)
            last_rows, previous_manifest = read_last_rows(folder.metrics), manifest_of(folder)
        in_place = InPlace(folder)
        with Alive(console, "opening the database of the trials"):
            timings.mark("data_ready")
            storage = open_studies(spec, folder, last_rows, resume, say, in_place.check)
            timings.mark("studies_open")
        if resume:
            introduce(spec, console)  # now that the folder is known to hold this sweep
        if retry:
            failed = retry_studies(spec, storage)
            say(f"Trained again: {', '.join(failed)}" if failed else "No trial that failed is left to be trained again")

        from sweeps.cluster.connect import connect

        def end(line: str) -> None:
            interrupts.resume_hint = ""  # there is nothing at the path that it names
            interrupts.exit_now(line, code=1)

        try:
            with ExitStack() as stack:
                closing = Alive(console, "stopping Ray")
                stack.callback(closing.stop)
                remove_later = stack.enter_context(reaped(interrupts.guest))
                with Alive(console, "starting Ray, which runs the training processes"):
                    cluster = stack.enter_context(connect(address, dashboard, say, remove_later, _import_tune))
                timings.mark("Ray_up")
                stack.callback(closing.start)  # what was entered later is left earlier
                if cluster.dashboard_url:
                    say(stack.enter_context(dashboard_line(cluster.dashboard_url, private=console.is_terminal)))
                stack.enter_context(in_place.watched(end))
                interrupts.install()
                host = dashboard if cluster.local else None
                late = stack.enter_context(LateDashboard(host, console.is_terminal, say))
                memory = last_rows, previous_manifest, deadline, timings, late.start, on_last_trials
                outcome = run_on(cluster, spec, tokens, folder, storage, console, interrupts, *memory)
            timings.mark("Ray_down")
            return outcome
        except BaseException:
            if not folder.sweep_yaml.exists():
                release_studies(storage)
            raise


def _import_tune() -> None:
    """Import what runs the trials, and Ray Tune with it, which takes a second."""
    import_module("sweeps.trials")


def open_studies(
    spec: SweepSpec,
    folder: RunFolder,
    last_rows: Mapping[str, Row],
    resume: bool,
    say: Callable[[str], None] = print,
    check: Callable[[], None] = lambda: None,
) -> "StudyStorage":
    """Open the database of the studies: with `resume` it must hold this sweep's trials, otherwise none of them.

    In a database that other sweeps use, the studies are this driver's on return. `say` and `check` are as for
    `sweeps.study.storage.open_storage`.

    Raises:
        InputError: it is damaged, does not answer, or holds the wrong studies.
    """
    from sweeps.study.claims import check_claims, claim_studies
    from sweeps.study.integrity import check_file, check_trials
    from sweeps.study.storage import open_storage

    url = spec.search.storage
    label = f"{folder.display}/study.db" if url is None else mask_password(url)
    if url is None:
        check_file(folder.study_db, last_rows, label)
    storage = open_storage(url, folder, say, check)
    names = [spec.study_name(plan) for plan in (*spec.studies, *spec.confirmations)]
    check_claims(storage, names, resume)
    if resume:
        check_trials(storage, spec, last_rows, label)
    claim_studies(storage, names, resume)
    return storage


def retry_studies(spec: SweepSpec, storage: "StudyStorage") -> list[str]:
    """Have the failed trials trained again; returns their ids."""
    from sweeps.study.retry import retry_failed

    return retry_failed(spec, storage)


def release_studies(storage: "StudyStorage") -> None:
    """Delete the empty studies of a sweep that ended before it had a sweep.yaml."""
    from sweeps.study.claims import release_claims

    release_claims(storage)


def run_on(
    cluster: "Cluster",
    spec: SweepSpec,
    tokens: Tokens,
    folder: RunFolder,
    storage: "BaseStorage",
    console: Console,
    interrupts: Interrupts,
    last_rows: Mapping[str, Row] = MappingProxyType({}),
    previous_manifest: Mapping[str, Any] = MappingProxyType({}),
    deadline: Deadline | None = None,
    timings: Timings | None = None,
    on_begin: Callable[[], None] = lambda: None,
    on_last_trials: Callable[[], None] = lambda: None,
) -> "Outcome":
    """Run `spec` on a connected cluster, with prepared data, in a folder that this process has claimed.

    Args:
        last_rows: on resume, each trial's last row in metrics.jsonl.
        previous_manifest: on resume, the folder's manifest.
        deadline: the time limit, counted from the start of the command; by default search.time from now on.
        timings: is told when the stages of the sweep are reached.
        on_begin: called when the trials begin.
        on_last_trials: see `run_sweep`.
    """
    from sweeps.cluster.membership import Membership
    from sweeps.engine.pool import WorkerPool
    from sweeps.engine.watchdog import Watchdog
    from sweeps.provenance.manifest import manifest
    from sweeps.study.compile_decision import MODE, decide
    from sweeps.study.ledger import Ledger
    from sweeps.study.open_study import asked_trials

    say, timings = plain_lines(console), timings or Timings()
    with Alive(console, "handing the data to the training processes"):
        # Start the workers. They measure their throughput while this process imports Tune and writes the folder.
        membership = Membership.of(cluster, spec, folder.path, say)
        cluster = replace(cluster, nodes=tuple(membership.nodes))
        total = spec.most_trials
        wanted = spec.search.virtual_slots if spec.search.reproducible else spec.search.concurrent or total
        concurrent = min(wanted, total)
        train, mode = decide(spec, cluster, concurrent, previous_manifest.get(MODE))
        spec = spec.model_copy(update={"train": train})
        pool = WorkerPool(cluster, spec, tokens, folder, concurrent, membership, say)
        timings.mark("engines_asked_for")
        from sweeps.callbacks.compiled_speed import CompiledSpeed
        from sweeps.trials import ended_statuses, run_trials  # with Tune, which takes a second

    timings.mark("Tune_imported")
    for change in note_changes(folder, spec, asked_trials(spec, storage)) if previous_manifest else ():
        say(f"Changed: {change_line(change)}")
    written = write_inputs(spec, tokens, folder, console)
    results = f"Results: {folder.display}; Ctrl-C stops and saves the trials{interrupts.resume_hint}"
    say(fit_hint(results, console.width if console.is_terminal else None))

    # Wait for the measurements, which decide how many slots each worker gets.
    end = functools.partial(interrupts.exit_now, code=1)
    with Alive(console, "starting the training processes") as alive:
        ledger = Ledger(spec, storage, last_rows, deadline=deadline or Deadline(spec.search.time), on_transfer=say)
        pool.wait()
        timings.mark("engines_up")
        alive.text = "measuring how many trials at a time are fastest"
        watchdog = Watchdog(pool, spec.search.hung_after_s, cluster.head, say=say, end=end)
        with watchdog:
            choices, peaks = pool.choices(), pool.peaks()
        timings.mark("slots_measured")
    training, queued = pool.open(choices)

    # Record how the sweep runs, and describe it.
    with Alive(console, "counting the validation tokens"):
        record = manifest(spec, tokens, cluster, peaks, choices) | {ENTRY: sweep_entry(written), MODE: mode.entry}
    if previous_manifest:
        for line in differences(previous_manifest, record):
            say(f"Note: {line}; unfinished trials may differ from what they would have been.")
        record = resumed_manifest(previous_manifest, record) | changes_of(folder)
    write_json(folder.manifest, record)
    if mode.line:
        say(mode.line)
    say(
        f"Training {training} at a time on {spec.train.device} in {spec.train.dtype}{mode.clause}; "
        f"on each of {len(pool.ready)} engines {', '.join(map(str, choices))}{f'; {queued} queued' if queued else ''}"
    )
    if previous_manifest:
        paused = f", {ledger.paused} are paused" if ledger.paused else ""
        say(f"Resumed: {len(ended_statuses(ledger))} trials have ended, {ledger.unfinished} are unfinished{paused}")
    expected = pool.expected_flops_per_s(choices)
    before = previous_manifest.get(MODE, {}).get("tokens_per_s", {})
    on_cpu = spec.train.device == "cpu"
    measured = {choice.size: (choice.slots, choice.tokens_per_s) for choice in choices}
    speed = CompiledSpeed(pool.runs, measured, mode.compiled, say, before) if on_cpu else None
    on_begin()
    last = on_last_trials
    return run_trials(
        ledger, pool, watchdog, folder, console, interrupts, record, concurrent, timings, last, expected, speed
    )


def write_inputs(spec: SweepSpec, tokens: Tokens, folder: RunFolder, console: Console | None = None) -> str:
    """Write sweep.yaml, without the password of the storage, and the tokens unless the folder has them.

    Files that an earlier driver was writing when it was killed are deleted first. Returns the text of sweep.yaml. The
    console shows that tokens are being written, and which files stay where they are.
    """
    for pattern in (".*.tmp", "best/.*.tmp", "trials/*/.[!s]*.tmp"):  # `.step-*` are checkpoints, which workers delete
        for unfinished in folder.path.glob(pattern):
            unfinished.unlink(missing_ok=True)
    search = spec.search.model_copy(update={"storage": strip_password(spec.search.storage)})
    text = dump_yaml(spec.model_copy(update={"search": search}))
    announce(folder, text)
    write_text(folder.sweep_yaml, text)
    if not (folder.tokens / "meta.json").exists():
        for unfinished in folder.path.glob(".tokens.*"):
            shutil.rmtree(unfinished)
        console = console or Console(quiet=True)
        with Alive(console, "writing the tokens to the folder"):
            copied = save_tokens(tokens, folder.tokens, spec.data.copy)
        if not copied:
            plain_lines(console)(stay_note(tokens.files))
    return text
