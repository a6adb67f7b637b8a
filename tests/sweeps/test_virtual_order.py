"""A reproducible sweep: the same study for any timing, any number of slots, and any moment of a driver's death."""

import copy
import heapq
import math
import random
import zlib
from collections import Counter

import optuna
import pytest
from test_ledger import row as report_row

from lmcore import columns as col
from lmcore.errors import InputError
from lmcore.reports import next_report
from sweeps.recorded.virtual_slots import VirtualSlots
from sweeps.spec.settings import SCHEDULERS
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.early_rows import EarlyRows, Failure
from sweeps.study.ledger import Ledger
from sweeps.study.order import ArrivalOrder
from sweeps.study.storage import quiet_optuna
from sweeps.study.virtual_order import VIRTUAL, VirtualOrder

COUNT = 4
SPACE = {
    "optim.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "model.num_layers": {"choices": [1, 2, 3]},
}


def spec(scheduler="asha", method="random", trials=12, seed=1, stop_at=None, **sections):
    search = {
        "seed": seed,
        "method": method,
        "trials": trials,
        "scheduler": scheduler,
        "startup_trials": 3,
        "stop_at": stop_at,
        "reproducible": True,
    }
    model, train = {"d_model": 32, "num_layers": 2, "d_ff": 64}, {"steps": 40, "eval_every": 5}
    values = {"name": "order", "model": model, "train": train, "search": search, "space": SPACE, **sections}
    return SweepSpec.model_validate(values)


def loss_of(run, step):
    """A surface around lr = 1e-2 with curves that cross; rates above 0.07 diverge."""
    lr, seed = run.optim.lr, zlib.crc32(repr((run.optim.lr, run.train.seed)).encode())
    if lr > 0.07 and step > 10:
        return math.nan
    late = 0.5 + seed / 2**32
    return 3.0 + 0.3 * abs(math.log10(lr) + 2) + 0.05 * run.model.num_layers + late * 10 / (step + 10)


class Curves:
    """Losses for `VirtualSlots`, as those of a `Source`."""

    def curve(self, size, run):
        return Curve(run)

    def next_report(self, run, step):
        return next_report(run, step)


class Curve:
    final = None

    def __init__(self, run):
        self.run = run

    def at(self, share):
        return loss_of(self.run, round(share * self.run.steps))


class KilledError(Exception):
    """The driver was killed."""


class Disk:
    """What survives a driver. It is killed before its write number `kill_at`."""

    def __init__(self, kill_at=None):
        self.kill_at, self.writes = kill_at, 0
        self.storage = CountedStorage(self)
        self.rows, self.early = [], {}
        self.reported = Counter()  # how often each trial and step was trained

    def write(self):
        self.writes += 1
        if self.writes == self.kill_at:
            raise KilledError

    def append(self, trial_id, early):  # the journal
        self.write()
        self.early.setdefault(trial_id, []).append(copy.copy(early))

    def add_row(self, handle, row):
        self.write()
        self.rows.append({**row, col.TRIAL: handle.id, col.STATUS: handle.status})

    def last_rows(self):
        return {row[col.TRIAL]: dict(row) for row in self.rows}


class CountedStorage(optuna.storages.InMemoryStorage):
    def __init__(self, disk):
        super().__init__()
        self.disk = disk


def _counted(name):
    def write(self, *arguments, **keywords):
        self.disk.write()
        return getattr(super(CountedStorage, self), name)(*arguments, **keywords)

    return write


for _name in (
    "create_new_study",
    "create_new_trial",
    "set_study_user_attr",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
):
    setattr(CountedStorage, _name, _counted(_name))


def drive(sweep, disk, slots, seed=0, fails=(), requeued=0.0, interrupted_after=math.inf):
    """Train all trials in `slots` real slots with random speeds, from what the disk has."""
    rng = random.Random(seed)
    ledger = Ledger(sweep, disk.storage, disk.last_rows())
    ended = []
    order = VirtualOrder(
        ledger,
        count=COUNT,
        journal=disk,
        arrived=copy.deepcopy(disk.early),
        on_row=disk.add_row,
        on_end=lambda handle: ended.append(handle.status),
    )
    ledger.on_given_up = lambda handle: disk.add_row(handle, handle.last_row)
    now, free, events, tie = 0.0, slots, [], 0
    while True:
        while free and (sizes := order.sizes):
            handle, free, tie = order.start(sizes[0]), free - 1, tie + 1
            heapq.heappush(events, (now + rng.uniform(0.1, 3), tie, handle))
        if not events:
            break
        if (interrupted_after := interrupted_after - 1) < 0:
            for *_, handle in events:
                order.leave(handle.id)
            assert ended[-len(events) :] == [col.RUNNING] * len(events)
            return ledger
        now, _, handle = heapq.heappop(events)
        assert order.trains(handle.id)
        step = next_report(handle.run, order.known_step(handle.id))
        if rng.random() < requeued:
            order.requeue(handle.id)
            goes_on = False
        elif handle.trial.number in fails and step > 10:
            order.fail(handle.id, "ValueError: boom", "Traceback\nValueError: boom\n")
            goes_on = False
        else:
            disk.reported[handle.id, step] += 1
            goes_on = order.report(handle.id, report_row(step, loss_of(handle.run, step), train_loss=1.0))
        if goes_on:
            tie += 1
            heapq.heappush(events, (now + rng.uniform(0.1, 3), tie, handle))
        else:
            free += 1
            order.leave(handle.id)
    assert not order.more_may_come
    assert ledger.over
    return ledger


def trials_on(disk):
    return [t for study in disk.storage.get_all_studies() for t in disk.storage.get_all_trials(study._study_id)]


def outcome(ledger, without=()):
    """Everything that the studies have, up to timestamps."""
    found = {}
    for name, state in ledger.studies.items():
        trials = state.study.get_trials(deepcopy=False)
        found[name] = [
            (
                trial.state.name,
                repr(trial.values),
                trial.params,
                repr(sorted(trial.intermediate_values.items())),
                repr(sorted((key, value) for key, value in trial.user_attrs.items() if key not in without)),
                repr(sorted(trial.system_attrs.items())),
            )
            for trial in trials
        ]
    return found


@pytest.fixture(autouse=True)
def _quiet():
    quiet_optuna()


@pytest.mark.parametrize("method", ["random", "tpe"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_any_timing_on_any_number_of_slots_ends_in_the_study_of_the_virtual_replay(scheduler, method):
    sweep = spec(scheduler, method, confirm={"top": 2, "seeds": 2})
    replayed = Ledger(sweep, optuna.storages.InMemoryStorage())
    for _ in VirtualSlots(replayed, Curves(), COUNT, 1e12).run():
        pass
    apart = (VIRTUAL, col.LAST)  # the last row has throughputs
    expected = outcome(replayed, apart)
    whole = None
    for seed, slots in enumerate((1, 2, 4, 16)):
        found = drive(sweep, Disk(), slots, seed)
        assert outcome(found, apart) == expected
        whole = whole or outcome(found)
        assert outcome(found) == whole


def test_the_order_in_which_rows_arrive_would_change_the_study_otherwise():
    """Timing matters in this sweep: a test of the tests."""

    def arrival(seed):
        rng, ledger = random.Random(seed), Ledger(spec(method="tpe"), optuna.storages.InMemoryStorage())
        order, live = ArrivalOrder(ledger), []
        while True:
            while len(live) < COUNT and (sizes := order.sizes):
                live.append(order.start(sizes[0]))
            if not live:
                return outcome(ledger)
            handle = rng.choice(live)
            step = next_report(handle.run, order.known_step(handle.id))
            if not order.report(handle.id, report_row(step, loss_of(handle.run, step), train_loss=1.0)):
                live.remove(handle)
                order.leave(handle.id)

    assert arrival(0) != arrival(1)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_failures_and_lost_slots_change_nothing(scheduler):
    sweep = spec(scheduler, trials=8)
    expected = outcome(drive(sweep, Disk(), 1, fails=(2, 5)))
    assert "FAIL" in str(expected)
    for seed, slots in ((1, 3), (2, 16)):
        assert outcome(drive(sweep, Disk(), slots, seed, fails=(2, 5), requeued=0.2)) == expected


SMALL = {"sizes": [{"name": "a"}, {"name": "b", "model.d_model": 48}], "confirm": {"top": 1, "seeds": 1}}


@pytest.mark.parametrize(
    ("scheduler", "trials", "sections"),
    [("asha", 8, {}), ("hyperband", 6, {}), ("asha-stop", 6, SMALL), ("median", 6, SMALL)],
)
def test_a_driver_killed_before_any_of_its_writes_leaves_the_same_study_to_the_next_one(scheduler, trials, sections):
    sweep, fails = spec(scheduler, trials=trials, **sections), (1,)
    whole = Disk()
    expected = outcome(drive(sweep, whole, 3, seed=3, fails=fails))
    if scheduler == "asha":  # some were promoted later
        assert any(began[2] > 0 for began in (t.user_attrs[VIRTUAL] for t in trials_on(whole)))
    for kill_at in range(1, whole.writes + 1):
        disk = Disk(kill_at)
        with pytest.raises(KilledError):
            drive(sweep, disk, 3, seed=3, fails=fails)
        disk.kill_at = None
        assert outcome(drive(sweep, disk, 2, seed=kill_at, fails=fails)) == expected, kill_at
        again = sum(disk.reported.values()) - len(disk.reported)
        assert again <= 1, "only the row that was being written may be lost"


@pytest.mark.parametrize("stop_at", [None, 3.5])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_driver_killed_again_and_again_leaves_the_same_study(scheduler, stop_at):
    sweep = spec(scheduler, "tpe", trials=10, stop_at=stop_at)
    whole = drive(sweep, Disk(), 16)
    assert (len(whole.statuses()) < 10) == (stop_at is not None)
    expected = outcome(whole)
    disk, kills, rng = Disk(), 0, random.Random(0)
    while True:
        disk.kill_at = disk.writes + rng.randint(5, 40)
        try:
            found = drive(sweep, disk, rng.choice([1, 3, 8]), seed=kills)
        except KilledError:
            kills += 1
            continue
        break
    assert kills > 3
    assert outcome(found) == expected


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_an_interrupted_driver_decides_nothing_more(scheduler):
    sweep = spec(scheduler, trials=8)
    expected = outcome(drive(sweep, Disk(), 3))
    for after in range(0, 40, 3):
        disk = Disk()
        drive(sweep, disk, 3, seed=after, interrupted_after=after)
        assert outcome(drive(sweep, disk, 2, seed=1)) == expected


def test_the_journal_keeps_rows_and_failures_and_drops_half_a_line(tmp_path):
    journal = EarlyRows(tmp_path / "early.jsonl")
    journal.append("main-0000", {"step": 5, "val_loss": 3.25, "window_losses": [3.0, 3.5]})
    journal.append("main-0001", {"step": 5, "val_loss": math.nan})
    journal.append("main-0000", Failure(5, "ValueError: boom", "Traceback"))
    journal.close()
    with (tmp_path / "early.jsonl").open("ab") as file:
        file.write(b'{"trial": "main-0001", "row": {"st')
    journal = EarlyRows(tmp_path / "early.jsonl")
    found = journal.read()
    assert found["main-0000"] == [
        {"step": 5, "val_loss": 3.25, "window_losses": [3.0, 3.5]},
        Failure(5, "ValueError: boom", "Traceback"),
    ]
    assert math.isnan(found["main-0001"][0]["val_loss"])
    journal.append("main-0001", {"step": 10})
    assert len(journal.read()["main-0001"]) == 2
    (tmp_path / "early.jsonl").write_bytes(b"{}\n")
    with pytest.raises(InputError, match=r"early.jsonl:1: must be a row that arrived early, but is damaged"):
        journal.read()


def test_a_time_limit_is_refused():
    with pytest.raises(ValueError, match=r"search.reproducible: must be false with search.time"):
        SweepSpec.model_validate({**spec().model_dump(), "search": {"reproducible": True, "time": "1h"}})
