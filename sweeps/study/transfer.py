"""What a size learns from smaller ones: the settings that it tries first are those that their optima predict.

`lmcore.measure.optimum_law` fits how optima move with parameters and tokens, from the trials of all smaller sizes of
the same arm and those of the size itself. The first trial of a size has the predicted setting, and every `FULL`-th one
is proposed by the search method, from the whole space. All others are drawn from the distribution of the optimum: it is
as wide as the law is uncertain, it widens if sizes deviate from the law, and the size's own trials move it. So a wrong
prediction is left behind; the space itself is never narrowed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.measure.optimum_law import Array, Cell, Optimum, Slopes, fit_optimum_law
from lmcore.params import count_parameters
from sweeps.spec.arms import SEED_PATHS
from sweeps.study.outlook import final_outlook
from sweeps.study.sampler_view import is_paused
from sweeps.study.transfer_axes import Axes

PREDICTED, DRAWN = "predicted", "drawn"
"""Values of the attribute `transfer` of a trial whose setting is proposed here."""
FULL = 4
"""One trial in this many is proposed by the search method, from the whole space."""
ENOUGH = 3
"""Trials of each size and arm that have ended or are paused, one of them complete, from which the next size begins."""
RATES = ("optim.lr", "optim.muon_lr")
"""Settings that diverge if they are too large."""
EXPONENTS = {
    "optim.lr": (-0.125, -0.125),
    "optim.muon_lr": (-0.125, -0.125),
    "train.batch_size": (0.327, 0.327),
}
"""Prior exponents of N and D: those of Bi et al., DeepSeek LLM (2024), section 3.1, where C = 6 N D."""
SOURCE = "Bi et al., DeepSeek LLM (2024)"
EXPONENT_SD, PLACE_SD = 0.3, 0.15
"""Prior standard deviations: of exponents, and of how far other optima move for each factor of e, in shares of the
space. So a handful of trials outweighs the priors."""
CENTRAL = 0.8
"""Share of the distribution of the optimum from which settings are drawn. The rest is left to the search method."""
ATTEMPTS = 20
"""Draws that are tried before the search method proposes instead."""


@dataclass(frozen=True)
class Proposal:
    """The setting of a trial.

    >>> Proposal({"optim.lr": 3e-3}, PREDICTED).kind
    'predicted'
    """

    values: dict[str, Any]
    kind: str


@dataclass(frozen=True)
class KnownTrials:
    """The trials of one study, and the size that they have.

    Example:
        KnownTrials.of(spec.arm_run(plan), study.get_trials(deepcopy=False))
    """

    size: Array
    """log N and log D: parameters without embedding and output head, and training tokens."""
    trials: Sequence[FrozenTrial]

    @classmethod
    def of(cls, run: RunSpec, trials: Sequence[FrozenTrial]) -> "KnownTrials":
        """Trials of which `run` is one."""
        tokens = run.steps * run.tokens_per_step
        return cls(np.log([count_parameters(run.model).non_embedding, tokens]), trials)

    @property
    def _counted(self) -> list[FrozenTrial]:
        """Without those that the user has excluded, and those that only repeat a result."""
        return [
            trial
            for trial in self.trials
            if trial.user_attrs.get(col.STATUS) != col.EXCLUDED and col.SAME_AS not in trial.user_attrs
        ]

    def cell(self, axes: Axes) -> Cell:
        """What the law is fitted to: complete trials, and stopped ones with their outlook."""
        shown = self._counted
        complete = [trial for trial in shown if trial.state is TrialState.COMPLETE]
        losses = [(trial, _loss(trial, complete)) for trial in shown]
        kept = [(axes.point(trial.params), loss) for trial, loss in losses if loss is not None]
        settings = np.array([point for (point, _), _ in kept]).reshape(len(kept), len(axes.numbers))
        choices = np.array([taken for (_, taken), _ in kept]).reshape(len(kept), len(axes.choices))
        return Cell(self.size, settings, choices, np.array([loss for _, loss in kept]))

    def ceilings(self, axes: Axes) -> Array:
        """How far up each number may go, [P]: a learning rate to half of the lowest above the best that diverged."""
        ends = np.ones(len(axes.numbers))
        for column, axis in enumerate(axes.numbers):
            if axis.name not in RATES or axis.span is None:
                continue
            complete = [t for t in self._counted if t.state is TrialState.COMPLETE and axis.name in t.params]
            best = min(complete, key=lambda trial: trial.values[0], default=None)
            diverged = [axis.place(t.params[axis.name]) for t in complete if not math.isfinite(t.values[0])]
            if best is not None and math.isfinite(best.values[0]):
                diverged = [place for place in diverged if place > axis.place(best.params[axis.name])]
            if diverged:
                ends[column] = max(0.0, min(diverged) - math.log(2) / axis.span)
        return ends


def _loss(trial: FrozenTrial, complete: Sequence[FrozenTrial]) -> float | None:
    if trial.state is TrialState.COMPLETE:
        return trial.values[0] if math.isfinite(trial.values[0]) and trial.values[0] > 0 else None
    if trial.state is TrialState.PRUNED or is_paused(trial):
        return final_outlook(trial, complete)
    return None


class Transfer:
    """Proposes settings for one study from what smaller sizes have shown.

    Args:
        space: what the study searches.
        mup: whether its models have muP (`prior_slopes`).
        slopes: another prior of how optima move.

    Example:
        transfer = Transfer(space)
        proposal = transfer.propose(number=0, smaller=[KnownTrials.of(...)], own=KnownTrials.of(run, []))
    """

    def __init__(self, space: Mapping[str, BaseDistribution], mup: bool = False, slopes: Slopes | None = None) -> None:
        self.axes = Axes({name: one for name, one in space.items() if name not in SEED_PATHS})
        self._slopes = slopes or prior_slopes(self.axes, mup)

    def optimum(self, smaller: Sequence[KnownTrials], own: KnownTrials, seed: int = 0) -> tuple[Optimum, Array] | None:
        """The optimum of `own` by the law through all trials, and what choices add to its log loss, [R, Q].

        None if too little is known.
        """
        cells = [cell for known in smaller if len((cell := known.cell(self.axes)).losses)]
        coefficients = 1 + len(self.axes.numbers)
        if not self.axes.numbers or sum(len(cell.losses) for cell in cells) <= coefficients:
            return None
        mine = own.cell(self.axes)
        law = fit_optimum_law([*cells, mine] if len(mine.losses) else cells, self._slopes, seed)
        if len(mine.losses):
            return law.optimum(len(cells), own.size), law.effects(len(cells))
        return law.predict(own.size), law.effects()

    def propose(
        self,
        number: int,
        smaller: Sequence[KnownTrials],
        own: KnownTrials,
        tried: Callable[[Mapping[str, Any]], bool] = lambda values: False,
        seed: int = 0,
    ) -> Proposal | None:
        """The setting of trial `number`, counted from 0; None if the search method is to propose it.

        `tried` says of a setting whether the study has it already.
        """
        if number % FULL == FULL - 1 or (found := self.optimum(smaller, own, seed)) is None:
            return None
        optimum, effects = found
        first = [] if number else [(optimum.value, effects.mean(axis=0), PREDICTED)]
        rows = np.random.default_rng([seed, number]).permutation(len(optimum.draws))[:ATTEMPTS]
        draws = np.clip(optimum.draws, *optimum.interval(CENTRAL))
        ceilings = own.ceilings(self.axes)
        for place, effect, kind in (*first, *((draws[row], effects[row], DRAWN) for row in rows)):
            values = self.axes.params(np.minimum(place, ceilings), effect)
            if not tried(values):
                return Proposal(values, kind)
        return None

    def described(
        self, smaller: Sequence[KnownTrials], own: KnownTrials, names: Sequence[str]
    ) -> dict[str, Any] | None:
        """What is predicted for a size, for the study's attributes and for the user; None if too little is known.

        `names` are those of the smaller sizes.
        """
        if (found := self.optimum(smaller, own)) is None:
            return None
        optimum, effects = found
        effect = effects.mean(axis=0)
        value = self.axes.params(optimum.value, effect)
        ends = [self.axes.params(end, effect) for end in optimum.interval()]
        numbers = [axis.name for axis in self.axes.numbers]
        return {
            "from": list(names),
            "trials": sum(len(known.cell(self.axes).losses) for known in smaller),
            PREDICTED: value,
            "low": {name: ends[0][name] for name in numbers},
            "high": {name: ends[1][name] for name in numbers},
            "prior": describe_prior(self.axes, self._slopes),
        }


def prior_slopes(axes: Axes, mup: bool = False) -> Slopes:
    """How optima are expected to move with log N and log D.

    With muP, whose learning rates are relative to a base width, that of `EXPONENTS` for N does not hold.
    """
    mean, sd = np.zeros((len(axes.numbers), 2)), np.full((len(axes.numbers), 2), PLACE_SD)
    for row, axis in enumerate(axes.numbers):
        if axis.span is not None and axis.name in EXPONENTS:
            exponents = np.array(EXPONENTS[axis.name])
            if mup and axis.name != "train.batch_size":
                exponents[0] = 0.0
            mean[row], sd[row] = exponents / axis.span, EXPONENT_SD / axis.span
    return Slopes(mean, sd)


def describe_prior(axes: Axes, slopes: Slopes) -> str:
    """The expected exponents of the settings that have some, with their source.

    >>> axes = Axes({"optim.lr": FloatDistribution(1e-4, 1e-2, log=True)})
    >>> describe_prior(axes, prior_slopes(axes))
    'optim.lr ~ N^-0.125 D^-0.125, exponents +- 0.3 (Bi et al., DeepSeek LLM (2024))'
    """
    shown = [
        f"{axis.name} ~ N^{axis.span * slopes.mean[row, 0]:.3g} D^{axis.span * slopes.mean[row, 1]:.3g}"
        for row, axis in enumerate(axes.numbers)
        if axis.span is not None and axis.name in EXPONENTS
    ]
    if not shown:
        return f"no exponent, +- {PLACE_SD} of the space for each factor of e"
    return f"{', '.join(shown)}, exponents +- {EXPONENT_SD:g} ({SOURCE})"


def describe_transfer(study: str, entry: Mapping[str, Any]) -> str:
    """A line about what a size takes over from smaller ones."""
    return f"{study} starts from the optimum predicted by {show_prediction(entry)}"


def show_prediction(entry: Mapping[str, Any]) -> str:
    """From what a setting is predicted, and the setting with its 95 % intervals.

    >>> entry = {"from": ["xs"], "trials": 8, "predicted": {"optim.lr": 0.003}}
    >>> show_prediction({**entry, "low": {"optim.lr": 0.002}, "high": {"optim.lr": 0.0045}})
    '8 trials of xs: optim.lr 0.003 (0.002 to 0.0045)'
    """
    low, high = entry["low"], entry["high"]
    shown = [
        f"{name} {_short(value)}" + (f" ({_short(low[name])} to {_short(high[name])})" if name in low else "")
        for name, value in entry[PREDICTED].items()
    ]
    return f"{entry['trials']} trials of {', '.join(entry['from'])}: {', '.join(shown)}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
