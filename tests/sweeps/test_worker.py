"""The real worker without Ray: its rows are those of the runs alone, whatever happens around them."""

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lmcore import columns as col
from lmcore.checkpoint import read_checkpoint
from lmcore.config import DataConfig, ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens, save_tokens
from lmcore.measure.slot_count import ThroughputSample, worthwhile_slots
from lmcore.measure.throughput import _Probe
from lmcore.trainer import Trainer
from sweeps.cluster.proof import write_token
from sweeps.engine import worker as worker_module
from sweeps.engine.death_count import MAX_DEATHS, death_charged, deaths
from sweeps.engine.environment_fault import EnvironmentFaultError
from sweeps.engine.placement import Placement
from sweeps.engine.pool import WorkerPool
from sweeps.engine.slot_table import Costs
from sweeps.engine.worker import SlotWorker
from sweeps.rundir.checkpoints import checkpoint_files
from sweeps.rundir.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
MODEL = {"vocab_size": 97, "d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "context_length": 16}
TRAIN = {"steps": 20, "batch_size": 4, "eval_every": 5, "eval_windows": 8, "device": "cpu"}
NOT_NUMBERS = (*col.PLACE_COLUMNS, *col.ENGINE_COLUMNS, col.TOKENS_PER_S, col.ELAPSED_S)
TOGETHER = Costs(single_s=1.0, batched_s=1.2)  # worth waiting for each other


def run(model=None, train=None, **optim):
    return RunSpec(
        model=ModelConfig(**MODEL | (model or {})),
        train=TrainConfig(**TRAIN | (train or {})),
        optim=OptimConfig(**optim),
    )


FOUR = {
    "a": run(lr=1e-2),
    "b": run(lr=1e-3, train={"seed": 1, "steps": 12}),
    "c": run(lr=3e-3, model={"tie_embeddings": True}),
    "d": run(lr=3e-2, beta1=0.5, train={"seed": 2}).model_copy(update={"data": DataConfig(seed=4)}),
}
WILD = run(lr=1e30, clip_norm=None, warmup_fraction=0.0)


def numbers(rows):
    return [{name: value for name, value in row.items() if name not in NOT_NUMBERS} for row in rows]


def alone(spec, tokens):
    return numbers(Trainer([spec], tokens))


def in_store(value):
    """An awaitable, as a reference into Ray's object store is one."""
    future = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


class Host:
    """A worker, and a driver of its trials that answers each row at once."""

    def __init__(self, folder, tokens, slots, costs=None):
        self.folder = RunFolder(folder)
        self.worker = SlotWorker(0, str(folder), slots, 2**40)
        self.shared = [in_store(tokens)]
        if costs is not None:
            self.worker._trainers.samples = lambda run: [ThroughputSample(slots, 1.0, 1.0, 0)]
            self.worker._trainers.costs = lambda run: costs

    async def submit(self, trial, spec, worker_deaths=0):
        self.folder.trial(trial).mkdir(parents=True, exist_ok=True)
        return await self.worker.submit(trial, trial, spec, self.shared, worker_deaths)

    async def rows(self, trial, spec, stop_at=None):
        """All rows of a trial that was submitted, up to step `stop_at`; then it is released."""
        rows = []
        try:
            while (rows[-1][col.STEP] if rows else 0) < (stop_at or spec.train.steps):
                rows.append(await self.worker.row(trial, rows[-1][col.STEP] if rows else 0))
        finally:
            await self.worker.release(trial)
        return rows

    async def all(self, runs):
        """Rows of every trial, or the error that it ended with."""
        for trial, spec in runs.items():
            await self.submit(trial, spec)
        results = await asyncio.gather(*(self.rows(*item) for item in runs.items()), return_exceptions=True)
        return dict(zip(runs, results, strict=True))


@pytest.fixture(autouse=True)
def _keeps_its_title_and_measures_quickly(monkeypatch):
    """A worker names its process, and this one is pytest's."""
    monkeypatch.setattr("lmcore.measure.throughput.MIN_SECONDS", 0.05)
    monkeypatch.setattr("sweeps.engine.training_loop.show_in_dashboard", lambda title: None)


@pytest.fixture
def drive(tmp_path, small_tokens):
    """Runs `scenario(host)` with a worker of `slots` slots, for 30 s at most: a fault here is an endless wait."""

    def drive(scenario, slots, costs=TOGETHER, tokens=small_tokens):
        async def hosted():
            host = Host(tmp_path, tokens, slots, costs)
            try:
                return await asyncio.wait_for(scenario(host), 240)
            finally:
                if host.worker._loop._task is not None:
                    host.worker._loop._task.cancel()
                    with suppress(asyncio.CancelledError, Exception):
                        await host.worker._loop._task
                host.worker._loop.device.shutdown()
                host.worker._loop.writer.close()

        return asyncio.run(hosted())

    return drive


@pytest.mark.parametrize("costs", [TOGETHER, Costs(1.0, 2.0)], ids=["batched", "one-by-one"])
def test_four_trials_in_two_slots_have_the_rows_of_their_runs_alone_bitwise(drive, small_tokens, costs):
    results = drive(lambda host: host.all(FOUR), slots=2, costs=costs)
    for trial, spec in FOUR.items():
        assert numbers(results[trial]) == alone(spec, small_tokens)
        assert {row[col.ENGINE] for row in results[trial]} == {0}
        assert all(row[col.BEGAN_AT] < row[col.REPORTED_AT] for row in results[trial])
        assert len({row[col.SLOT] for row in results[trial]}) == 1
    assert {row[col.SLOT] for rows in results.values() for row in rows} == {0, 1}


def test_without_a_number_of_slots_it_is_measured_how_many_pay(drive, small_tokens):
    async def scenario(host):
        samples = await host.worker.measure(FOUR["a"], host.shared)
        return samples, host.worker._trainers.slots(FOUR["a"]), await host.all(FOUR)

    samples, slots, results = drive(scenario, slots=None, costs=None)
    assert slots == worthwhile_slots(samples)
    for trial, spec in FOUR.items():
        assert numbers(results[trial]) == alone(spec, small_tokens)


def test_the_average_of_all_workers_overrides_what_this_one_measured(drive, small_tokens):
    agreed = [
        ThroughputSample(1, 1000.0, 1.0, 0),
        ThroughputSample(2, 1500.0, 1.5, 0),
        ThroughputSample(4, 2400.0, 1.6, 0),
        ThroughputSample(8, 2400.0, 1.0, 0),
    ]

    async def scenario(host):
        await host.worker.measure(FOUR["a"], host.shared)
        host.shared.append({FOUR["a"].static_signature: agreed})
        return await host.all(FOUR), host.worker._trainers

    results, trainers = drive(scenario, slots=None, costs=None)
    assert trainers.slots(FOUR["a"]) == 4
    interval_s = 5 * 4 * 16 / 1000.0  # updates, windows and their tokens
    assert trainers.costs(FOUR["a"]) == pytest.approx((interval_s, 4 * interval_s / 2.4))
    for trial, spec in FOUR.items():
        assert numbers(results[trial]) == alone(spec, small_tokens)


def test_trials_of_two_signatures_take_turns_and_keep_their_numbers(drive, small_tokens):
    other = {"d_ff": 128}
    runs = {**FOUR, "e": run(lr=1e-2, model=other), "f": run(lr=1e-3, model=other, train={"seed": 5})}
    results = drive(lambda host: host.all(runs), slots=2)
    for trial, spec in runs.items():
        assert numbers(results[trial]) == alone(spec, small_tokens)
    assert results["e"][0][col.REPORTED_AT] < max(row[col.REPORTED_AT] for row in results["a"] + results["b"])


def test_a_trial_that_is_stopped_frees_its_slot_and_the_refill_equals_its_run_alone(drive, small_tokens):
    async def scenario(host):
        for trial in "abc":
            await host.submit(trial, FOUR[trial])
        return await asyncio.gather(
            host.rows("a", FOUR["a"]), host.rows("b", FOUR["b"], stop_at=5), host.rows("c", FOUR["c"])
        )

    a, b, c = drive(scenario, slots=2)
    assert numbers(a) == alone(FOUR["a"], small_tokens)
    assert numbers(b) == alone(FOUR["b"], small_tokens)[:1]
    assert numbers(c) == alone(FOUR["c"], small_tokens)
    assert c[0][col.SLOT] == b[0][col.SLOT]
    assert c[0][col.BEGAN_AT] < a[-1][col.REPORTED_AT]  # it did not wait for the other to end


def test_a_trial_trains_no_further_than_one_row_beyond_what_the_driver_knows(drive):
    async def scenario(host):
        await host.submit("a", FOUR["a"])
        await host.submit("b", FOUR["b"])
        await host.worker.row("a", 0)
        await host.rows("b", FOUR["b"])
        return host.worker._loop.trials["a"].row[col.STEP]

    assert drive(scenario, slots=2) == 5


def test_a_worker_that_is_stopped_leaves_a_checkpoint_of_every_trial_and_trains_no_further(drive, small_tokens):
    rarely = {
        name: run(lr=lr, train={"steps": 2000, "checkpoint_every": 1000}) for name, lr in (("a", 1e-3), ("b", 1e-2))
    }

    async def scenario(host):
        for trial, spec in rarely.items():
            await host.submit(trial, spec)
        tasks = [asyncio.create_task(host.rows(trial, spec)) for trial, spec in rarely.items()]
        while min(host.worker._loop.trials[trial].known_step for trial in rarely) < 30:
            await asyncio.sleep(0.01)
        await asyncio.wait_for(host.worker.stop(), 120)
        known = {trial: host.worker._loop.trials[trial].known_step for trial in rarely}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        saved = {trial: read_checkpoint(checkpoint_files(host.folder.trial(trial))[-1])[1] for trial in rarely}
        return known, saved

    known, saved = drive(scenario, slots=2)
    for trial, spec in rarely.items():
        assert known[trial] <= saved[trial]["step"] <= known[trial] + 5
        last_row = numbers([saved[trial]["last_row"]])
        assert last_row == [row for row in alone(spec, small_tokens) if row[col.STEP] == saved[trial]["step"]]


def test_a_trial_that_nobody_asks_for_is_requeued_and_continues_from_its_checkpoint(drive, small_tokens, monkeypatch):
    monkeypatch.setattr("sweeps.engine.training_loop.UNASKED_S", 0.2)

    async def main(host):
        await host.submit("a", FOUR["a"])
        assert (await host.worker.row("a", 0))[col.STEP] == 5  # and its proxy dies before it asks again
        await host.submit("b", FOUR["b"])
        b = await asyncio.wait_for(host.rows("b", FOUR["b"]), 120)
        a = await asyncio.wait_for(host.rows("a", FOUR["a"]), 120)
        return a, b

    a, b = drive(main, slots=1)
    assert numbers(b) == alone(FOUR["b"], small_tokens)
    assert numbers(a)[-3:] == alone(FOUR["a"], small_tokens)[-3:]


def test_a_trial_that_cannot_be_saved_when_it_is_requeued_is_given_back_alone(drive, small_tokens, monkeypatch):
    monkeypatch.setattr("sweeps.engine.training_loop.UNASKED_S", 0.2)
    rare = run(lr=1e-2, train={"checkpoint_every": 20})

    async def main(host):
        await host.submit("a", rare)
        await host.worker.row("a", 0)
        host.folder.trial("a").rmdir()
        await host.submit("b", rare)
        b = await host.rows("b", rare)
        with pytest.raises(EnvironmentFaultError, match="a: FileNotFoundError"):
            await host.worker.row("a", 5)
        return b

    assert numbers(drive(main, slots=1)) == alone(rare, small_tokens)


def test_a_trial_that_is_released_at_any_moment_disturbs_nobody(drive, small_tokens):
    async def scenario(host):
        for trial in "abcd":
            await host.submit(trial, FOUR[trial])
        await host.worker.release("c")  # queued
        await host.worker.row("b", 0)
        waiting = asyncio.create_task(host.worker.row("b", 5))
        await asyncio.sleep(0.01)
        await host.worker.release("b")  # on the device, or about to be
        assert await waiting is None
        assert await host.worker.row("never", 0) is None
        return await asyncio.gather(host.rows("a", FOUR["a"]), host.rows("d", FOUR["d"]))

    a, d = drive(scenario, slots=2)
    assert numbers(a) == alone(FOUR["a"], small_tokens)
    assert numbers(d) == alone(FOUR["d"], small_tokens)


def test_a_trial_that_goes_to_nan_does_not_disturb_its_neighbours(drive, small_tokens):
    results = drive(lambda host: host.all({"a": FOUR["a"], "wild": WILD, "c": FOUR["c"]}), slots=3)
    assert not results["wild"][-1][col.TRAIN_LOSS] < 1e30
    assert len(results["wild"]) == 4
    for trial in "ac":
        assert numbers(results[trial]) == alone(FOUR[trial], small_tokens)


def test_a_trial_whose_signature_cannot_train_fails_alone_with_the_reason(drive, small_tokens):
    runs = {"a": FOUR["a"], "small": run(model={"vocab_size": 50}), "b": FOUR["b"]}
    results = drive(lambda host: host.all(runs), slots=2)
    assert isinstance(results["small"], RuntimeError)
    assert "Traceback" in str(results["small"])
    assert str(results["small"]).splitlines()[-1].startswith("lmcore.errors.InputError: model.vocab_size must cover")
    for trial in "ab":
        assert numbers(results[trial]) == alone(FOUR[trial], small_tokens)


@pytest.mark.parametrize("slots", [1, 2, None])
def test_a_trial_whose_batch_fits_into_no_memory_fails_alone_however_many_slots_are_wanted(drive, small_tokens, slots):
    runs = {"a": FOUR["a"], "huge": run(train={"batch_size": 2**40}), "b": FOUR["b"]}
    results = drive(lambda host: host.all(runs), slots=slots, costs=None)
    assert "memory" in str(results["huge"]) or "size" in str(results["huge"])
    for trial in "ab":
        assert not isinstance(results[trial], BaseException), results[trial]
        assert numbers(results[trial]) == alone(FOUR[trial], small_tokens)


@pytest.mark.parametrize("slots", [2, None])
def test_throughput_is_measured_in_the_device_thread_so_that_the_worker_answers_meanwhile(drive, monkeypatch, slots):
    threads = []

    class Watched(_Probe):
        def __init__(self, *arguments):
            threads.append(threading.current_thread().name)
            super().__init__(*arguments)

    monkeypatch.setattr("lmcore.measure.throughput._Probe", Watched)

    async def scenario(host):
        await host.worker.measure(run(model={"d_ff": 128}), host.shared)
        return await host.all({"a": FOUR["a"]})  # of a signature that another worker was asked to measure

    drive(scenario, slots=slots, costs=None)
    assert len(threads) >= 4
    assert {name.split("_")[0] for name in threads} == {"device"}


def test_a_checkpoint_of_other_data_is_skipped_and_told_of_once(drive, tmp_path, small_tokens):
    other = Trainer([FOUR["c"]], Tokens.of(small_tokens.train[1:], small_tokens.val, 97))
    other.advance()
    folder = RunFolder(tmp_path).trial("c")
    folder.mkdir(parents=True)
    other.save_slot(0, folder / "step-000000005.safetensors")

    async def scenario(host):
        results = await host.all({trial: FOUR[trial] for trial in "acd"})
        return results, await host.worker.heartbeat(), await host.worker.heartbeat()

    results, heartbeat, again = drive(scenario, slots=2)
    (note,) = heartbeat.notes
    assert note.startswith("c: a checkpoint was skipped (")
    assert "was trained on other data" in note
    assert again.notes == []
    for trial in "acd":
        assert numbers(results[trial]) == alone(FOUR[trial], small_tokens)


def test_a_full_disk_fails_no_trial_and_they_continue_when_there_is_space(drive, small_tokens, monkeypatch):
    monkeypatch.setattr("sweeps.engine.checkpoint_writer.RETRY_S", 0.05)

    space = threading.Event()

    async def scenario(host):
        really_save = host.worker._trainers.save

        def save(*arguments):
            if not space.is_set():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            really_save(*arguments)

        host.worker._trainers.save = save
        results = asyncio.create_task(host.all(FOUR))
        while (line := (await host.worker.heartbeat()).disk_full) is None:
            await asyncio.sleep(0.01)
        assert not results.done()
        space.set()
        return line, await results, (await host.worker.heartbeat()).disk_full

    line, results, later = drive(scenario, slots=2)
    assert line.endswith(" is full; free space there")
    assert later is None
    for trial, spec in FOUR.items():
        assert numbers(results[trial]) == alone(spec, small_tokens)


def test_a_trial_whose_folder_cannot_be_written_is_given_back_and_its_slot_is_used_again(drive, small_tokens):
    async def scenario(host):
        await host.submit("a", FOUR["a"])
        await host.worker.submit("homeless", "homeless", FOUR["b"], host.shared)  # it has no folder
        await host.submit("c", FOUR["c"])
        return await asyncio.gather(
            *(host.rows(trial, FOUR["a"]) for trial in ("a", "homeless", "c")), return_exceptions=True
        )

    a, homeless, c = drive(scenario, slots=2)
    assert isinstance(homeless, EnvironmentFaultError)
    assert "FileNotFoundError" in str(homeless)
    assert homeless.engine_is_well
    assert numbers(a) == alone(FOUR["a"], small_tokens)
    assert numbers(c) == alone(FOUR["c"], small_tokens)


def test_an_engine_whose_folder_is_gone_gives_its_trials_back_and_is_unfit(drive, tmp_path):
    async def scenario(host):
        host.worker._token = write_token(tmp_path)
        assert await host.worker.prove() is None
        await host.submit("a", FOUR["a"])
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()  # as where a network file system is no longer mounted
        with pytest.raises(EnvironmentFaultError) as fault:
            await host.rows("a", FOUR["a"])
        with pytest.raises(EnvironmentFaultError):
            await host.worker.submit("b", "b", FOUR["b"], host.shared)
        return fault.value, (await host.worker.heartbeat()).unfit

    fault, unfit = drive(scenario, slots=1)
    assert not fault.engine_is_well
    assert unfit.startswith(f"{tmp_path} is not there")


def test_an_engine_that_gives_back_three_trials_in_a_row_is_unfit_and_a_row_in_between_clears_it(drive):
    async def scenario(host):
        async def give_back(trial):
            await host.worker.submit(trial, trial, FOUR["a"], host.shared)  # it has no folder
            with pytest.raises(EnvironmentFaultError):
                await host.rows(trial, FOUR["a"])
            return (await host.worker.heartbeat()).unfit

        early = [await give_back(trial) for trial in ("x", "y")]
        await host.submit("c", FOUR["c"])
        await host.rows("c", FOUR["c"])
        return early + [await give_back(trial) for trial in ("u", "v", "w")]

    assert [unfit is None for unfit in drive(scenario, slots=1)] == [True, True, True, True, False]


@pytest.mark.parametrize("checkpoint_every", [None, 10])
def test_another_worker_continues_where_one_was_abandoned_and_repeats_no_row(
    drive, tmp_path, small_tokens, checkpoint_every
):
    runs = {
        trial: spec.model_copy(update={"train": spec.train.model_copy(update={"checkpoint_every": checkpoint_every})})
        for trial, spec in FOUR.items()
    }
    known = {trial: [] for trial in runs}

    async def abandoned(host):
        for trial, spec in runs.items():
            await host.submit(trial, spec)
        for step in (0, 5, 10):
            known["a"].append(await host.worker.row("a", step))
        known["b"].append(await host.worker.row("b", 0))
        await host.worker.row("b", 5)  # made, and perhaps saved, but its driver never had it

    async def rest(host, trial):
        await host.submit(trial, runs[trial])
        while (known[trial][-1][col.STEP] if known[trial] else 0) < runs[trial].train.steps:
            known[trial].append(await host.worker.row(trial, known[trial][-1][col.STEP] if known[trial] else 0))
        await host.worker.release(trial)

    async def continued(host):
        await asyncio.gather(*(rest(host, trial) for trial in "dcba"))

    drive(abandoned, slots=2)
    assert checkpoint_files(RunFolder(tmp_path).trial("a"))
    drive(continued, slots=2)
    for trial, spec in runs.items():
        assert numbers(known[trial]) == alone(spec, small_tokens)
        newest = checkpoint_files(RunFolder(tmp_path).trial(trial))[-1]
        assert read_checkpoint(newest)[1]["step"] == spec.train.steps


def test_a_damaged_newest_checkpoint_costs_an_interval_and_not_the_trial(drive, tmp_path, small_tokens):
    async def abandoned(host):
        await host.submit("a", FOUR["a"])
        for step in (0, 5):
            await host.worker.row("a", step)

    drive(abandoned, slots=1)
    newest = checkpoint_files(RunFolder(tmp_path).trial("a"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    assert numbers(drive(lambda host: host.all({"a": FOUR["a"]}), slots=1)["a"]) == alone(FOUR["a"], small_tokens)


def test_slots_stay_together_though_their_checkpoints_take_a_while_to_write(drive):
    """With a disk that takes 50 ms a file, every interval is still trained as one program."""

    async def scenario(host):
        save = host.worker._trainers.save
        host.worker._trainers.save = lambda *arguments: (time.sleep(0.05), save(*arguments))
        return await host.all({"a": FOUR["a"], "d": FOUR["d"]})

    results = drive(scenario, slots=2)
    assert [row[col.BEGAN_AT] for row in results["a"]] == [row[col.BEGAN_AT] for row in results["d"]]


def test_a_trial_whose_checkpoint_is_being_written_when_its_slots_are_given_up_continues(drive, small_tokens):
    async def scenario(host):
        save, advance = host.worker._trainers.save, host.worker._trainers.advance
        failed = []

        def slow_save(*arguments):
            time.sleep(0.2)
            save(*arguments)

        def advance_until_memory_is_short(shape, slots, batched):
            if not failed and host.worker._loop.trials["a"].row is not None:
                failed.append(True)
                raise MemoryError
            return advance(shape, slots, batched)

        host.worker._trainers.save = slow_save
        host.worker._trainers.advance = advance_until_memory_is_short
        return await host.all({trial: FOUR[trial] for trial in "abc"})

    results = drive(scenario, slots=3)
    for trial in "abc":
        assert numbers(results[trial]) == alone(FOUR[trial], small_tokens)


def slow_saves(host):
    """Slow down the writing of checkpoints; return the list of steps that will have been written, in order."""
    save, written = host.worker._trainers.save, []

    def slow_save(folder, snapshot):
        time.sleep(0.2)
        save(folder, snapshot)
        written.append(snapshot[1]["step"])

    host.worker._trainers.save = slow_save
    return written


def test_the_driver_decides_while_a_checkpoint_is_written_but_a_complete_trial_has_its_own(drive):
    async def scenario(host):
        written = slow_saves(host)
        await host.submit("a", FOUR["a"])
        seen = []
        for step in (0, 5, 10, 15):
            seen.append(((await host.worker.row("a", step))[col.STEP], list(written)))
        return seen

    # Never more than the checkpoint of one known row is missing.
    assert drive(scenario, slots=1) == [(5, []), (10, [5]), (15, [5, 10]), (20, [5, 10, 15, 20])]


def test_a_trial_that_ends_while_its_checkpoint_is_written_leaves_none(drive):
    async def scenario(host):
        written = slow_saves(host)
        await host.submit("a", FOUR["a"])
        await host.worker.row("a", 0)
        saving = host.worker._loop.trials["a"].saving
        await host.worker.release("a")
        await saving
        return written, checkpoint_files(host.folder.trial("a"))

    assert drive(scenario, slots=1) == ([5], [])


def test_after_a_bug_in_the_worker_itself_no_proxy_waits_for_ever(drive):
    async def scenario(host):
        host.worker._loop._table.next_work = lambda now: 1 / 0
        await host.submit("a", FOUR["a"])
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            await asyncio.wait_for(host.worker.row("a", 0), 120)
        await host.worker.release("a")
        await host.submit("b", FOUR["b"])
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            await asyncio.wait_for(host.worker.row("b", 0), 120)

    drive(scenario, slots=2)


def test_a_trial_whose_worker_died_trains_alone_until_its_next_row(drive, small_tokens):
    runs = {trial: FOUR[trial] for trial in "ad"}

    async def scenario(host):
        for trial, spec in runs.items():
            assert await host.submit(trial, spec, worker_deaths=1)
        return await asyncio.gather(*(host.rows(*item) for item in runs.items()))

    for (trial, spec), rows in zip(runs.items(), drive(scenario, slots=2), strict=True):
        assert [row[col.WIDTH] for row in rows] == [1, 2, 2, 2]
        assert numbers(rows) == alone(spec, small_tokens), trial


def test_a_death_is_charged_unless_the_interval_ends_and_an_error_is_none(tmp_path):
    for error in (None, MemoryError):
        with suppress(MemoryError), death_charged(tmp_path, 0):
            assert deaths(tmp_path) == 1
            if error:
                raise error
        assert deaths(tmp_path) == 0
    with death_charged(tmp_path / "missing", 0):
        pass


IDS = np.arange(6000) * 7 % 61
DEADLY = "b"


def test_a_trial_is_not_charged_with_workers_that_died_with_an_earlier_driver(tmp_path):
    folder = RunFolder(tmp_path).trial("a")
    folder.mkdir(parents=True)
    (folder / "engine_deaths.txt").write_text("engine 0 began an interval of this trial alone\n" * MAX_DEATHS)
    pool = WorkerPool.__new__(WorkerPool)  # starting one takes Ray
    pool._folder, pool._placement, pool.shared = RunFolder(tmp_path), Placement({"main": 1}), []
    pool._lock, pool._pausing = nullcontext(), {}
    pool._placement.add_worker(0)
    handle = SimpleNamespace(submit=SimpleNamespace(remote=lambda *arguments: None))
    pool._fleet = SimpleNamespace(engines={0: SimpleNamespace(handle=handle)})
    pool.submit(SimpleNamespace(id="a", name="a", size="main", run=FOUR["a"]), 0)
    assert deaths(folder) == 0


def live(folder, worker_deaths):
    """A worker's life in a process that `DEADLY` kills whenever it trains; each proxy keeps its rows in a file."""
    from sweeps.engine import training_loop

    training_loop.show_in_dashboard = lambda title: None

    async def proxy(host, trial):
        file = Path(folder, f"{trial}.json")
        rows = json.loads(file.read_text()) if file.exists() else []
        while (rows[-1][col.STEP] if rows else 0) < FOUR[trial].train.steps:
            row = await host.worker.row(trial, rows[-1][col.STEP] if rows else 0)
            if row is not None:
                rows.append(row)
                file.with_suffix(".part").write_text(json.dumps(rows))
                file.with_suffix(".part").replace(file)
            elif not await host.submit(trial, FOUR[trial], int(worker_deaths)):
                return
        await host.worker.release(trial)

    async def main():
        host = Host(Path(folder), Tokens.of(IDS[:4000], IDS[4000:], 61), 3, TOGETHER)
        trainers = host.worker._trainers
        advance = trainers.advance

        def kill_or_advance(signature, slots, batched):
            if any(trainers._trainers[signature].slots[k].run.optim == FOUR[DEADLY].optim for k in slots):
                os.kill(os.getpid(), signal.SIGKILL)
            return advance(signature, slots, batched)

        trainers.advance = kill_or_advance
        await asyncio.gather(*(proxy(host, trial) for trial in FOUR))

    asyncio.run(main())


def test_a_trial_that_kills_every_worker_is_refused_and_its_neighbours_complete_bitwise(tmp_path):
    code = "import sys; sys.path.insert(0, 'tests/sweeps'); import test_worker; test_worker.live(*sys.argv[1:])"
    for worker_deaths in range(10):
        life = [sys.executable, "-c", code, str(tmp_path), str(worker_deaths)]
        done = subprocess.run(life, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert worker_deaths == 1 + MAX_DEATHS  # in the batch, where nobody is charged, and alone
    tokens = Tokens.of(IDS[:4000], IDS[4000:], 61)
    for trial, spec in FOUR.items():
        charged = deaths(RunFolder(tmp_path).trial(trial))
        if trial == DEADLY:
            assert charged == MAX_DEATHS
            assert not (tmp_path / f"{trial}.json").exists()
        else:
            assert charged == 0
            assert numbers(json.loads((tmp_path / f"{trial}.json").read_text())) == alone(spec, tokens)


def test_the_worker_of_the_control_benchmark_answers_every_call_that_a_worker_does():
    from tests.bench.control import ReadyWorker

    calls = {name for name in vars(SlotWorker) if not name.startswith("_")}
    assert calls <= set(vars(ReadyWorker))


MEMORY_RUNS_OUT = """
import asyncio, resource, sys
import numpy as np
import torch
from lmcore.config import DataConfig, ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens
from lmcore.trainer import Trainer
sys.path.insert(0, "tests/sweeps")
import test_worker
from sweeps.engine.slot_table import Costs

test_worker.NOT_NUMBERS += ("slot",)
import sweeps.engine.training_loop
sweeps.engine.training_loop.show_in_dashboard = lambda title: None
torch.set_num_threads(1)
ids = np.arange(6000) * 7 % 61
tokens = Tokens.of(ids[:4000], ids[4000:], 61)
folder, slots, shapes, room_mib = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])


# Nearly all memory is what the feed-forward keeps: 2048 tokens x 2048 x 4 bytes = 16 MiB a slot and tensor.
def run(n):
    shape = {"vocab_size": 128 + 64 * (n % shapes), "context_length": 64}
    model = ModelConfig(d_model=16, num_layers=1, num_heads=2, d_ff=2048, **shape)
    train = TrainConfig(steps=4, batch_size=32, eval_every=2, eval_windows=2, device="cpu", dtype="float32", seed=n)
    return RunSpec(model=model, train=train, optim=OptimConfig(lr=10.0 ** -(n + 1)))


runs = {f"t{n}": run(n) for n in range(4)}
alone = {trial: test_worker.alone(spec, tokens) for trial, spec in runs.items()}


async def main():
    host = test_worker.Host(test_worker.Path(folder), tokens, slots, Costs(1.0, 1.2))
    await asyncio.get_running_loop().run_in_executor(host.worker._loop.device._executor, torch.zeros, 10)
    await asyncio.get_running_loop().run_in_executor(host.worker._loop.writer._thread._executor, torch.zeros, 10)
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + room_mib * 2**20, resource.RLIM_INFINITY))
    results = await asyncio.wait_for(host.all(runs), 120)
    for trial, rows in results.items():
        same = rows if isinstance(rows, BaseException) else test_worker.numbers(rows) == alone[trial]
        print(trial, same)
    print(host.worker._loop._table.signatures and "slots", sorted(host.worker._trainers._fitting.values()))
    print(*(await host.worker.heartbeat()).notes, sep="\\n")


asyncio.run(main())
"""


def out_of_memory(folder, slots, shapes, room_mib):
    """A real refusal by the kernel: an address space with `room_mib` MiB left, of which a slot takes about 35."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_RUNS_OUT, *map(str, (folder, slots, shapes, room_mib))],
        cwd=ROOT,
        env={"MALLOC_ARENA_MAX": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_where_memory_runs_out_the_slots_are_halved_and_every_trial_keeps_its_numbers(tmp_path):
    lines = out_of_memory(tmp_path, slots=4, shapes=1, room_mib=85)
    assert [line for line in lines if line.startswith("t")] == [f"t{n} True" for n in range(4)]
    assert "engine 0: out of memory, going on with half the slots" in lines


def test_where_memory_runs_out_as_slots_are_made_they_are_halved_as_well(tmp_path):
    lines = out_of_memory(tmp_path, slots=512, shapes=1, room_mib=85)  # 1.5 MiB of weights and moments each
    assert [line for line in lines if line.startswith("t")] == [f"t{n} True" for n in range(4)]


def test_tokens_that_the_object_store_does_not_give_are_read_from_the_runs_folder(drive, small_tokens, monkeypatch):
    monkeypatch.setattr(worker_module, "FETCH_S", 0.1)

    async def train(host):
        save_tokens(small_tokens, host.folder.tokens)
        host.shared = [asyncio.get_running_loop().create_future()]  # the node that has them does not answer
        return await host.all({"a": FOUR["a"]})

    assert numbers(drive(train, slots=1)["a"]) == alone(FOUR["a"], small_tokens)


async def paused_and_resumed(host, spec, other, third, at=10):
    """Rows of a trial that was paused after step `at` and continued in the other slot, and how its pause went."""
    await host.submit("a", spec)
    await host.submit("b", other)
    rows = [await host.worker.row("a", 0)]
    while rows[-1][col.STEP] < at:
        rows.append(await host.worker.row("a", rows[-1][col.STEP]))
    await host.worker.pause("a")
    files = [file.name for file in checkpoint_files(host.folder.trial("a"))]
    gone = "a" not in host.worker._loop.trials
    await host.submit("c", third)
    await host.worker.row("c", 0)  # it has the free slot, and keeps it
    b = await host.rows("b", other)
    await host.submit("a", spec)
    while rows[-1][col.STEP] < spec.train.steps:
        rows.append(await host.worker.row("a", rows[-1][col.STEP]))
    for trial in "ac":
        await host.worker.release(trial)
    return rows, b, files, gone


@pytest.mark.parametrize("every", [None, 1000])
def test_a_paused_trial_leaves_a_checkpoint_of_its_step_and_continues_in_another_slot_bitwise(
    drive, small_tokens, every
):
    runs = [run(lr=lr, train={"checkpoint_every": every, "seed": seed}) for seed, lr in enumerate((1e-2, 1e-3, 3e-3))]
    rows, b, files, gone = drive(lambda host: paused_and_resumed(host, *runs), slots=2)
    assert gone
    assert files[-1] == "step-000000010.safetensors"
    assert numbers(rows) == alone(runs[0], small_tokens)
    assert numbers(b) == alone(runs[1], small_tokens)
    assert [row[col.SLOT] for row in rows] == [0, 0, 1, 1]


def test_a_trial_that_is_paused_goes_on_at_another_worker_bitwise(tmp_path, small_tokens):
    async def main():
        first, second = Host(tmp_path, small_tokens, 1, TOGETHER), Host(tmp_path, small_tokens, 1, TOGETHER)
        await first.submit("a", FOUR["a"])
        row = await first.worker.row("a", 0)
        await first.worker.pause("a")
        await first.worker.pause("a")  # unknown by now
        await second.submit("a", FOUR["a"])
        rows = [row]
        while rows[-1][col.STEP] < FOUR["a"].train.steps:
            rows.append(await second.worker.row("a", rows[-1][col.STEP]))
        await second.worker.release("a")
        for host in (first, second):
            await host.worker.stop()
            host.worker._loop.device.shutdown()
            host.worker._loop.writer.close()
        return rows

    assert numbers(asyncio.run(main())) == alone(FOUR["a"], small_tokens)


def test_a_pause_that_cannot_be_saved_frees_the_slot_and_says_so(drive, monkeypatch):
    async def scenario(host):
        spec = run(lr=1e-2, train={"checkpoint_every": 1000})
        await host.submit("a", spec)
        await host.worker.row("a", 0)

        def broken(*_):
            raise ValueError("no")

        monkeypatch.setattr(host.worker._trainers, "unsaved", broken)
        await host.worker.pause("a")
        return (await host.worker.heartbeat()).notes, "a" in host.worker._loop.trials

    notes, there = drive(scenario, slots=1)
    assert notes == ["a: no checkpoint could be written when it was paused (no)"]
    assert not there
