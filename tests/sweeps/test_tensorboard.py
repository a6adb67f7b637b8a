"""What the TensorBoard tracker writes, as TensorBoard's own reader finds it."""

import pytest
from tracked_rows import line, new_folder

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.params import count_parameters
from sweeps.callbacks.tracking import Tracking
from sweeps.spec.settings import TrackingConfig

pytest.importorskip("tensorboard", reason="the extra lmsweep[tensorboard] is not installed")

CONFIG = TrackingConfig(wandb="off", tensorboard=True)
WAIT_S = 120.0  # importing torch takes long on a busy machine


@pytest.fixture
def folder(in_tmp):
    """A run's folder with two trials, without rows yet."""
    return new_folder()


def track(folder, lines, start=0):
    """Log these lines as a driver would, to the end."""
    tracking = Tracking(folder, CONFIG, start)
    with folder.metrics.open("a") as file:
        file.write(lines)
    assert tracking.finish(WAIT_S) is None


def read(folder, trial):
    """The trial's event files, read as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder.tensorboard / trial), size_guidance={"scalars": 0})
    reader.Reload()
    return reader


def curve(reader, name):
    return [(event.step, event.value) for event in reader.Scalars(name)]


def test_every_trial_has_its_curves_without_losses_that_are_not_finite(folder):
    lines = line("xs-0000", 25, val_loss=3.5) + line("xs-0001", 25) + line("xs-0000", 50, val_loss=None)
    track(folder, lines + line("xs-0000", 75, col.COMPLETE, val_loss=3.25, final_val_loss=3.0))
    ended, unfinished = read(folder, "xs-0000"), read(folder, "xs-0001")
    assert curve(ended, "val/loss") == [(25, 3.5), (75, 3.25)]
    assert curve(ended, "val/final_loss") == [(75, 3.0)]
    assert [step for step, _ in curve(ended, "train/loss")] == [25, 50, 75]
    assert curve(unfinished, "val/loss") == [(25, 1.5)]
    assert "val/final_loss" not in unfinished.Tags()["scalars"]
    # As TensorBoard sees the whole sweep: a trial is one run.
    assert sorted(path.name for path in folder.tensorboard.iterdir()) == ["xs-0000", "xs-0001"]
    assert all(path.is_file() for path in folder.tensorboard.glob("*/*"))


def test_a_trial_that_ended_is_a_line_of_the_page_hparams(folder):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    track(
        folder, line("xs-0000", 25, val_loss=3.0) + line("xs-0000", 50, col.PRUNED, val_loss=3.5, final_val_loss=None)
    )
    reader = read(folder, "xs-0000")
    contents = reader.PluginTagToContent("hparams")
    started = HParamsPluginData.FromString(contents["_hparams_/session_start_info"]).session_start_info.hparams
    assert started["optim.lr"].number_value == 0.003
    assert started["model.tie_embeddings"].string_value == "false"
    assert (started["size"].string_value, started["status"].string_value) == ("xs", "pruned")
    assert started["params_exact"].number_value == count_parameters(RunSpec().model).total
    assert curve(reader, "hparam/loss") == [(50, 3.5)]
    assert curve(reader, "hparam/best_val_loss") == [(50, 3.0)]


def test_a_resumed_trial_replaces_what_it_repeats_and_goes_on(folder):
    track(folder, line("xs-0000", 25, val_loss=4.0) + line("xs-0000", 50, val_loss=3.0))
    start = folder.metrics.stat().st_size
    track(folder, line("xs-0000", 50, val_loss=3.5) + line("xs-0000", 75, val_loss=3.25), start)
    assert curve(read(folder, "xs-0000"), "val/loss") == [(25, 4.0), (50, 3.5), (75, 3.25)]
