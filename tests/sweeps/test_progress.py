"""The terminal shows trials done and running, the best so far, tokens/s and the time left."""

import io
import re
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from rich.console import Console

from lmcore import columns as col
from lmcore.device import training_flops
from sweeps.callbacks.progress import Progress
from sweeps.callbacks.progress_view import Best, about, summary
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger

PARAMS = "(lr 0.00123, tie_embeddings true)"


@pytest.fixture
def clock(monkeypatch):
    """The time that progress sees: `clock.now`, in seconds."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("sweeps.callbacks.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def ledger():
    """One trial each of three sizes: xs-0000, s-0000, m-0000."""
    spec = SweepSpec.model_validate(
        {
            "name": "progress",
            "train": {"steps": 40},
            "search": {"method": "grid", "scheduler": "none"},
            "space": {"optim.lr": [1.2345e-3], "model.tie_embeddings": [True]},
            "sizes": [{"name": name} for name in ("xs", "s", "m")],
        }
    )
    return Ledger(spec, optuna.storages.InMemoryStorage())


def row(step, val_loss, tokens=0):
    return {
        col.STEP: step,
        col.TOKENS: tokens,
        col.TRAIN_LOSS: 4.0,
        col.VAL_LOSS: val_loss,
        col.VAL_LOSS_SE: 0.01,
        col.GRAD_NORM: 1.0,
        col.LR: 1e-3,
        col.TOKENS_PER_S: 1234.0,
        col.ELAPSED_S: float(step),
    }


class Sweep:
    """Reports a sweep's events to the ledger and to a `Progress` of `total` trials, as searcher and scheduler do."""

    def __init__(self, ledger, total=4, slots=2, queued=0, **console):
        self.file = io.StringIO()
        console = Console(**{"file": self.file, "width": 200, **console})
        self.progress = Progress(console, lambda: total, lambda: (slots, queued))
        self.ledger = ledger

    def begin(self):
        live = self.ledger.ask(self.ledger.sizes_left[0])
        self.progress.on_trial_start(live)
        return live

    def report(self, live, *values):
        self.ledger.report(live.id, row(*values))
        self.progress.on_report(live, row(*values))

    def end(self, live):
        self.progress.on_trial_end(self.ledger.end(live.id))

    @property
    def lines(self):
        """What was printed since this was last read."""
        text = self.file.getvalue()
        self.file.seek(0)
        self.file.truncate()
        return text.splitlines()


def test_each_trials_end_is_a_line_with_status_loss_and_parameters(clock, ledger):
    sweep = Sweep(ledger)
    with sweep.progress:
        good, bad, odd = (sweep.begin() for _ in range(3))
        sweep.report(good, 40, 3.51234)
        sweep.end(good)
        assert sweep.lines == [f"xs-0000  complete val_loss 3.5123 at step 40  {PARAMS}"]
        sweep.report(bad, 10, float("nan"))
        sweep.end(bad)
        assert sweep.lines == [f"s-0000   diverged val_loss is nan at step 10  {PARAMS}"]
        ledger.fail(odd.id, "OSError: [Errno 5] cannot read [/data/x] :warning: [bold]", "")  # before any row
        sweep.end(odd)
        assert sweep.lines == [f"m-0000   failed   OSError: [Errno 5] cannot read [/data/x] :warning: [bold]  {PARAMS}"]


def test_the_final_loss_is_the_one_that_is_quoted(clock, ledger):
    sweep = Sweep(ledger)
    with sweep.progress:
        live = sweep.begin()
        last = row(40, 3.51234) | {col.FINAL_VAL_LOSS: 3.49876}
        ledger.report(live.id, last)
        sweep.progress.on_report(live, last)
        sweep.end(live)
    assert sweep.lines == [f"xs-0000  complete final_val_loss 3.4988 at step 40  {PARAMS}"]
    assert "best xs 3.4988 (xs-0000)" in summary(sweep.progress.snapshot())


def test_an_interrupted_trial_is_not_shown_as_ended(clock, ledger):
    sweep = Sweep(ledger)
    with sweep.progress:
        live = sweep.begin()
        sweep.report(live, 10, 4.0)
        sweep.end(live)
    assert sweep.lines == []


def test_a_summary_is_printed_every_15_s_with_the_current_numbers(clock, ledger):
    sweep = Sweep(ledger)
    first, second = sweep.begin(), sweep.begin()
    sweep.report(first, 10, 4.0, 3000)
    assert sweep.lines == []
    clock.now += 20
    sweep.report(first, 20, 3.9, 6000)  # two reports of 3000 tokens each, the first of which took 10 s: 6000 in 30 s
    assert sweep.lines == ["0/4 trials, 2 running, best none yet, 200 tokens/s, time left not known yet"]
    clock.now += 10
    sweep.report(first, 40, 3.5, 9000)
    sweep.end(first)
    assert len(sweep.lines) == 1
    clock.now += 10
    sweep.report(second, 20, 3.2, 7000)  # 9000 + 7000 tokens in 50 s
    (line,) = sweep.lines
    counts = "1/4 trials (1 complete), 1 running, 1 slot idle"
    assert line == f"{counts}, best xs 3.5000 (xs-0000), 320 tokens/s, time left not known yet"
    clock.now += 65
    sweep.report(second, 30, 3.1, 10_000)  # only the last 60 s count: 3000 tokens in an interval of 10 s
    (line,) = sweep.lines
    assert "300 tokens/s" in line


def test_trials_that_wait_for_a_slot_are_shown_as_queued(ledger, clock):
    sweep = Sweep(ledger, slots=1, queued=1)
    first = sweep.begin()
    sweep.begin()
    clock.now += 20
    sweep.report(first, 20, 3.9, 6000)
    assert sweep.lines == ["0/4 trials, 1 running, 1 queued, best none yet, 300 tokens/s, time left not known yet"]


def test_the_best_of_a_size_is_its_lowest_complete_trial(clock):
    spec = SweepSpec.model_validate(
        {
            "name": "best",
            "train": {"steps": 40},
            "search": {"method": "random", "scheduler": "none", "trials": 4},
            "space": {"optim.lr": {"low": 1e-3, "high": 1e-2}},
        }
    )
    sweep = Sweep(Ledger(spec, optuna.storages.InMemoryStorage()))
    for steps, loss in [(40, 3.7), (40, 3.5), (40, 3.6), (10, 99.0)]:
        live = sweep.begin()
        sweep.report(live, steps, loss)
        sweep.end(live)
    clock.now += 15
    sweep.progress.on_report(live, row(10, 1.0))
    counts = "4/4 trials (3 complete, 1 diverged), 1 running, 1 slot idle"
    assert sweep.lines[-1].startswith(f"{counts}, best main 3.5000 (main-0001)")
    assert sweep.lines == []


def test_a_terminal_shows_the_running_trials_below_the_lines_of_the_ended_ones(clock, ledger, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    sweep = Sweep(ledger, force_terminal=True)
    with sweep.progress:
        first, second, _ = (sweep.begin() for _ in range(3))
        sweep.report(first, 40, 3.5, 9000)
        sweep.end(first)
        clock.now += 10
        sweep.report(second, 20, float("nan"), 7000)
        clock.now += 61  # in which nothing arrives
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in sweep.lines]
    assert f"xs-0000  complete val_loss 3.5000 at step 40  {PARAMS}" in plain
    place = max(i for i, line in enumerate(plain) if line.startswith("1/4 trials"))
    assert plain[place].split("  ")[1:3] == ["time left not known yet", "best xs 3.5000 (xs-0000)"]
    assert plain[place + 1] == "2 running, 1 complete"
    table = [line.split() for line in plain[place + 2 :]]
    assert table[:3] == [
        ["trial", "step", "val_loss", "tokens/s", "train_loss", "lr"],
        ["s-0000", "20/40", "nan", "1,234", "4.0000", "1.00e-03"],
        ["m-0000", "waiting"],
    ]


def test_a_complete_trial_is_compared_with_the_best_on_the_windows_that_both_saw(clock):
    spec = SweepSpec.model_validate(
        {
            "name": "progress",
            "train": {"steps": 40},
            "search": {"method": "grid", "scheduler": "none"},
            "space": {"optim.lr": [1e-3, 2e-3, 3e-3]},
        }
    )
    sweep = Sweep(Ledger(spec, optuna.storages.InMemoryStorage()), total=3)
    hard = np.random.default_rng(0).normal(4, 1, 27)  # windows differ in how hard they are
    with sweep.progress:
        for shift, ending in (
            (0.0, ")"),
            (0.25, ", +0.250 +- 0.000 against main-0000"),
            (-0.5, ", -0.500 +- 0.000 against"),
        ):
            live = sweep.begin()
            losses = list(hard + shift)
            reported = row(40, float(np.mean(losses))) | {col.WINDOW_LOSSES: losses}
            sweep.ledger.report(live.id, reported)
            sweep.progress.on_report(live, reported)
            sweep.end(live)
            (line,) = sweep.lines
            assert ending in line
            assert ("against" in line) == (shift != 0.0)


def test_paused_trials_are_counted_beside_the_running_ones_until_they_go_on_or_are_given_up(clock):
    spec = SweepSpec.model_validate(
        {
            "name": "progress",
            "train": {"steps": 40, "eval_every": 10},
            "search": {"method": "grid", "scheduler": "asha"},
            "space": {"optim.lr": [1e-3, 2e-3, 3e-3, 4e-3]},
        }
    )
    sweep = Sweep(Ledger(spec, optuna.storages.InMemoryStorage()), slots=4)
    sweep.ledger.on_given_up = sweep.progress.on_trial_end
    with sweep.progress:
        first, *others = (sweep.begin() for _ in range(4))
        sweep.report(first, 10, 3.0)
        for number, live in enumerate(others):
            sweep.report(live, 10, 3.1 + number)
            sweep.end(live)
        assert [line.split()[1] for line in sweep.lines] == [col.PAUSED] * 3
        clock.now += 15
        sweep.report(first, 20, 2.9)
        assert sweep.lines[-1].startswith("0/4 trials, 1 running, 3 paused, 3 slots idle")
        again = sweep.begin()
        assert again is others[0]
        sweep.report(again, 20, float("nan"))
        sweep.end(again)
        sweep.report(first, 40, 2.8)
        sweep.end(first)
        while sweep.ledger.sizes_left:
            live = sweep.begin()
            sweep.report(live, 20, 3.5)
            sweep.end(live)
        clock.now += 15
        sweep.progress.on_report(first, row(40, 2.8))
    assert sweep.lines[-1].startswith("4/4 trials (1 complete, 2 pruned, 1 diverged), 1 running")


def test_the_time_left_is_there_before_the_first_report_if_the_speed_was_measured(clock, ledger):
    file = io.StringIO()
    flops = sum(training_flops(ledger.spec.run_for(size, {})) for size in ledger.spec.size_names)
    progress = Progress.of(ledger, Console(file=file, width=200), lambda: (2, 0), flops_per_s=flops / 600)
    with progress:
        assert "0/3 trials, 0% trained, " in summary(progress.snapshot())
        assert summary(progress.snapshot()).endswith(", about 10m left")
        live = ledger.ask("m")
        progress.on_trial_start(live)
        clock.now += 20
        ledger.report(live.id, row(20, 3.9, 20 * live.run.tokens_per_step))
        progress.on_report(live, live.last_row)
        left = sum(training_flops(ledger.spec.run_for(size, {})) for size in ("xs", "s")) + live.flops_left
        # It did the other half of its FLOPs in 20 s.
        seconds = 20 * left / live.flops_left
        assert f"about {about(seconds)} left" in file.getvalue()
        assert f", {int(100 * (flops - left) / flops)}% trained, " in file.getvalue()


def test_on_resume_what_was_trained_before_does_not_count_as_speed(clock, ledger):
    live = ledger.ask("xs")
    live.last_row = row(20, 3.9, 5000)
    sweep = Sweep(ledger)
    sweep.progress.on_trial_start(live)
    sweep.report(live, 30, 3.8, 6000)
    assert summary(sweep.progress.snapshot()).count(" 100 tokens/s") == 1  # 1000 tokens in 10 s


def test_the_best_experiment_has_its_name_and_so_it_has_on_resume(clock):
    spec = SweepSpec.model_validate(
        {
            "name": "ablation",
            "train": {"steps": 40},
            "search": {"method": "experiments", "scheduler": "none"},
            "experiments": [{"name": "baseline"}, {"name": "post-norm", "optim.lr": 1e-3}],
        }
    )
    ledger = Ledger(spec, optuna.storages.InMemoryStorage())
    sweep = Sweep(ledger)
    for loss in (3.5, 3.4):
        live = sweep.begin()
        sweep.report(live, 40, loss)
        sweep.end(live)
    assert "best post-norm 3.4000, " in summary(sweep.progress.snapshot())
    again = Progress.of(Ledger(spec, ledger.storage), Console(file=io.StringIO()), lambda: (1, 0))
    assert again.snapshot().best == [Best("main", 3.4, "main-0001", "post-norm")]


@pytest.mark.parametrize("width", [60, 80])
def test_on_a_narrow_terminal_an_ended_trial_wraps_between_words(clock, ledger, width, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    sweep = Sweep(ledger, force_terminal=True, width=width, color_system=None)
    live = sweep.begin()
    sweep.report(live, 40, 3.5)
    ledger.fail(live.id, "OSError: cannot read the file of [/tokens] in this folder, as nobody may do that", "")
    sweep.end(live)
    lines = sweep.lines
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert (
        words
        == (
            f"xs-0000 failed OSError: cannot read the file of [/tokens] in this folder, as nobody may do that {PARAMS}"
        ).split()
    )


def test_a_dumb_terminal_has_plain_lines(clock, ledger, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    sweep = Sweep(ledger, force_terminal=True)
    with sweep.progress:
        live = sweep.begin()
        clock.now += 20
        sweep.report(live, 20, 3.9, 6000)
    assert sweep.lines == ["0/4 trials, 1 running, 1 slot idle, best none yet, 300 tokens/s, time left not known yet"]
