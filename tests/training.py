"""A sweep's folder without Ray: the driver's own parts, and a trainer for one trial after the other."""

from lmcore import columns as col
from lmcore.device import Machine, resolve
from lmcore.trainer import Trainer
from sweeps.callbacks.base import Callbacks
from sweeps.callbacks.curve_file import CurveFile
from sweeps.callbacks.metrics_file import RowFile
from sweeps.callbacks.trial_files import TrialFiles
from sweeps.callbacks.window_file import WindowFile
from sweeps.engine.trainers import Trainers
from sweeps.rundir.folder import RunFolder
from sweeps.study.ledger import Ledger
from sweeps.study.storage import open_storage
from sweeps.sweep import write_inputs

NOWHERE = dict.fromkeys((*col.PLACE_COLUMNS, col.DECIDED_AT), 0)


def train_without_ray(spec, tokens, path, trials=None, unfinished=0):
    """The run's folder `path` after so many trials, or all; the last `unfinished` of them stop half-way."""
    folder = RunFolder(path)
    folder.path.mkdir(parents=True)
    spec = spec.with_vocab_size(tokens.vocab_size)
    spec = spec.model_copy(update={"train": resolve(spec.train, Machine(cuda=False))})
    write_inputs(spec, tokens, folder)
    trials = spec.search.trials if trials is None else trials
    ledger = Ledger(spec, open_storage(spec.search.storage, folder))
    rows, curves, windows = RowFile(folder.metrics), CurveFile(folder), WindowFile(folder)
    callbacks = Callbacks([curves, windows, rows, TrialFiles(folder, ledger)])
    for number in range(trials):
        live = ledger.ask(ledger.sizes_left[0])
        callbacks.on_trial_start(live)
        trainer = Trainer([live.run], tokens)
        for row in trainer:
            if row[col.BRANCH] is not None:  # comes again with the next row of its run
                continue
            Trainers.save(folder.trial(live.id), trainer.snapshot_slot(0))
            if number >= trials - unfinished:
                break
            status = ledger.report(live.id, row)
            callbacks.on_report(live, NOWHERE | row | {col.TRIAL: live.id})
            if status != col.RUNNING:
                break
        callbacks.on_trial_end(ledger.end(live.id))
    for file in (rows, curves, windows):
        file.close()
    ledger.storage.engine.dispose()
    return folder
