"""When each slot of each engine trained which trial: the stretches behind the timeline of a dashboard.

They come from the rows alone, so they end at the last report. Work that was done again after a restart counts once.
"""

import time
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.colours import GREEN, GREY, INK, PALETTE, RED, RULE
from analysis.runs.load import Run
from analysis.tables.trials import BEST_FIRST
from lmcore import columns as col

JOIN_S = 1.0
"""A trial that goes on after a shorter pause, in which the driver decided about it, is still in the same stretch."""
NAME, TITLE = "timeline", "Engines and slots"
FIRST_ROW, LAST_ROW, UPDATES, PLACE, USED_S = col.BEGAN_AT, "ended_at", "updates", "place", "used_s"
COLUMNS = (col.ENGINE, col.SLOT, col.TRIAL, col.STATUS, FIRST_ROW, LAST_ROW, USED_S, UPDATES)
COLOURS = {
    col.COMPLETE: PALETTE[0],
    col.PRUNED: GREY,
    col.RUNNING: GREEN,
    col.PAUSED: PALETTE[3],
    col.DIVERGED: RED,
    col.FAILED: PALETTE[5],
}
PATTERNS = {col.PRUNED: "/", col.PAUSED: "-", col.DIVERGED: "x", col.FAILED: "."}
"""Besides its colour, every status that ended early has a hatch of its own."""
ROW_PX, MARGIN_PX, MOST_PX = 30, 96, 900


def stretches(run: Run) -> pd.DataFrame:
    """One row per stretch of a trial in a slot, by engine, slot and time. Columns: COLUMNS, in seconds since the epoch.

    >>> stretches(run)[["engine", "slot", "trial", "began_at", "ended_at"]]

    `status` is the trial's; `used_s` is the time in which it trained and was evaluated; `updates` is the step that the
    stretch ended at. Rows without an engine, a slot or times are left out.
    """
    rows = run.rows[[col.TRIAL, col.STEP, col.ENGINE, col.SLOT, col.BEGAN_AT, col.REPORTED_AT]].dropna()
    rows = rows.sort_values([col.ENGINE, col.SLOT, col.BEGAN_AT, col.STEP], ignore_index=True)
    statuses = run.trials.set_index(col.TRIAL)[col.STATUS]
    rows = rows[rows[col.TRIAL].isin(statuses.index)].reset_index(drop=True)
    before = rows.shift()
    same = (rows[[col.TRIAL, col.ENGINE, col.SLOT]] == before[[col.TRIAL, col.ENGINE, col.SLOT]]).all(axis=1)
    number = (~(same & (rows[col.BEGAN_AT] - before[col.REPORTED_AT] <= JOIN_S))).cumsum()
    rows = rows.assign(**{USED_S: (rows[col.REPORTED_AT] - rows[col.BEGAN_AT]).clip(lower=0)})
    how = {col.BEGAN_AT: "min", col.REPORTED_AT: "max", USED_S: "sum", col.STEP: "max"}
    found = rows.groupby(number).agg(dict.fromkeys((col.ENGINE, col.SLOT, col.TRIAL), "first") | how)
    found = found.rename(columns={col.REPORTED_AT: LAST_ROW, col.STEP: UPDATES})
    found = found.assign(**{col.STATUS: found[col.TRIAL].map(statuses)}).astype({col.ENGINE: int, col.SLOT: int})
    return found[[*COLUMNS]].reset_index(drop=True)


def utilization(found: pd.DataFrame) -> float | None:
    """The share of the time of all slots in which they trained trials, from the first stretch to the last report.

    None without a stretch. A slot that was never used does not count.
    """
    if found.empty:
        return None
    span = found[LAST_ROW].max() - found[FIRST_ROW].min()
    slots = len(found[[col.ENGINE, col.SLOT]].drop_duplicates())
    return float(found[USED_S].sum() / (span * slots)) if span > 0 else None


def timeline(run: Run) -> dict[str, Any] | None:
    """`data` and `layout` for plotly, `title` and `caption`: a bar per stretch; None if no trial was trained.

    Times are those of the clock of the machine that shows the page.
    """
    found = stretches(run)
    if found.empty or col.REPLAY in run.manifest:
        return None
    slots = found[[col.ENGINE, col.SLOT]].drop_duplicates().sort_values([col.ENGINE, col.SLOT], ignore_index=True)
    places = {pair: place for place, pair in enumerate(slots.itertuples(index=False, name=None))}
    found = found.assign(**{PLACE: [places[pair] for pair in zip(found[col.ENGINE], found[col.SLOT], strict=True)]})
    drawn = [status for status in BEST_FIRST if (found[col.STATUS] == status).any()]
    height = min(MOST_PX, ROW_PX * len(slots) + MARGIN_PX)
    line = {"gridcolor": RULE, "linecolor": GREY, "zeroline": False, "automargin": True}
    several = (slots.groupby(col.ENGINE)[col.SLOT].nunique() > 1).any()
    names = [f"engine {e}, slot {s}" if several else f"engine {e}" for e, s in slots.itertuples(index=False)]
    layout = {
        "height": height,
        "margin": {"l": 64, "r": 16, "t": 8, "b": 48},
        "hovermode": "closest",
        "barmode": "overlay",
        "showlegend": len(drawn) > 1,
        "xaxis": {"type": "date", "domain": [0, 1], **line},
        "yaxis": {
            **{"type": "linear", "tickmode": "array", "tickvals": [*range(len(slots))], "ticktext": names},
            **{"range": [len(slots) - 0.5, -0.5], "fixedrange": True, **line, "showgrid": False},
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 13},
    }
    traces = [_bars(found[found[col.STATUS] == status], status) for status in drawn]
    return {"data": traces, "layout": layout, "title": TITLE, "caption": _caption(found, len(slots))}


def _bars(own: pd.DataFrame, status: str) -> dict[str, Any]:
    marker: dict[str, Any] = {"color": COLOURS[status], "line": {"width": 0}}
    if status in PATTERNS:
        marker["pattern"] = {"shape": PATTERNS[status], "fgopacity": 0.6, "size": 6}
    hovers = [
        f"{_clock(began)[11:19]} to {_clock(ended)[11:19]}, to update {updates}"
        for began, ended, updates in zip(own[FIRST_ROW], own[LAST_ROW], own[UPDATES], strict=True)
    ]
    return {
        "type": "bar",
        "orientation": "h",
        "name": status,
        "base": [*map(_clock, own[FIRST_ROW])],
        "x": [*(np.round(1000 * (own[LAST_ROW] - own[FIRST_ROW])).astype(int).tolist())],
        "y": own[PLACE].tolist(),
        "width": 0.72,
        "customdata": own[col.TRIAL].tolist(),
        "text": hovers,
        "marker": marker,
        "xaxis": "x",
        "yaxis": "y",
    }


def _clock(timestamp: float) -> str:
    """The local time, as plotly reads it.

    >>> _clock(1767323045.5)  # in UTC
    '2026-01-02 03:04:05.500'
    """
    whole, part = divmod(round(1000 * timestamp), 1000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(whole))}.{part:03d}"


def _caption(found: pd.DataFrame, slots: int) -> str:
    share = utilization(found)
    trials = found[col.TRIAL].nunique()
    parts = [f"A bar for each stretch in which a slot trained a trial: n = {len(found)}, of {trials} trials."]
    if share is not None:
        used = "The slot" if slots == 1 else f"The {slots} slots"
        parts.append(f"{used} trained {share:.0%} of the time until the last report.")
    parts.append("Gaps: idle, or work that a restart lost. What a running trial did since its last report is missing.")
    return " ".join(parts)
