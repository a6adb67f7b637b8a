"""search.time and search.stop_at: what still fits is begun, what does not is not, and the end says why."""

import io
import math

import optuna
import pytest
from pydantic import ValidationError
from rich.console import Console

from lmcore import columns as col
from lmcore.device import training_flops
from lmcore.errors import InputError
from lmcore.runfile.paths import describe
from sweeps.callbacks.progress import Progress
from sweeps.callbacks.progress_view import summary
from sweeps.provenance.resume import resumed_spec
from sweeps.rundir.folder import RunFolder, write_text
from sweeps.spec.duration import parse_duration, show_duration
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml
from sweeps.study.deadline import Deadline
from sweeps.study.ledger import Ledger
from sweeps.study.storage import quiet_optuna

FLOPS = 1e12  # of a trial of these tests


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def after_one_trial(clock, seconds, took=10.0):
    deadline = Deadline(seconds, clock)
    for _ in range(8):
        clock.now += took / 8
        deadline.add_training(FLOPS / 8, took / 8)
    return deadline


def test_before_anything_is_known_everything_fits_until_time_is_over(clock):
    deadline = Deadline(60.0, clock)
    assert deadline.flops_per_s is None
    assert deadline.fits(1e30, [1e30], 1e30)
    clock.now += 60.0
    assert not deadline.fits(1.0)


def test_without_a_limit_everything_fits_always(clock):
    deadline = after_one_trial(clock, None)
    clock.now += 1e9
    assert deadline.fits(1e30, [1e30], 1e30)


def test_a_trial_fits_exactly_as_long_as_it_can_finish(clock):
    deadline = after_one_trial(clock, 60.0)
    assert deadline.flops_per_s == FLOPS / 10
    assert deadline.fits(5 * FLOPS)
    assert not deadline.fits(5.01 * FLOPS)
    clock.now += 40.0
    assert deadline.fits(FLOPS)
    clock.now += 0.1
    assert not deadline.fits(FLOPS)


def test_starting_ray_is_part_of_the_time_but_not_of_the_speed(clock):
    deadline = Deadline(60.0, clock)
    clock.now += 30.0
    clock.now += 10.0
    deadline.add_training(FLOPS, 10.0)
    assert deadline.flops_per_s == FLOPS / 10
    assert deadline.fits(2 * FLOPS)
    assert not deadline.fits(2.01 * FLOPS)


def test_trials_that_run_side_by_side_share_the_speed(clock):
    deadline = after_one_trial(clock, 60.0)
    assert deadline.fits(FLOPS, [FLOPS] * 4)  # five trials at once take 50 s
    assert not deadline.fits(FLOPS, [FLOPS] * 5)
    # When they are about to end, the engines are as many as before: a trial has a sixth of their speed.
    assert deadline.fits(0.8 * FLOPS)
    assert not deadline.fits(0.9 * FLOPS)


def test_the_speed_is_not_known_before_every_place_has_reported(clock):
    deadline = Deadline(60.0, clock)
    assert deadline.fits(FLOPS, [FLOPS] * 2)
    for _ in range(2):
        clock.now += 10.0
        deadline.add_training(FLOPS, 10.0)
        assert deadline.flops_per_s is None
    deadline.add_training(FLOPS, 10.0)
    assert deadline.flops_per_s == pytest.approx(3 * FLOPS / 20)


def test_large_trials_that_run_are_waited_for_and_what_is_reserved_is_kept_free(clock):
    deadline = after_one_trial(clock, 60.0)
    assert deadline.fits(FLOPS, [4 * FLOPS])
    assert not deadline.fits(FLOPS, [4.1 * FLOPS])
    assert deadline.fits(FLOPS, [FLOPS], reserved_flops=3 * FLOPS)
    assert not deadline.fits(FLOPS, [FLOPS], reserved_flops=3.1 * FLOPS)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("2h", 7200), ("1h30m", 5400), ("90m", 5400), ("45s", 45), ("1h 5s", 3605), ("0.5h", 1800), (90, 90), ("90", 90)],
)
def test_a_duration_is_written_as_people_write_it(tmp_path, written, seconds):
    assert parse_duration(written) == seconds
    assert parse_duration(show_duration(seconds)) == seconds
    path = tmp_path / "a.yaml"
    path.write_text(f"search: {{trials: 1, time: {written}}}")
    spec = load_spec(path)
    assert spec.search.time == seconds
    assert load_spec(path, time="3m").search.time == 180
    path.write_text(dump_yaml(spec))
    assert load_spec(path) == spec


@pytest.mark.parametrize("wrong", ["soon", "2 days", "-5m", "", "h", 0, -1, True, "1m2h", "nan", math.inf])
def test_what_is_no_duration_is_refused_in_one_line(wrong):
    with pytest.raises(ValidationError) as error:
        SweepSpec.model_validate({"name": "a", "search": {"trials": 1, "time": wrong}})
    message = str(describe(error.value))
    assert message.startswith("search.time: must be a duration above 0 (got ")
    assert message.endswith("; write for example 2h, 1h30m, 90m or 45s")


def test_a_wrong_duration_on_the_command_line_names_the_option(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("search: {trials: 1}")
    with pytest.raises(InputError, match=r"^--time: must be a duration above 0 \(got 'soon'\)"):
        load_spec(path, time="soon")


def spec(**search):
    return SweepSpec.model_validate(
        {
            "name": "timed",
            "train": {"steps": 40, "eval_every": 10},
            "search": {"method": "random", "scheduler": "none", **search},
            "space": {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}},
            "sizes": [{"name": "xs", "model.d_model": 64}, {"name": "s"}],
        }
    )


def drive(ledger, clock, loss=lambda live: 3.0, seconds_per_flop=1e-11):
    """Train one trial after the other, at 1e11 FLOP/s; ids of the trials that ended."""
    ended = []
    while sizes := ledger.sizes_left:
        live = ledger.ask(sizes[0])
        for step in (10, 20, 30, 40):
            interval = training_flops(live.run) / 4 * seconds_per_flop
            clock.now += interval
            row = {
                col.ELAPSED_S: step / 10 * interval,
                col.STEP: step,
                col.TRAIN_LOSS: 3.0,
                col.VAL_LOSS: loss(live) + 1 / step,
            }
            ledger.report(live.id, row)
        ended.append(ledger.end(live.id).id)
    return ended


def ledger_of(spec, clock):
    quiet_optuna()
    return Ledger(spec, optuna.storages.InMemoryStorage(), deadline=Deadline(spec.search.time, clock))


def test_a_sweep_without_a_number_of_trials_has_as_many_as_fit(clock):
    timed = spec(time=100.0)
    assert timed.as_many_as_fit
    book = ledger_of(timed, clock)
    began = clock.now
    ended = drive(book, clock)
    pair = sum(training_flops(timed.run_for(size, {})) for size in timed.size_names) * 1e-11
    assert len(ended) == pytest.approx(2 * 100 / pair, abs=2)
    assert clock.now - began <= 100.0
    assert abs(sum(trial.startswith("xs") for trial in ended) - len(ended) / 2) <= 1.5
    assert book.why_stopped() == [
        f"{size}: one more trial would not have finished within search.time, 1m40s" for size in timed.size_names
    ]


def test_a_number_of_trials_is_the_most_that_a_timed_sweep_has(clock):
    book = ledger_of(spec(time=1e9, trials=3), clock)
    assert len(drive(book, clock)) == 3
    assert book.why_stopped() == []
    assert len(drive(ledger_of(spec(time=20.0, trials=300), clock), clock)) < 20


def test_listed_trials_are_all_there_are_however_long_the_time(clock):
    fields = spec(method="grid", time=1e9).model_dump()
    grid = SweepSpec.model_validate({**fields, "space": {"optim.lr": [0.1, 0.2]}})
    assert not grid.as_many_as_fit
    assert len(drive(ledger_of(grid, clock), clock)) == 4


def test_a_study_that_reached_its_target_asks_for_no_more_trials_and_others_go_on(clock):
    book = ledger_of(spec(trials=8, stop_at=2.5), clock)
    ended = drive(book, clock, loss=lambda live: 2.0 if live.size == "xs" else 3.0)
    assert sorted(ended) == ["s-0000", "s-0001", "s-0002", "s-0003", "xs-0000"]
    assert book.why_stopped() == ["xs: the target was reached, search.stop_at 2.5"]


def confirmed(**search):
    fields = spec(**search).model_dump()
    compare = {"compare": ["model.tie_embeddings"], "confirm": {"top": 2, "seeds": 3}, "sizes": []}
    space = {**fields["space"], "model.tie_embeddings": [False, True]}
    return SweepSpec.model_validate({**fields, **compare, "space": space})


def test_a_timed_search_leaves_time_for_its_confirmation(clock):
    timed = confirmed(time=1000.0)
    book = ledger_of(timed, clock)
    began = clock.now
    ended = drive(book, clock)
    assert book.over
    assert clock.now - began <= 1000.0
    searched = [trial for trial in ended if "confirm" not in trial]
    assert len(ended) - len(searched) >= 2 * 2  # one run of every candidate at least
    trial_s = training_flops(timed.run_for("main", {})) * 1e-11
    assert len(searched) == pytest.approx(1000 / trial_s - 2 * 2 * 3, abs=2)
    assert book.planned == len(ended)


def test_a_study_that_reached_its_target_is_confirmed(clock):
    book = ledger_of(confirmed(trials=20, stop_at=3.5), clock)
    ended = drive(book, clock)
    assert book.over
    assert [trial for trial in ended if "confirm" not in trial] == ["main-untied-0000", "main-tied-0000"]
    assert {trial.rpartition("-")[0] for trial in ended[2:]} == {"main-untied-confirm", "main-tied-confirm"}
    assert len(book.why_stopped()) == 2


def test_time_and_target_may_change_when_a_sweep_is_resumed(in_tmp):
    folder = RunFolder.named("timed")
    write_text(folder.sweep_yaml, dump_yaml(spec(time=60.0)))
    assert resumed_spec(folder, ("search.stop_at=2.5",), time="1h").search.time == 3600
    assert resumed_spec(folder, (), trials=5).search.trials == 5


def test_progress_without_a_number_of_trials_shows_how_many_have_ended():
    file = io.StringIO()
    progress = Progress(Console(file=file, width=200), lambda: None, lambda: (2, 0), ended=[col.COMPLETE] * 3)
    assert summary(progress.snapshot()).startswith("3 trials (3 complete), 0 running")
    assert "left" not in summary(progress.snapshot())
    limited = Progress(Console(file=file), lambda: None, lambda: (2, 0), limit=lambda: 90.0)
    assert summary(limited.snapshot()).endswith(", about 1m30s left")
