"""What a terminal shows while a sweep runs fits its width and height: nothing wraps, and what is left out is named."""

import io

import pytest
from rich.console import Console

from lmcore import columns as col
from sweeps.callbacks.progress_view import Best, RunningTrial, Snapshot, about, summary, view

ROW = {col.STEP: 20, col.VAL_LOSS: 6.426, col.TRAIN_LOSS: 7.1426, col.TOKENS_PER_S: 1638.0, col.LR: 4.16e-3}
TRIALS = (
    RunningTrial("s-untied-0004", 200, ROW),
    RunningTrial("s-untied-confirm-0001 of s-untied-0003", 200, ROW),
    RunningTrial("xs-tied-0000", 40),
)
NOW = Snapshot(
    ended={col.COMPLETE: 2, col.PRUNED: 1, col.FAILED: 0},
    planned=16,
    running=2,
    queued=1,
    paused=0,
    idle=0,
    best=[Best("s-untied", 4.52, "s-untied-0003"), Best("xs-untied", 4.71, "xs-untied-0001")],
    tokens_per_s=12345.0,
    share=0.378,
    seconds_left=250.0,
    trials=TRIALS,
)
GOLDEN = {
    60: """\
━━━━━━━━╸                 37%  3/16 trials  about 4m10s left
best s-untied 4.5200, xs-untied 4.7100, 12,345 tokens/s
trial                               step  val_loss  tokens/s
s-untied-0004                     20/200    6.4260     1,638
s-untied-confirm-0001 of s-unt…   20/200    6.4260     1,638
xs-tied-0000                     waiting
too narrow for train_loss, lr""",
    80: """\
━━━━━━━╸                37%  3/16 trials  about 4m10s left  best s-untied 4.5200
12,345 tokens/s, 2 running, 1 queued, 2 complete, 1 pruned
trial                             step  val_loss  tokens/s  train_loss        lr
s-untied-0004                   20/200    6.4260     1,638      7.1426  4.16e-03
s-untied-confirm-0001 of s-u…   20/200    6.4260     1,638      7.1426  4.16e-03
xs-tied-0000                   waiting""",
    140: """\
━━━━╸           37%  3/16 trials  about 4m10s left  best s-untied 4.5200 (s-untied-0003), \
xs-untied 4.7100 (xs-untied-0001)  12,345 tokens/s
2 running, 1 queued, 2 complete, 1 pruned
trial                                      step  val_loss  tokens/s  train_loss        lr
s-untied-0004                            20/200    6.4260     1,638      7.1426  4.16e-03
s-untied-confirm-0001 of s-untied-0003   20/200    6.4260     1,638      7.1426  4.16e-03
xs-tied-0000                            waiting""",
    200: """\
━━━━━━━━━━━━━━━                            37%  3/16 trials  about 4m10s left  best s-untied 4.5200 (s-untied-0003), \
xs-untied 4.7100 (xs-untied-0001)  12,345 tokens/s
2 running, 1 queued, 2 complete, 1 pruned
trial                                      step  val_loss  tokens/s  train_loss        lr
s-untied-0004                            20/200    6.4260     1,638      7.1426  4.16e-03
s-untied-confirm-0001 of s-untied-0003   20/200    6.4260     1,638      7.1426  4.16e-03
xs-tied-0000                            waiting""",
}


def lines_of(now, width, height=24):
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(view(now, width, height))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", GOLDEN)
def test_at_60_80_140_and_200_columns_the_most_important_is_there(width):
    assert lines_of(NOW, width) == GOLDEN[width].splitlines()


@pytest.mark.parametrize("best", [(), NOW.best], ids=["none", "two"])
@pytest.mark.parametrize("share", [None, 0.0, 1.0])
def test_at_every_width_each_line_fits_and_no_number_is_cut(best, share):
    now = Snapshot(**{**vars(NOW), "best": best, "share": share})
    for width in range(50, 201):
        found = lines_of(now, width)
        assert max(map(len, found)) <= width
        heading = next(line for line in found if line.startswith("trial")).split()
        told = found[-1].removeprefix("too narrow for ") if found[-1].startswith("too narrow") else ""
        assert {*heading[1:], *filter(None, told.split(", "))} == {"step", "val_loss", "tokens/s", "train_loss", "lr"}
        cells = next(line for line in found if line.startswith("s-untied-0004")).split()
        assert cells[1:] == ["20/200", "6.4260", "1,638", "7.1426", "4.16e-03"][: len(cells) - 1]
        assert len(cells) == len(heading)
        assert "3/16 trials" in found[0]
        assert "about 4m10s left" in found[0]


def test_a_low_terminal_shows_as_many_trials_as_fit_and_says_how_many_more_there_are():
    many = Snapshot(**{**vars(NOW), "trials": [RunningTrial(f"xs-{n:04}", 200, ROW) for n in range(30)]})
    found = lines_of(many, 100, height=12)
    assert len(found) <= 11
    assert [line.split()[0] for line in found[3:-1]] == [f"xs-{n:04}" for n in range(6)]
    assert found[-1] == "and 24 more trials"
    assert len(lines_of(many, 100, height=5)) == 2


def test_the_best_experiment_is_told_by_its_name():
    one = Snapshot(**{**vars(NOW), "best": [Best("main", 4.52, "main-0005", "post-norm")]})
    assert "  best post-norm 4.5200" in lines_of(one, 120)[0]
    assert "best post-norm 4.5200, " in summary(one)
    sized = Snapshot(**{**vars(NOW), "best": [Best("xs", 4.52, "xs-0005", "post-norm")]})
    assert "best xs post-norm 4.5200, " in summary(sized)


def test_a_log_has_the_same_content_in_one_line_without_control_characters():
    assert summary(NOW) == (
        "3/16 trials (2 complete, 1 pruned), 37% trained, 2 running, 1 queued, best s-untied 4.5200 (s-untied-0003), "
        "xs-untied 4.7100 (xs-untied-0001), 12,345 tokens/s, about 4m10s left"
    )


def test_hours_are_told_without_seconds():
    assert [about(seconds) for seconds in (0.2, 59.6, 3599.0, 3629.0, 7380.0)] == ["0s", "1m", "59m59s", "1h", "2h3m"]


def test_colour_is_used_where_a_terminal_has_it_and_not_with_no_color(monkeypatch):
    def shown():
        console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
        console.print(view(NOW, 100, 24))
        return console.file.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31m" in shown() or "\x1b[35m" in shown() or "\x1b[91m" in shown()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in shown()
