"""How the optimal settings move along a ladder of sizes: the law of `lmcore.measure.optimum_law`, fitted to all trials.

One fit has the optimum of every size with its interval, the exponents of the law through them, and the optimum of sizes
that were not trained. Sizes share the shape of the response, so a size with few trials still has an optimum.
`analysis.scaling.optimum` instead fits each size by itself, near its best trial, and needs more trials. The sweep
expects optima to move as in published laws; here nothing is expected of their direction.

An optimum is not estimable if it is outside the values tried, if its interval reaches far beyond them, or if the loss
may have no minimum, as it hardly depends on the setting.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.scaling.ladder import Ladder, LadderSize, ladder_of
from analysis.scaling.regressors import count_levels
from analysis.stats.bootstrap import Array, tail
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, ShowsFitted, as_cells, too_few
from lmcore import columns as col
from lmcore.measure.axis import Axis
from lmcore.measure.optimum_law import DEVIATIONS, Cell, Optimum, OptimumLaw, Slopes, fit_optimum_law

EXPONENT_SD, PLACE_SD = 0.5, 0.15
"""Prior standard deviations, about zero: of exponents, and of how far other optima move for each factor of e, in shares
of the values tried."""
BEYOND = 0.5
"""How far beyond the values tried an interval may reach, as a share of their range."""
MIN_EXPONENT_VALUES = 3
QUANTILES = (tail(), 0.5, 1 - tail())
ALONG, FACTOR_2 = "ladder_exponent", "factor_2_cost"
FLAT = NotEstimable("the loss has no clear minimum in the setting: within the noise it may have none")
NO_FIELD = NotEstimable("no numeric field was searched in all sizes")


@dataclass(frozen=True, repr=False)
class LadderLaw(ShowsFitted):
    """The result of `optimum_law`.

    >>> law = analysis.optimum_law(analysis.load("runs/ladder").trials)
    >>> law.optima[["size", "setting", "value", "low", "high"]]
    >>> law.predict(1e6, 4e6)["lr"]
    Estimate(value=0.0021, low=0.0014, high=0.0033, n=4)
    """

    ladder: Ladder
    law: OptimumLaw | None = field(repr=False)
    """None if it was refused."""
    refused: NotEstimable | None

    @cached_property
    def fitted(self) -> Mapping[str, Fitted]:  # type: ignore[override]
        """`lr.<size>`: the optimum of a size. For settings on a logarithmic axis also `lr.N_exponent` and
        `lr.D_exponent` of d log(optimum) = a d log N + b d log D; if N and D rise together, only `lr.ladder_exponent`,
        that of N along the ladder. And `lr.factor_2_cost`: by which share the loss rises at half the optimum, or twice
        it."""
        found: dict[str, Fitted] = {}
        count = len(self.ladder.sizes)
        for k, name in enumerate(self.ladder.names):
            found |= {f"{name}.{one.name}": self.optimum(one)[name] for one in self.ladder.sizes}
            if self.ladder.axes[k].span is not None:
                for path, one in {**self.exponent_draws(k), FACTOR_2: self._factor_2(k)}.items():
                    found[f"{name}.{path}"] = one if isinstance(one, NotEstimable) else estimate_of(one, count)
        return found if self.refused is None else dict.fromkeys(found or ["law"], self.refused)

    @cached_property
    def optima(self) -> pd.DataFrame:
        """A row per setting and size. Columns: setting, size, N, D, value, low, high (NaN if not estimable), n (trials
        of the size), refused (why it is not estimable, else missing)."""
        rows = [
            (name, one.name, one.N, one.D, *as_cells(self.optimum(one)[name], len(one.losses)))
            for name in self.ladder.names
            for one in self.ladder.sizes
        ]
        return pd.DataFrame(rows, columns=["setting", col.SIZE, "N", "D", "value", "low", "high", "n", "refused"])

    def optimum(self, size: LadderSize) -> dict[str, Fitted]:
        """The optimum of a size of the ladder, by setting; `n` counts its trials."""
        if self.law is None:
            return dict.fromkeys(self.ladder.names, self.refused or NO_FIELD)
        cell = self.ladder.sizes.index(size)
        return self._judged(self.law.optimum(cell, size.logs, BEYOND), len(size.losses))

    def predict(self, N: float, D: float) -> dict[str, Fitted]:
        """The optimum of a model of N parameters on D tokens that was not trained, by setting; `n` counts sizes."""
        if self.law is None:
            return dict.fromkeys(self.ladder.names, self.refused or NO_FIELD)
        return self._judged(self.law.predict(np.log([N, D]), BEYOND), len(self.ladder.sizes))

    def curve(self, name: str, N: Array, D: Array) -> tuple[Array, Array]:
        """The law [n] of a setting and the ends [2, n] of its 95 % interval at these N and D [n]; a size deviates
        from it. Raises ValueError if there is no law."""
        if self.law is None:
            raise ValueError("there is no law; look at `refused` first")
        k, law = self.ladder.names.index(name), self.law
        axis = self.ladder.axes[k]
        alone = replace(law, deviations=np.zeros_like(law.deviations))
        found = [alone.predict(np.log(pair), BEYOND) for pair in zip(N, D, strict=True)]
        places = np.array([np.quantile(one.draws[:, k], QUANTILES) for one in found]).T
        low, middle, high = np.vectorize(lambda place: value_at(axis, place))(places)
        return middle, np.array([low, high])

    def _judged(self, optimum: Optimum, n: int) -> dict[str, Fitted]:
        assert self.law is not None
        axes, flat = self.ladder.axes, self.law.flat
        return {
            name: judged(name, axes[k], optimum.draws[:, k], float(flat[k]), n)
            for k, name in enumerate(self.ladder.names)
        }

    def exponent_draws(self, k: int) -> dict[str, Array | NotEstimable]:
        """Exponents of the setting on the logarithmic axis k, [R] each: of N and D, or along the ladder."""
        line, sizes = self.ladder.line, self.ladder.sizes
        names = (ALONG,) if line is not None else ("N_exponent", "D_exponent")
        if self.law is None:
            return dict.fromkeys(names, self.refused or NO_FIELD)
        if self.law.flat[k] > tail():
            return dict.fromkeys(names, FLAT)
        span = self.ladder.axes[k].span
        assert span is not None
        slopes = span * self.law.slopes()[:, k]  # [R, M]
        if line is not None:
            return {ALONG: slopes[:, 0] + line.slope * slopes[:, 1]}
        found: dict[str, Array | NotEstimable] = {}
        for m, (name, letter) in enumerate(zip(names, "ND", strict=True)):
            levels = count_levels(np.array([one.logs[m] for one in sizes]))
            few = too_few(levels, f"value of {letter}", MIN_EXPONENT_VALUES, " for an exponent")
            found[name] = slopes[:, m] if levels >= MIN_EXPONENT_VALUES else few
        return found

    def _factor_2(self, k: int) -> Array | NotEstimable:
        """By which share the loss rises at half or twice the optimum of the setting on the logarithmic axis k, [R]."""
        if self.law is None:
            return self.refused or NO_FIELD
        if self.law.flat[k] > tail():
            return FLAT
        span = self.ladder.axes[k].span
        assert span is not None
        return np.asarray(np.expm1(0.5 * self.law.curvature()[:, k, k] * (math.log(2) / span) ** 2))


def optimum_law(
    trials: pd.DataFrame, arm: str | None = None, seed: int = 0, rows: pd.DataFrame | None = None
) -> LadderLaw:
    """The law of optima of an arm, by default the first, from the trials of `analysis.load`.

    >>> analysis.optimum_law(analysis.load("runs/ladder").trials)
    <LadderLaw: lr.0.024M 0.0141 [0.0127, 0.0157]; ...; lr.ladder_exponent -0.41 [-0.58, -0.23]>

    Needs three sizes of three trials each, and a numeric field that was searched in all of them. With the `rows` of the
    run, trials that were stopped early count with the loss that they would probably have had. A table of trials with
    the columns N, D, loss, lr and batch will do as well.
    """
    return fit_ladder(ladder_of(trials, arm, rows), seed)


def fit_ladder(
    ladder: Ladder, seed: int = 0, least: int | None = None, deviations: ArrayLike = DEVIATIONS
) -> LadderLaw:
    """The law of optima of a ladder; of at least `least` sizes, if that is given."""
    refused = ladder.refused if least is None or len(ladder.sizes) < least else None
    if refused is None and not ladder.axes:
        refused = NO_FIELD
    trials, needed = sum(len(one.losses) for one in ladder.sizes), 2 + len(ladder.axes)
    if refused is None and trials < needed:
        refused = too_few(trials, "trial", needed, " for a law")
    if refused is not None:
        return LadderLaw(ladder, None, refused)
    cells = [_cell(ladder, one) for one in ladder.sizes]
    return LadderLaw(ladder, fit_optimum_law(cells, _slopes(ladder), seed, deviations), None)


def exponent_differences(law: LadderLaw, other: LadderLaw) -> dict[str, tuple[Estimate, bool | None]]:
    """How exponents of two arms differ, `other` - `law`, by `lr.ladder_exponent` and so on, where both are estimable.

    With each, whether the optimum moves less in `other`; None if that is not clear.
    """
    found: dict[str, tuple[Estimate, bool | None]] = {}
    for k, name in enumerate(law.ladder.names):
        if name not in other.ladder.names or law.ladder.axes[k].span is None:
            continue
        theirs = other.exponent_draws(other.ladder.names.index(name))
        for path, mine in law.exponent_draws(k).items():
            its = theirs.get(path, NO_FIELD)
            if isinstance(mine, NotEstimable) or isinstance(its, NotEstimable):
                continue
            count = min(len(mine), len(its))
            # The arms are independent, but their draws were made from the same random numbers.
            a, b = mine[:count], np.random.default_rng(0).permutation(its)[:count]
            less = float(np.mean(np.abs(b) < np.abs(a)))
            clear = None if tail() <= less <= 1 - tail() else less > 0.5
            sizes = min(len(law.ladder.sizes), len(other.ladder.sizes))
            found[f"{name}.{path}"] = estimate_of(b - a, sizes), clear
    return found


def value_at(axis: Axis, place: float) -> float:
    """The value at a place, also beyond the ends; a number that cannot be negative is not."""
    if axis.scale == "log":
        return float(axis.low * (axis.high / axis.low) ** place)
    if axis.scale == "decay":
        low, high = (max(1 - end, 1e-12) for end in (axis.low, axis.high))
        return float(1 - low * (high / low) ** place)
    value = axis.low + (axis.high - axis.low) * place
    return float(max(value, 0.0) if axis.low >= 0 else value)


def judged(name: str, axis: Axis, draws: Array, flat: float, n: int) -> Fitted:
    """An optimum with its interval, or why there is none. `draws` [R] are places on the axis."""
    tried = f"the values of {name} that were tried, {axis.low:.3g} to {axis.high:.3g}"
    low, place, high = np.quantile(draws, QUANTILES)
    if not 0 < place < 1:
        return NotEstimable(f"the optimum is not within {tried}")
    if flat > tail():
        return FLAT
    if low <= -BEYOND or high >= 1 + BEYOND:
        return NotEstimable(f"the interval of the optimum reaches far beyond {tried}")
    return Estimate(value_at(axis, float(place)), value_at(axis, float(low)), value_at(axis, float(high)), n)


def estimate_of(draws: Array, n: int) -> Estimate:
    """The median of draws [R], with the interval that holds 95 % of them."""
    low, middle, high = np.quantile(draws, QUANTILES)
    return Estimate(float(middle), float(low), float(high), n)


def _cell(ladder: Ladder, size: LadderSize) -> Cell:
    places = np.array([[axis.place(v) for axis, v in zip(ladder.axes, row, strict=True)] for row in size.values])
    return Cell(size.logs, places, size.choices, size.losses)


def _slopes(ladder: Ladder) -> Slopes:
    spans = [axis.span for axis in ladder.axes]
    sd = [[PLACE_SD if span is None or math.isclose(span, 0) else EXPONENT_SD / span] * 2 for span in spans]
    return Slopes(np.zeros((len(spans), 2)), np.array(sd))
