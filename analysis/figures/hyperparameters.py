"""Loss against each hyperparameter that was searched, in a panel each, at a common rung."""

import numpy as np
import pandas as pd

from analysis.figures.chart import Axis, Chart, Layer, Panel
from analysis.figures.encoding import Encoding, encode
from analysis.figures.marks import diverged_layers, hovers, loss_limits, sized
from analysis.figures.report_figure import ReportFigure
from analysis.figures.scales import Scale, scale_of
from analysis.runs.load import Run
from analysis.runs.space import space_of
from analysis.tables.formatting import tally
from analysis.tables.rung import at_rung, common_rung
from analysis.tables.searched import choices_and_ranges, searched_dimensions
from analysis.tables.trials import LR_PATH
from lmcore import columns as col

MAX_PANELS = 12
LOSS = "loss (nats per token)"
DODGE = 0.5  # width of the groups at a choice, as a part of the distance between choices
AT = "at"  # place of a trial on the axis of a panel


def hyperparameter_figure(run: Run) -> ReportFigure | None:
    """None if U curves show all that was searched: the learning rate, and what `encode` tells apart in them."""
    trials = run.trials[run.trials[LR_PATH].notna() & (run.trials[col.PHASE] == col.SEARCH)]
    rung = common_rung(trials, run.rows)
    shown = at_rung(trials, rung)
    encoding, paths = encode(run.trials), searched_paths(trials)
    by_label = shown.groupby(shown[col.TRIAL].map(encoding.labels))
    unseen = [path for path in paths if path != LR_PATH and by_label[path].nunique().gt(1).any()]
    if not unseen or trials[col.EXPERIMENT].notna().any():
        return None
    space, limits = space_of(run.manifest), loss_limits(shown[col.LOSS])
    panels = [_panel(shown, encoding, path, scale_of(path, shown[path], space.get(path)), limits) for path in paths]
    caption = (
        f"Validation loss against each hyperparameter that was searched, n = {len(shown)} trials "
        f"({tally(shown[col.STATUS])}). {rung.sentence} Everything else varies as well within a panel."
    )
    title = "Loss against each hyperparameter"
    return ReportFigure(Chart("loss_hyperparameters", title, caption, panels, 2, True, 2.2))


def searched_paths(trials: pd.DataFrame) -> list[str]:
    """The columns of all that was searched, without what all trials of a sweep share."""
    choices, ranges = choices_and_ranges(trials)
    return [path for path in searched_dimensions(trials) if path in {*choices, *ranges}][:MAX_PANELS]


def _panel(shown: pd.DataFrame, encoding: Encoding, path: str, scale: Scale, limits: tuple[float, float]) -> Panel:
    placed = shown.assign(**{AT: scale.values})
    layers = []
    places = {label: place for place, label in enumerate(encoding.looks)}
    for label, look, own in encoding.groups(placed[np.isfinite(placed[col.LOSS])]):
        frame = pd.DataFrame({"x": own[AT], "y": own[col.LOSS], "trial": own[col.TRIAL], "hover": hovers(own)})
        if scale.is_choice:  # groups side by side, as they would hide each other
            frame["x"] += DODGE * ((places[label] + 0.5) / len(places) - 0.5)
        layers.append(Layer("points", frame.reset_index(drop=True), sized(look, len(shown)), label))
    layers += diverged_layers(placed[placed[col.STATUS] == col.DIVERGED], AT, limits[1])
    return Panel(scale.axis, Axis(LOSS, limits=limits), layers)
