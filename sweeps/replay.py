"""Run a sweep on recorded runs instead of training: `lmsweep replay`. See `--help`.

`replay` does so in memory, for benchmarks of search settings; the command writes an ordinary run's folder. Exit codes:
0 a trial completed; 1 none did, or the disk is full; 2 wrong input (one line); 3 another process uses the folder; 130
interrupted.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.device import training_flops
from lmcore.durable import write_file
from lmcore.errors import InputError, print_error
from lmcore.printable import printable
from lmcore.runfile.paths import show
from lmcore.terminal.console import print_prose
from sweeps.cli.replay_options import parse
from sweeps.rundir.disk_full import UnwritableError, end_sweep_if_unwritable
from sweeps.rundir.folder import FolderInUseError, RunFolder, write_json, write_text
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml

# Optuna and pandas take seconds to import, so each function imports what needs them.
if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from sweeps.recorded.recorded_runs import RecordedRuns
    from sweeps.recorded.source import Source
    from sweeps.recorded.virtual_slots import OnRow
    from sweeps.study.trial_handle import TrialHandle

PROG = "lmsweep replay"
FLOPS_PER_S = 1e11


@dataclass
class ReplayedTrial:
    """One trial of a replayed sweep."""

    id: str
    size: str
    phase: str
    params: dict[str, Any]
    """The values of its searched and computed fields, by dotted path."""
    began_s: float
    """Virtual seconds from the start until it was first handed out."""
    status: str = col.RUNNING
    losses: dict[int, float] = field(default_factory=dict)
    """Validation loss by step; NaN where it diverged."""
    loss: float | None = None
    """The final loss of a complete trial, as the search was told it; None for any other."""
    expected_loss: float | None = None
    """The mean loss over seeds of a complete trial's setting; NaN if that mostly diverges, None for any other trial."""
    flops: float = 0.0
    """FLOPs that it trained."""
    ended_s: float = 0.0
    """Virtual seconds from the start until it last left a slot."""
    recorded: bool = True
    """Whether all its losses were recorded, none predicted."""


@dataclass
class Replayed:
    """How a replayed sweep went."""

    trials: list[ReplayedTrial]
    """Those that were trained, in the order in which they were handed out."""
    seconds: float
    """Virtual seconds of the whole sweep."""
    flops: float
    """Training FLOPs of all trials."""

    @property
    def winner(self) -> ReplayedTrial | None:
        """The complete trial of the search with the lowest loss; of equal ones the earliest."""
        complete = [trial for trial in self.trials if trial.status == col.COMPLETE and trial.phase == col.SEARCH]
        return min(complete, key=lambda trial: trial.loss or 0.0, default=None)

    @property
    def statuses(self) -> dict[str, int]:
        """Number of trials by status."""
        found = [trial.status for trial in self.trials]
        return {status: found.count(status) for status in dict.fromkeys(found)}


def replay(
    spec: SweepSpec,
    source: "Source",
    slots: int,
    flops_per_s: float = FLOPS_PER_S,
    storage: "BaseStorage | None" = None,
    on_row: "OnRow | None" = None,
) -> Replayed:
    """Run a sweep on recorded runs, in memory.

    Args:
        source: where losses come from. What it has fitted is used again by the next replay.
        slots: how many trials train at a time; search.concurrent may allow fewer, and decides in a reproducible sweep.
        flops_per_s: speed of each slot.
        storage: for the studies, by default one that is discarded.
        on_row: called with each row once it has been decided on.

    Example:
        source = Source(read_table(Path("curves.parquet"), {}))
        replay(load_spec("configs/quick.yaml", search="random"), source, slots=8).winner.loss

    Raises InputError if the source cannot tell the losses of this sweep.
    """
    from optuna.storages import InMemoryStorage

    from sweeps.recorded.virtual_slots import Clock, VirtualSlots
    from sweeps.study.deadline import Deadline
    from sweeps.study.ledger import Ledger
    from sweeps.study.storage import quiet_optuna

    quiet_optuna()
    source.check(spec)
    clock = Clock()
    ledger = Ledger(spec, storage or InMemoryStorage(), deadline=Deadline(spec.search.time, clock))
    search = spec.search
    count = search.virtual_slots if search.reproducible else min(slots, search.concurrent or slots)
    found: dict[str, ReplayedTrial] = {}

    def note(handle: "TrialHandle", row: Row) -> None:
        trial = found.get(handle.id)
        if trial is None:
            params = handle.trial.params
            fields = spec.study_layout(handle.plan).overrides(params) if params else {}
            place = handle.id, handle.size, handle.plan.phase
            trial = found[handle.id] = ReplayedTrial(*place, fields, row[col.BEGAN_AT])
        trial.losses[row[col.STEP]] = row[col.VAL_LOSS]
        if on_row is not None:
            on_row(handle, row)

    def note_given_up(handle: "TrialHandle") -> None:
        if on_row is not None and handle.last_row is not None:
            on_row(handle, handle.last_row)  # the same row, whose trial is now pruned

    ledger.on_given_up = note_given_up
    running = VirtualSlots(ledger, source, count, flops_per_s, clock, note)
    for handle in running.run():
        assert handle.last_row is not None  # trials leave their slots at reports
        trial = found[handle.id]
        trial.ended_s, trial.recorded = clock.now, running.curves[handle.id].recorded
        trial.flops = training_flops(handle.run) * handle.last_row[col.STEP] / handle.run.steps
        if handle.status == col.COMPLETE:
            trial.loss = col.quoted_loss(handle.last_row)
            trial.expected_loss = source.expected_loss(handle.size, handle.run)
    for trial_id, status in ledger.statuses().items():
        if trial_id in found:  # otherwise it was not trained
            found[trial_id].status = status
    return Replayed(sorted(found.values(), key=lambda trial: running.order[trial.id]), clock.now, running.flops)


def read_source(path: Path, columns: Mapping[str, str]) -> "RecordedRuns":
    """The recorded runs in a table or in the folder of a run. InputError if there are none that can be used."""
    if path.is_dir():
        from sweeps.recorded.run_folder import read_run_folder

        if columns:
            raise InputError(f"--column: is for a table, and {path} is the folder of a run; leave it out")
        return read_run_folder(path)
    from sweeps.recorded.table import read_table

    return read_table(path, columns)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Replay the sweep that the command line describes into a run's folder, and return the exit code."""
    options = parse(argv, prog)
    from sweeps.recorded.source import Source

    folder = None
    try:
        recorded = read_source(options.source, options.column)
        spec, notes = _spec_for(options, recorded)
        source = Source(recorded)
        notes += source.check(spec)
        folder = RunFolder.named(spec.name, options.runs)
        if folder.sweep_yaml.exists():
            rule = f"each sweep has a folder of its own, and {folder.display} holds a sweep already"
            raise InputError(f"name: {rule}; choose another --name, or delete that folder")
        for note in (*spec.notes, *notes):
            print_prose(f"Note: {note}.", "  ")
        with end_sweep_if_unwritable(), folder.claimed():
            replayed = replay_into(folder, spec, source, options.slots, options.flops_per_s)
    except InputError as error:
        print_error(error)
        return 2
    except FolderInUseError as error:
        print_error(error)
        return 3
    except UnwritableError as error:
        assert folder is not None
        print_error(error.line(folder.path))
        return 1
    except KeyboardInterrupt:
        return 130
    _print_summary(replayed, source.r2, folder)
    return 0 if col.COMPLETE in replayed.statuses else 1


def replay_into(folder: RunFolder, spec: SweepSpec, source: "Source", slots: int, flops_per_s: float) -> Replayed:
    """Replay a sweep and write its folder, which this process has claimed.

    Example:
        replay_into(RunFolder.named(spec.name), spec, source, slots=8, flops_per_s=1e12)

    Raises InputError, before anything is written, if the source cannot tell the losses of this sweep.
    """
    import optuna

    from sweeps.callbacks.metrics_file import row_line
    from sweeps.provenance.manifest import sweep_entries
    from sweeps.study.claims import check_claims
    from sweeps.study.storage import open_storage

    lines: list[bytes] = []

    def on_row(handle: "TrialHandle", row: Row) -> None:
        lines.append(row_line(handle, {**dict.fromkeys(col.ROW_COLUMNS), **row}))

    # SQLite takes 30 ms a trial, so the studies are copied to study.db in the end.
    memory = optuna.storages.InMemoryStorage()
    replayed = replay(spec, source, slots, flops_per_s, memory, on_row)
    storage = open_storage(None, folder)
    check_claims(storage, [spec.study_name(plan) for plan in (*spec.studies, *spec.confirmations)], resume=False)
    for study in optuna.get_all_study_summaries(memory):
        optuna.copy_study(
            from_study_name=study.study_name, from_storage=memory, to_storage=storage, to_study_name=study.study_name
        )
    storage.engine.dispose()
    write_file(folder.metrics, lines)
    runs = {size: spec.run_for(size, {}) for size in spec.size_names}
    entry = {
        "source": source.recorded.source,
        "fingerprint": source.recorded.fingerprint,
        "runs": len(source.recorded.runs),
        "slots": slots,
        "flops_per_s": flops_per_s,
        "seconds_per_step": {size: training_flops(run) / run.steps / flops_per_s for size, run in runs.items()},
        "seconds": replayed.seconds,
        "recorded_trials": sum(trial.recorded for trial in replayed.trials),
        "predicted_trials": sum(not trial.recorded for trial in replayed.trials),
        "r2": source.r2,
    }
    write_json(folder.manifest, {**sweep_entries(spec), col.REPLAY: entry})
    write_text(folder.sweep_yaml, dump_yaml(spec))
    return replayed


def _spec_for(options: Any, recorded: "RecordedRuns") -> tuple[SweepSpec, list[str]]:
    """The sweep, and notes about what of it has no effect in a replay."""
    flags = {name: getattr(options, name) for name in ("search", "scheduler", "trials", "seed", "name")}
    spec = load_spec(options.config, options.set, **flags)
    notes = []
    if recorded.vocab_size is not None and recorded.vocab_size != spec.model.vocab_size:
        notes.append(f"model.vocab_size is that of the recorded runs, {recorded.vocab_size}")
        model = spec.model.model_copy(update={"vocab_size": recorded.vocab_size})
        spec = spec.model_copy(update={"model": model})
    if spec.search.storage is not None:
        notes.append("search.storage has no effect: the studies of a replay are in its own study.db")
        spec = spec.model_copy(update={"search": spec.search.model_copy(update={"storage": None})})
    if options.name is None:
        spec = SweepSpec.model_validate({**dict(spec), "name": f"{spec.name[:57]}-replay"})
    return spec, notes


def _print_summary(replayed: Replayed, r2: Mapping[str, float], folder: RunFolder) -> None:
    counts = ", ".join(f"{number} {status}" for status, number in replayed.statuses.items())
    print_prose(
        f"{len(replayed.trials)} trials: {counts}; {replayed.flops:.3g} FLOPs in {replayed.seconds:.3g} virtual s"
    )
    predicted = sum(not trial.recorded for trial in replayed.trials)
    if predicted:
        quality = ", ".join(f"{value:.3f}{f' for {size}' if len(r2) > 1 else ''}" for size, value in r2.items())
        print_prose(
            f"Losses of {predicted} trials are predictions; R2 of final losses, leaving one out: {quality}", "  "
        )
    if (winner := replayed.winner) is not None:
        setting = ", ".join(f"{path} {_shown(value)}" for path, value in winner.params.items())
        print_prose(f"Lowest loss: {winner.loss:.4f}, {winner.id} ({printable(setting)})", "  ")
    print(f"Report: lmsweep report {shlex.quote(folder.display)}")


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else show(value)


if __name__ == "__main__":
    sys.exit(main())
