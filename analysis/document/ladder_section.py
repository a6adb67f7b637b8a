"""The section of a run whose sizes form a ladder: the law of optima, its check on the largest size, the forecast."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from analysis.document.section import Section
from analysis.figures.registry import FigureData, figures_of
from analysis.runs.load import Run
from analysis.scaling.held_out import HELD_OUT, HeldOut
from analysis.scaling.ladder import ENOUGH
from analysis.scaling.ladder_fits import LadderFits
from analysis.scaling.optimum_law import ALONG, FACTOR_2, exponent_differences
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, as_cells
from analysis.tables.files import ReportTable
from analysis.tables.formatting import FLOP_SUFFIXES, MISSING, count, decimal, table_cells
from lmcore import columns as col

LADDER = "Ladder of sizes"
OPTIMA_TITLE, CHECK_TITLE, FORECAST_TITLE = "Optima by size", "Predicted against found", "Loss of the next size"
OPTIMA_CAPTION = (
    "The optimum of each setting at each size, with its 95 % interval, from one fit to the trials of all "
    "sizes, which share the shape of the response; n counts the trials of the size. Row `{next}`: what the law "
    "predicts for a size that was not trained; its n counts sizes. N counts parameters without embeddings and head."
)
CHECK_CAPTION = (
    "The optimum of the largest size: predicted from the sizes below it (held out), or by the sweep before the size "
    "was trained (recorded), and found in its own trials, each with its 95 % interval. Excess loss: how far the loss "
    "at the predicted setting is above the lowest, as a share of it and in nats per token, for all settings together."
)
FORECAST_CAPTION = (
    "The loss of a size from the sizes below it, in nats per token, with its 95 % interval. The largest size is "
    "forecast in the same way as the next one, for a check. A loss is that of the leading setting of a size. n counts "
    "sizes."
)
SHORT = {"lr": "peak lr"}


def ladder_section(fits: Sequence[LadderFits], run: Run) -> Section:
    """Tables, figures, numbers and sentences; empty without a ladder."""
    if not fits:
        return Section(LADDER)
    fitted = {f"{_prefix(fits, one)}.{path}": number for one in fits for path, number in one.fitted.items()}
    notes = [f"{_of(one)}{note}" for one in fits for note in _notes(one)]
    for other in fits[1:]:
        pair = f"{other.ladder.arm} - {fits[0].ladder.arm}"
        for path, (number, less) in exponent_differences(fits[0].law, other.law).items():
            fitted[f"ladder.{pair}.{path}"] = number
            notes.append(_difference_note(pair, path, number, less))
    tables = [
        ReportTable(
            "optima_law", OPTIMA_TITLE, *_optima(fits), OPTIMA_CAPTION.format(next=fits[0].forecast.target.name)
        ),
        ReportTable("held_out", CHECK_TITLE, *_checks(fits), CHECK_CAPTION),
        ReportTable("forecast", FORECAST_TITLE, *_forecasts(fits), FORECAST_CAPTION),
    ]
    figures = figures_of(LADDER, FigureData(run, ladders=fits))
    return Section(LADDER, [one for one in tables if len(one.frame)], figures, fitted, notes)


def forecast_sentences(fits: Sequence[LadderFits]) -> list[str]:
    """A sentence for the answer per arm whose next loss is estimable.

    >>> forecast_sentences(fit_ladders(run))
    ['Forecast: 0.98M parameters on 3.9M tokens (25.7T FLOPs) would reach a loss of 2.285 (2.229 to 2.416). ...']
    """
    found = []
    for one in fits:
        ahead, loss = one.forecast.target, one.forecast.loss
        if isinstance(loss, Estimate):
            model = (
                f"{count(ahead.N)} parameters on {count(ahead.D)} tokens ({count(ahead.flops, FLOP_SUFFIXES)} FLOPs)"
            )
            text = f"Forecast: {_of(one)}{model} would reach a loss of {_interval(loss, decimal)}, 95 % interval."
            found.append(" ".join(filter(None, (text, _loss_check(one)))))
    return found


def _loss_check(fits: LadderFits) -> str:
    """How the forecast of the largest size compares with what was found."""
    one, predicted = fits.forecast, fits.forecast.held_out
    if one.largest is None or isinstance(predicted, NotEstimable):
        return ""
    where = "inside" if one.inside else "outside"
    found = decimal(one.largest.loss)
    forecast = f"{one.largest.name} was forecast at {_interval(predicted, decimal)} from the smaller sizes"
    return f"{forecast}, and reached {found}: {where} the interval."


def _notes(fits: LadderFits) -> Iterator[str]:
    for name, number in fits.ladder.left_out:
        trials = f"{number or 'no'} trial{'s' * (number != 1)} whose final loss is known or can be expected"
        yield f"{name} does not count, as it has {trials} (at least {ENOUGH})."
    if fits.law.refused is not None:
        yield f"No law of optima: {fits.law.refused.reason}."
    for k, name in enumerate(fits.ladder.names):
        if fits.law.law is not None and fits.ladder.axes[k].span is not None:
            yield from _law_note(name, fits)
    ahead = {name: one for name, one in fits.ahead.items() if isinstance(one, Estimate)}
    if ahead:
        shown = ", ".join(f"{_name(name)} {_interval(one)}" for name, one in ahead.items())
        yield f"At the next size, of {count(fits.forecast.target.N)} parameters, the law predicts {shown}."
    for check in fits.checks:
        yield from _check_notes(check)
    if fits.prior is not None:
        yield f"What the sweep expected before it had trials: {fits.prior}. The report's own law expects no direction."
    if isinstance(fits.forecast.loss, NotEstimable):
        yield f"No forecast of the loss: {fits.forecast.loss.reason}."
    else:
        yield f"The forecast is that of {fits.forecast.law}, through {fits.forecast.loss.n} sizes; {_basis(fits)}."


def _law_note(name: str, fits: LadderFits) -> Iterator[str]:
    numbers = fits.law.fitted
    along, n, d = (numbers.get(f"{name}.{path}") for path in (ALONG, "N_exponent", "D_exponent"))
    line = fits.ladder.line
    if isinstance(along, Estimate) and line is not None:
        if line.slope == 0:
            yield f"The optimal {_name(name)} moves with N^{_interval(along, _exponent)}, at the same D."
        else:
            rises = "with N" if line.slope == 1 else f"with N^{line.slope:.2f}"
            yield (
                f"The optimal {_name(name)} moves with N^{_interval(along, _exponent)} along the ladder, where D rises "
                f"{rises}: only their joint effect is known."
            )
    parts = [
        f"{letter}^{_interval(one, _exponent)}" for letter, one in (("N", n), ("D", d)) if isinstance(one, Estimate)
    ]
    if parts:
        yield f"The optimal {_name(name)} moves with {' and '.join(parts)}."
    cost = numbers.get(f"{name}.{FACTOR_2}")
    if isinstance(cost, Estimate):
        share = _interval(cost, _percent)
        yield f"Half the optimal {_name(name)}, or twice it, raises the loss by {share}."


def _difference_note(pair: str, path: str, number: Estimate, less: bool | None) -> str:
    """A sentence about an exponent that two arms have, `path`: how it differs, and in which the optimum moves less."""
    setting, _, exponent = path.rpartition(".")
    of = "" if exponent == ALONG else f" of {exponent[0]}"
    moves = (
        "it is not clear in which it moves less"
        if less is None
        else f"it moves {'less' if less else 'more'} in the first"
    )
    return (
        f"{pair}: The exponents{of} of the optimal {_name(setting)} differ by {_interval(number, _exponent)}; {moves}."
    )


def _check_notes(check: HeldOut) -> Iterator[str]:
    """What was predicted of the largest size, what was found, and what following the prediction would have cost."""
    start = (
        f"Fitted without {check.size}, the law predicts its"
        if check.source == HELD_OUT
        else f"Before {check.size} was trained, the sweep predicted its"
    )
    unknown: dict[str, list[str]] = {}
    for one in check.predictions:
        if isinstance(one.predicted, Estimate) and isinstance(one.found, Estimate):
            found = f"found is {_interval(one.found)}: {'inside' if one.inside else 'outside'} the interval"
            yield f"{start} {_name(one.setting)} as {_interval(one.predicted)}; {found}."
        else:
            reason = one.found if isinstance(one.predicted, Estimate) else one.predicted
            assert isinstance(reason, NotEstimable)
            unknown.setdefault(reason.reason, []).append(_name(one.setting))
    for why, names in unknown.items():
        whose = "law" if check.source == HELD_OUT else "sweep"
        yield f"The {whose}'s prediction for {check.size} cannot be checked for {', '.join(names)}: {why}."
    if isinstance(check.excess, Estimate) and isinstance(check.excess_nats, Estimate):
        share = _interval(check.excess, _percent)
        nats = _interval(check.excess_nats, decimal)
        yield f"The loss at this predicted setting is above the lowest of {check.size} by {share}, or {nats} nats."


def _basis(fits: LadderFits) -> str:
    """What the losses of the sizes are."""
    confirmed = sum(one.confirmed for one in fits.ladder.sizes)
    if confirmed == len(fits.ladder.sizes):
        return "all losses are confirmed under new seeds"
    rest = "the lowest of their search, which is a little too low"
    return f"{confirmed} losses are confirmed, the others {rest}" if confirmed else f"the losses are {rest}"


def _optima(fits: Sequence[LadderFits]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """In full precision, and as short strings."""
    parts = []
    for one in fits:
        ahead, table = one.forecast.target, one.law.optima
        rows = [(name, ahead.name, ahead.N, ahead.D, *as_cells(number)) for name, number in one.ahead.items()]
        parts.append(_with_arm(pd.concat([table, pd.DataFrame(rows, columns=table.columns)]), one))
    frame = pd.concat(parts, ignore_index=True)
    order = {name: place for place, name in enumerate(dict.fromkeys(frame["setting"]))}
    frame = frame.sort_values("setting", key=lambda column: column.map(order), kind="stable", ignore_index=True)
    shown = frame[frame["refused"].isna()].reset_index(drop=True)
    cells = _cells(shown.drop(columns="refused")).rename(columns={"value": "optimum"})
    return frame, cells


def _checks(fits: Sequence[LadderFits]) -> tuple[pd.DataFrame, pd.DataFrame]:
    parts = [_with_arm(check.table, one) for one in fits for check in one.checks]
    if not parts:
        return pd.DataFrame(), pd.DataFrame()
    frame = pd.concat(parts, ignore_index=True)
    shown = frame[frame["predicted"].notna() | frame["found"].notna()].reset_index(drop=True)
    return frame, _check_cells(shown)


def _check_cells(frame: pd.DataFrame) -> pd.DataFrame:
    cells = _cells(frame[[name for name in (col.ARM, "source", col.SIZE, "setting") if name in frame]])
    for what in ("predicted", "found"):
        cells[what] = [_short(value) for value in frame[what]]
        ends = zip(frame[f"{what}_low"], frame[f"{what}_high"], strict=True)
        cells[f"{what} 95 %"] = [MISSING if pd.isna(low) else f"{_short(low)} to {_short(high)}" for low, high in ends]
    cells["inside"] = [{True: "yes", False: "no"}.get(one, MISSING) for one in frame["inside"]]
    excess = zip(frame["excess"], frame["excess_nats"], strict=True)
    cells["excess loss"] = [MISSING if pd.isna(one) else f"{one:.2%} ({nats:.3f} nats)" for one, nats in excess]
    return cells


def _forecasts(fits: Sequence[LadderFits]) -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = pd.concat([_with_arm(one.forecast.table, one) for one in fits], ignore_index=True)
    shown = frame[frame["refused"].isna()].reset_index(drop=True)
    cells = _cells(shown.drop(columns=["refused", "predicted", "low", "high"]))
    cells = cells.rename(columns={"train flops": "FLOPs"})
    found = [decimal(value) for value in shown["found"]]
    predicted = [f"{one.predicted:.3f} ({one.low:.3f} to {one.high:.3f})" for one in shown.itertuples()]
    inside = [{True: "yes", False: "no"}.get(one, MISSING) for one in shown["inside"]]
    cells.insert(cells.columns.get_loc("n"), "forecast loss", predicted)
    return frame, cells.assign(found=found, inside=inside)


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    counts = {name: [count(value) for value in frame[name]] for name in ("N", "D") if name in frame}
    return table_cells(frame.assign(**counts))


def _short(value: float) -> str:
    return MISSING if pd.isna(value) else f"{value:.3g}"


def _with_arm(frame: pd.DataFrame, fits: LadderFits) -> pd.DataFrame:
    """The table with a first column for the arm, if there are arms."""
    if fits.ladder.arm is not None:
        frame = frame.copy()
        frame.insert(0, col.ARM, fits.ladder.arm)
    return frame


def _prefix(fits: Sequence[LadderFits], one: LadderFits) -> str:
    return "ladder" if one.ladder.arm is None else f"ladder.{one.ladder.arm}"


def _of(fits: LadderFits) -> str:
    return "" if fits.ladder.arm is None else f"{fits.ladder.arm}: "


def _name(setting: str) -> str:
    return SHORT.get(setting, setting.replace("_", " "))


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %"


def _exponent(value: float) -> str:
    return f"{value:.2f}"


def _interval(one: Fitted, words: Any = lambda value: f"{value:.3g}") -> str:
    """`2.29 (2.23 to 2.42)`."""
    assert isinstance(one, Estimate)
    return f"{words(one.value)} ({words(one.low)} to {words(one.high)})"
