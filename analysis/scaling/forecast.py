"""The loss of a size that was not trained, from the losses of the sizes below it, and how well that would have worked
for the largest size that was.

The law is the strongest that the sizes support: L(N, D) from eight sizes on where N and D do not rise together; else,
along the line of D over N that the ladder is on, L(N) from six sizes on; else the power law of compute with a floor of
any height (`analysis.scaling.compute_law`), from three. Intervals are those of one size: of the law, and of how far
sizes are off it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from analysis.runs.next_size import NextSize
from analysis.scaling.compute_law import fit_compute_law
from analysis.scaling.ladder import MIN_SIZES, Ladder, LadderSize, Line, ladder_of
from analysis.scaling.loss_law import Curve, fit_loss_law, fit_size_law
from analysis.scaling.regressors import count_levels
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, ShowsFitted, as_cells, too_few
from lmcore import columns as col

LOSS_LAW = "L = E + A / N^alpha + B / D^beta"
SIZE_LAW = "L = E + A / N^alpha"
COMPUTE_LAW = "L = E + A / C^b, averaged over E"
NEXT = "next"
RESAMPLES = 500


@dataclass(frozen=True)
class LossLine:
    """A law of the loss along the line of models that a forecast is on."""

    law: str
    """LOSS_LAW, SIZE_LAW or COMPUTE_LAW."""
    sizes: int
    forecast: Callable[[NextSize], Estimate] = field(repr=False)
    curve: Callable[[Array, Array, Array], tuple[Array, Array]] = field(repr=False)
    """From N, D and FLOPs [n] to the law [n] and the ends [2, n] of its 95 % interval."""


@dataclass(frozen=True, repr=False)
class Forecast(ShowsFitted):
    """The result of `forecast`.

    >>> ahead = analysis.forecast(analysis.load("runs/ladder").trials)
    >>> ahead.target.N, ahead.loss, ahead.law
    (1.02e+06, Estimate(value=2.31, low=2.2, high=2.41, n=4), 'L = E + A / C^b, averaged over E')
    """

    target: NextSize
    """The size that was not trained."""
    loss: Fitted
    """Nats per token; `n` counts the sizes that it comes from."""
    line: LossLine | None
    """The law; None if there is none."""
    held_out: Fitted
    """The loss of the largest size, forecast in the same way from the sizes below it."""
    held_out_law: str | None
    """Which law that is from."""
    largest: LadderSize | None
    """What was found there is its `loss`."""

    @property
    def law(self) -> str | None:
        """Which law it comes from; None if the loss is not estimable."""
        return None if self.line is None else self.line.law

    @property
    def inside(self) -> bool | None:
        """Whether the loss of the largest size is in the interval that was forecast for it; None if there is none."""
        if self.largest is None or isinstance(self.held_out, NotEstimable):
            return None
        return self.held_out.low <= self.largest.loss <= self.held_out.high

    @cached_property
    def fitted(self) -> Mapping[str, Fitted]:  # type: ignore[override]
        """`loss`, `held_out.predicted`, and `held_out.miss`: predicted minus found, in nats per token."""
        miss = self.held_out
        if isinstance(miss, Estimate) and self.largest is not None:
            found = self.largest.loss
            miss = Estimate(miss.value - found, miss.low - found, miss.high - found, miss.n)
        return {"loss": self.loss, "held_out.predicted": self.held_out, "held_out.miss": miss}

    @property
    def table(self) -> pd.DataFrame:
        """Two rows: the size ahead, and the largest size forecast from the others. Columns: size, N, D, train_flops,
        predicted, low, high, n (sizes), found (nats per token; missing if it was not trained), inside, law, refused."""
        one, last = self.target, self.largest
        value, low, high, n, reason = as_cells(self.loss)
        rows: list[tuple[object, ...]] = [
            (one.name, one.N, one.D, one.flops, value, low, high, n, math.nan, None, self.law, reason)
        ]
        if last is not None:
            value, low, high, n, reason = as_cells(self.held_out)
            found = last.loss, self.inside, self.held_out_law
            rows.append((last.name, last.N, last.D, last.flops, value, low, high, n, *found, reason))
        numbers = ["predicted", "low", "high", "n", "found", "inside", "law", "refused"]
        return pd.DataFrame(rows, columns=[col.SIZE, "N", "D", col.TRAIN_FLOPS, *numbers])


def forecast(
    trials: pd.DataFrame,
    N: float | None = None,
    D: float | None = None,
    arm: str | None = None,
    seed: int = 0,
    rows: pd.DataFrame | None = None,
) -> Forecast:
    """The loss of a model of N parameters (without embeddings) on D tokens, from the trials of `analysis.load`.

    >>> analysis.forecast(analysis.load("runs/ladder").trials, N=1e6).loss
    Estimate(value=2.31, low=2.2, high=2.41, n=4)

    Args:
        N: by default that of the next size up: N of the largest times its ratio to the one below.
        D: by default as the ladder goes on: mostly the same tokens per parameter.
        arm: by default the first.
        rows: of the run; with them trials that were stopped early count, as in its report.

    The loss is that of a well-tuned model: it comes from the leading setting of each size, confirmed where it can be.
    It is not estimable from fewer than three sizes, or for a D that is off the ladder, unless L(N, D) can be fitted.
    """
    ladder = ladder_of(trials, arm, rows)
    return forecast_of(ladder, target_of(ladder, N, D), seed)


def target_of(ladder: Ladder, N: float | None = None, D: float | None = None) -> NextSize:
    """The size ahead. FLOPs per token are extrapolated as a power of N. Of an empty ladder, all is NaN."""
    if not ladder.sizes:
        return NextSize(NEXT, math.nan, math.nan, math.nan)
    largest = ladder.sizes[-1]
    line = ladder.line_through(largest.N, largest.D)
    below = [one for one in ladder.sizes if one.N < largest.N and line.has(one.N, one.D)]
    before = below[-1] if below else None
    parameters = N or largest.N * (1.0 if before is None else largest.N / before.N)
    tokens = D or line.tokens(parameters)
    per_token, power = largest.flops / largest.D, 1.0
    if before is not None:
        power = math.log(per_token * before.D / before.flops) / math.log(largest.N / before.N)
    return NextSize(NEXT, parameters, tokens, per_token * (parameters / largest.N) ** power * tokens)


def forecast_of(ladder: Ladder, target: NextSize, seed: int = 0) -> Forecast:
    """`forecast` of a ladder, for a size ahead."""
    if not ladder.sizes:
        reason = too_few(0, "size with a loss", MIN_SIZES)
        return Forecast(target, reason, None, reason, None, None)
    largest = ladder.sizes[-1]
    line = _law(ladder, target, seed)
    as_target = NextSize(largest.name, largest.N, largest.D, largest.flops)
    below = _law(ladder.without_largest(), as_target, seed)
    loss = line if isinstance(line, NotEstimable) else line.forecast(target)
    check = below if isinstance(below, NotEstimable) else below.forecast(as_target)
    law, its_law = (None if isinstance(one, NotEstimable) else one for one in (line, below))
    return Forecast(target, loss, law, check, None if its_law is None else its_law.law, largest)


def _law(ladder: Ladder, target: NextSize, seed: int) -> LossLine | NotEstimable:
    """The strongest law that the sizes of a ladder support for this size."""
    n, d, _, loss = _columns(ladder.sizes)
    if len(ladder.sizes) and (curve := fit_loss_law(n, d, loss, RESAMPLES, seed).curve) is not None:
        return _of_curve(LOSS_LAW, curve, ladder.sizes, lambda n, d: (n, d))
    line = ladder.line_through(target.N, target.D) if len(ladder.sizes) > 1 else Line(1.0, target.N, target.D)
    if not line.has(target.N, target.D):
        on = f"D = {line.tokens(target.N):.3g} for N = {target.N:.3g}"
        return NotEstimable(f"N and D of the sizes rise together, so a loss can only be forecast on their line, {on}")
    on_line = [one for one in ladder.sizes if line.has(one.N, one.D)]
    n, d, flops, loss = _columns(on_line)
    levels = count_levels(np.log(n))
    if levels < MIN_SIZES:
        return too_few(levels, "size on one line of N and D", MIN_SIZES, " for a forecast")
    if (curve := fit_size_law(n, loss, RESAMPLES, seed).curve) is not None:
        return _of_curve(SIZE_LAW, curve, on_line, lambda n, d: (n,))
    law = fit_compute_law(flops, loss, seed)
    if isinstance(law, NotEstimable):
        return law
    return LossLine(
        COMPUTE_LAW, law.n, lambda one: law.forecast(one.flops), lambda n, d, c: (law.predict(c), law.band(c))
    )


def _of_curve(
    name: str, curve: Curve, sizes: Sequence[LadderSize], of: Callable[[Array, Array], tuple[Array, ...]]
) -> LossLine:
    """A loss law. To the interval of the law is added the scatter of the sizes about it."""
    n, d, _, loss = _columns(sizes)
    residuals = np.log(loss / curve.predict(*of(n, d)))
    df = max(1, len(loss) - len(curve.theta))
    scatter = math.sqrt(residuals @ residuals / df) * float(stats.t.ppf(0.975, df))

    def ahead(one: NextSize) -> Estimate:
        at = of(np.array(one.N), np.array(one.D))
        value, (low, high) = float(curve.predict(*at)), map(float, curve.band(*at))
        below, above = (math.hypot(math.log(end / value), scatter) for end in (low, high))
        return Estimate(value, value * math.exp(-below), value * math.exp(above), len(loss))

    return LossLine(name, len(loss), ahead, lambda n, d, c: (curve.predict(*of(n, d)), curve.band(*of(n, d))))


def _columns(sizes: Sequence[LadderSize]) -> tuple[Array, Array, Array, Array]:
    """N, D, FLOPs and loss, [n] each."""
    table = np.array([(one.N, one.D, one.flops, one.loss) for one in sizes], float).reshape(len(sizes), 4)
    n, d, flops, loss = table.T
    return n, d, flops, loss
