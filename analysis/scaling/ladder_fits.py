"""`LadderFits`: everything that is fitted to the ladder of a run, arm by arm, for its report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.runs.load import NEXT, PREDICTED, Run
from analysis.runs.manifest import studies_of
from analysis.runs.next_size import NextSize
from analysis.runs.space import makes_ladder
from analysis.scaling.forecast import Forecast, forecast_of, target_of
from analysis.scaling.held_out import HeldOut, check_recorded, hold_out
from analysis.scaling.ladder import Ladder, arms_of, ladder_of
from analysis.scaling.optimum_law import LadderLaw, fit_ladder
from analysis.stats.estimate import Fitted, NotEstimable
from lmcore import columns as col


@dataclass(frozen=True)
class LadderFits:
    """The laws of one arm.

    >>> fits = fit_ladders(analysis.load("runs/ladder"))[0]
    >>> fits.law, fits.held_out, fits.forecast
    """

    ladder: Ladder
    law: LadderLaw
    held_out: HeldOut | NotEstimable
    recorded: HeldOut | None
    """The check of what the sweep predicted before the largest size was trained; None if it recorded nothing."""
    forecast: Forecast
    prior: str | None = None
    """What the sweep expected of the exponents, with its source; None if it recorded nothing."""

    @property
    def checks(self) -> list[HeldOut]:
        """Those that can be made."""
        return [one for one in (self.held_out, self.recorded) if isinstance(one, HeldOut)]

    @property
    def ahead(self) -> dict[str, Fitted]:
        """The optimum of the size of the forecast, by setting."""
        return self.law.predict(self.forecast.target.N, self.forecast.target.D)

    @property
    def fitted(self) -> dict[str, Fitted]:
        """Every number, by path below the arm."""
        found: dict[str, Fitted] = {f"law.{path}": one for path, one in self.law.fitted.items()}
        found |= {f"next.{name}": one for name, one in self.ahead.items()}
        if isinstance(self.held_out, NotEstimable):
            found["held_out"] = self.held_out
        else:
            found |= {f"held_out.{path}": one for path, one in self.held_out.fitted.items()}
        if self.recorded is not None:
            found |= {f"recorded.{path}": one for path, one in self.recorded.fitted.items()}
        return found | {f"forecast.{path}": one for path, one in self.forecast.fitted.items()}


def fit_ladders(run: Run) -> list[LadderFits]:
    """The laws of each arm; empty if the run has no ladder, which is one that its file asked for, or three sizes with
    enough trials."""
    ladders = [ladder_of(run.trials, arm, run.rows) for arm in arms_of(run.trials)]
    if not makes_ladder(run.manifest) and all(one.refused for one in ladders):
        return []
    ahead: dict[str, NextSize] = run.manifest.get(NEXT, {})
    return [_fits(one, run, ahead.get(one.arm or "")) for one in ladders]


def _fits(ladder: Ladder, run: Run, ahead: NextSize | None) -> LadderFits:
    recorded = _recorded(run.manifest, ladder)
    checked = None if recorded is None else check_recorded(ladder, recorded)
    return LadderFits(
        ladder,
        fit_ladder(ladder),
        hold_out(ladder),
        checked if isinstance(checked, HeldOut) else None,
        forecast_of(ladder, ahead or target_of(ladder)),
        None if recorded is None else recorded.get("prior"),
    )


def _recorded(manifest: Mapping[str, Any], ladder: Ladder) -> Mapping[str, Any] | None:
    """What the sweep predicted of the largest size before its first trial."""
    predicted = manifest.get(PREDICTED)
    if not ladder.sizes or not isinstance(predicted, dict):
        return None
    place = ladder.sizes[-1].name, ladder.arm, col.SEARCH
    ids = [one.id for one in studies_of(dict(manifest)) if (one.size, one.arm, one.phase) == place]
    found = predicted.get(ids[0]) if ids else None
    return found if isinstance(found, dict) else None
