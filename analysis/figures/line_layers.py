"""Lines of many trials as few layers: those that matter in their own look, the rest of a large run thin and grey."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.figures.chart import ColourBar, Layer, Look
from analysis.figures.colours import GREY, RED
from analysis.figures.encoding import Encoding, colour_on
from analysis.figures.marks import ENDS, WORDS
from analysis.tables.trials import LR_PATH
from lmcore import columns as col

MOST_IN_COLOUR = 60
BEST_IN_COLOUR = 24  # of a larger run, shared by its groups
MOST_POINTS, MOST_POINTS_GREY = 120, 25  # of a line
REST = Look(GREY, width=0.6, opacity=0.3)


@dataclass(frozen=True)
class Lines:
    """How the lines of a run's trials look: by their group, or by learning rate on a colour bar.

    >>> lines = Lines(run.trials, encode(run.trials), bar=None)
    >>> lines.layers(rows, x="step", y="val_loss")
    """

    trials: pd.DataFrame
    encoding: Encoding
    bar: ColourBar | None

    @property
    def is_crowded(self) -> bool:
        """Whether only the best trials have a colour."""
        return len(self.trials) > MOST_IN_COLOUR

    @property
    def best(self) -> set[str]:
        """The trials with the lowest losses of each group; all of a run that is not crowded."""
        if not self.is_crowded:
            return set(self.trials[col.TRIAL])
        ended = self.trials[(self.trials[col.STATUS] == col.COMPLETE) & np.isfinite(self.trials[col.LOSS])]
        ended = ended if len(ended) else self.trials
        labels = ended[col.TRIAL].map(self.encoding.labels)
        each = max(1, BEST_IN_COLOUR // max(len(self.encoding.looks), 1))
        return set(ended.sort_values(col.LOSS).groupby(labels, sort=False).head(each)[col.TRIAL])

    @property
    def sentence(self) -> str:
        """For a caption, if only the best have a colour."""
        return f"In colour: the best {len(self.best)}; grey: all others." if self.is_crowded else ""

    def layers(self, rows: pd.DataFrame, x: str, y: str, marks: bool = True) -> list[Layer]:
        """The lines of `rows`, which has the columns trial, `x` and `y` and is in order; at their ends the statuses."""
        known = self.trials.set_index(col.TRIAL)
        rows = rows[rows[col.TRIAL].isin(known.index) & np.isfinite(rows[y])]
        status = rows[col.TRIAL].map(known[col.STATUS])
        chosen = rows[col.TRIAL].isin(self.best)
        rest, best = thinned(rows[~chosen], MOST_POINTS_GREY), thinned(rows[chosen], MOST_POINTS)
        layers = [Layer("line", _points(rest, x, y), REST, "other trials")] if len(rest) else []
        lost = best[col.TRIAL].map(known[col.STATUS]) == col.DIVERGED
        for label, look, own in self._looks(best[~lost]):
            layers.append(Layer("line", _points(own, x, y), look, label))
        if lost.any():
            layers.append(Layer("line", _points(best[lost], x, y), Look(RED, width=1.0, opacity=0.8), "diverged"))
        if marks and not self.is_crowded:
            last = rows.assign(status=status).drop_duplicates(col.TRIAL, keep="last")
            for ended, own in last.groupby("status", sort=False):
                if ended in ENDS and ended != col.DIVERGED:
                    frame = _points(own, x, y).drop(columns="line")
                    layers.append(Layer("points", frame, ENDS[str(ended)], WORDS.get(str(ended), str(ended))))
        return layers

    def _looks(self, rows: pd.DataFrame) -> Iterator[tuple[str, Look, pd.DataFrame]]:
        if self.bar is None:
            for label, look, own in self.encoding.groups(rows):
                yield label, replace(look, opacity=0.9), own
            return
        rates = self.trials.set_index(col.TRIAL)[LR_PATH]
        colours = {trial: colour_on(self.bar, rate) for trial, rate in rates.dropna().items()}
        for colour, own in rows.groupby(rows[col.TRIAL].map(colours), sort=True):
            yield "", Look(str(colour), opacity=0.9), own


def thinned(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most about this many rows of each trial, evenly spaced, its first and last among them.

    >>> thinned(pd.DataFrame({"trial": ["a"] * 5, "step": [1, 2, 3, 4, 5]}), 3)["step"].tolist()
    [1, 3, 5]
    """
    groups = rows.groupby(col.TRIAL, sort=False)
    place, size = groups.cumcount(), groups[col.TRIAL].transform("size")
    every = np.ceil((size - 1) / (most - 1)).clip(lower=1)
    return rows[(place % every == 0) | (place == size - 1)]


def _points(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    frame = pd.DataFrame({"x": rows[x].astype("float64"), "y": rows[y].astype("float64")})
    trials = rows[col.TRIAL].tolist()
    return frame.assign(line=trials, trial=trials).reset_index(drop=True)
