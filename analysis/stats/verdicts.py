"""The answer of a sweep: one sentence per size, and the numbers behind it.

    from analysis.stats.verdicts import verdicts
    answer = verdicts(analysis.load("runs/quick").trials)
    answer.sentences                      # "xs: untied is better by 0.310 +- 0.020 nats at equal shape (3 seeds), ..."
    answer.table()                        # every difference with its interval

A sweep with arms is answered by their differences, each against the first; one with experiments likewise; any other by
the leading setting of each size and the settings that cannot be told apart from it. What the runs do not show is in
`Verdicts.fitted` as NotEstimable with its reason.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from analysis.stats.arm_differences import ArmDifference, Model, differences
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, as_cells
from analysis.stats.wording import difference_sentence, experiments_sentence, noise_notes, setting_sentence
from analysis.tables.formatting import difference_cells
from analysis.tables.html import html_cells
from analysis.tables.leaders import ALL_RUNS, SEARCHED, Leader, SizeResult, results
from lmcore import columns as col
from lmcore.measure.seed_noise import SeedNoise
from lmcore.notebook import html_card, html_lines

COLUMNS = (col.SIZE, "arm", "against", "matching", "difference", "low", "high", "n", "noise_from", "verdict", "refused")


@dataclass(frozen=True)
class SizeVerdict:
    """The answer at one size."""

    result: SizeResult
    differences: tuple[ArmDifference, ...]  # each arm or experiment against the first; empty with one group
    sentence: str
    settings: tuple[str, ...]  # a sentence per arm on its leading setting; empty where `sentence` says it


@dataclass(frozen=True, repr=False)
class Verdicts:
    """The answers of all sizes, made by `verdicts`."""

    sizes: tuple[SizeVerdict, ...]

    def __repr__(self) -> str:
        return "\n".join(("<Verdicts", *self.sentences, *self.settings)) + ">"

    def _repr_html_(self) -> str:
        cells = difference_cells(self.table())
        table = html_cells(cells) if len(cells) else ""
        return html_card("Verdicts", html_lines((*self.sentences, *self.settings)), table, html_lines(self.notes))

    @property
    def sentences(self) -> tuple[str, ...]:
        """One per size."""
        return tuple(one.sentence for one in self.sizes)

    @property
    def settings(self) -> tuple[str, ...]:
        """One per arm of each size: its leading setting, and what cannot be told apart from it."""
        return tuple(text for one in self.sizes for text in one.settings)

    @property
    def notes(self) -> tuple[str, ...]:
        """Caveats that a reader needs besides the sentences."""
        found = [one for size in self.sizes for one in size.differences]
        leaders = [one for size in self.sizes for one in size.result.leaders]
        notes = [note for size in self.sizes for note in noise_notes(size.result.size, size.result.noise)]
        if any(one.one_way for one in found):
            notes.append(
                "At equal parameters only one of the arms could be interpolated between its sizes, which overestimates "
                "its loss."
            )
        if any(one.basis == SEARCHED and one.n > 1 for one in leaders):
            notes.append("The leading settings were chosen by the losses that are reported: they are a little too low.")
        if any(not one.over for one in leaders):
            notes.append("The confirmation is not over.")
        return tuple(notes)

    def table(self) -> pd.DataFrame:
        """One row per size, arm (or experiment) and matching, in nats per token. Columns: COLUMNS.

        `difference` is arm minus against, `n` counts seeds (or windows, see noise_from), and `refused` is why there is
        no difference, else missing.
        """
        rows = []
        for one in (one for size in self.sizes for one in size.differences):
            *numbers, reason = as_cells(one.difference)
            rows.append((one.size, one.b, one.a, one.matching, *numbers, one.basis, one.verdict, reason))
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"refused": "str"})

    def fitted(self, prefix: str = "answer") -> dict[str, Fitted]:
        """Every number for report.json: `<prefix>.<size>.<arm>.loss`, `.<matching>`, `<prefix>.<size>.noise.between`.

        `noise.between` is the standard deviation of the loss between seeds, `noise.paired` what is left of it between
        settings that share their seeds; their `n` counts degrees of freedom.
        """
        found: dict[str, Fitted] = {}
        for size in self.sizes:
            start = f"{prefix}.{size.result.size}"
            for leader in size.result.leaders:
                place = f"{start}.{leader.name}" if leader.name else start
                found[f"{place}.loss"] = loss_of(leader)
            for one in size.differences:
                found[f"{start}.{one.b}.{one.matching.replace(' ', '_')}"] = one.difference
            found[f"{start}.noise.between"] = _sd(size.result.noise.between)
            found[f"{start}.noise.paired"] = _sd(size.result.noise.paired)
        return found


def verdicts(trials: pd.DataFrame) -> Verdicts:
    """The answer of a sweep from the trials of `analysis.load`.

    >>> verdicts(analysis.load("runs/quick").trials).sentences
    """
    found = results(trials)
    rows = trials.set_index(col.TRIAL).to_dict("index") if found else {}
    models = [Model(one, rows[one.trials[0]]) for result in found.values() for one in result.leaders]
    groups = trials[[col.SIZE, col.EXPERIMENT, col.ARM]].drop_duplicates()
    names = [_name(*pair) for pair in zip(groups[col.EXPERIMENT], groups[col.ARM], strict=True)]
    order = list(dict.fromkeys(names))
    of_size = {size: {n for n, s in zip(names, groups[col.SIZE], strict=True) if s == size} for size in found}
    return Verdicts(
        tuple(_of_size(one, models, [name for name in order if name in of_size[size]]) for size, one in found.items())
    )


def loss_of(leader: Leader) -> Fitted:
    """The leader's mean loss with its interval; not estimable from one seed."""
    if math.isnan(leader.half):
        return NotEstimable("one seed shows no spread between seeds; confirm it under more")
    return Estimate(leader.mean, leader.mean - leader.half, leader.mean + leader.half, leader.n)


def _of_size(result: SizeResult, models: Sequence[Model], groups: Sequence[str | None]) -> SizeVerdict:
    """`groups`: the arms or experiments of the size, the first of which the others are compared with."""
    leaders = {one.name: one for one in result.leaders}
    names = [name for name in groups if name is not None]
    own = {one.leader.name: one.row for one in models if one.leader.size == result.size}
    if not leaders:
        why = "no confirmation run" if set(groups) <= set(result.lost) else "no trial"
        return SizeVerdict(result, (), f"{result.size}: no result, because {why}{_of(names)} ran to its end.", ())
    if len(names) < 2:
        name = next(iter(leaders))
        return SizeVerdict(result, (), setting_sentence(result.size, leaders[name], own[name]), ())
    first, *others = names
    found: list[ArmDifference] = []
    for name in others:
        a, b = ([one for one in models if one.leader.name == arm] for arm in (first, name))
        if missing := [arm for arm in (first, name) if arm not in leaders]:
            kind = "confirmation run" if set(missing) <= set(result.lost) else "trial"
            reason = NotEstimable(f"no {kind} of {' and '.join(missing)} ran to its end")
            found.append(ArmDifference(result.size, first, name, "any matching", reason, "unknown"))
        else:
            found += differences(a, b, result.size, result.noise)
    if any(one.basis == ALL_RUNS for one in leaders.values()):
        return SizeVerdict(
            result, tuple(found), experiments_sentence(result.size, leaders.get(first), first, found), ()
        )
    settings = (
        setting_sentence(f"{result.size} {name}", leaders[name], own[name]) for name in names if name in leaders
    )
    return SizeVerdict(result, tuple(found), difference_sentence(result.size, found), tuple(settings))


def _name(experiment: object, arm: object) -> str | None:
    return " ".join(str(part) for part in (experiment, arm) if pd.notna(part)) or None


def _sd(noise: SeedNoise) -> Fitted:
    """A standard deviation with its interval, from the chi-squared distribution; n counts degrees of freedom."""
    if not noise.df:
        return NotEstimable("no setting was trained under two seeds that tell it")
    low, high = (noise.sd * math.sqrt(noise.df / stats.chi2.ppf(q, noise.df)) for q in (0.975, 0.025))
    return Estimate(noise.sd, low, high, noise.df)


def _of(names: Sequence[str]) -> str:
    return f" of {' or '.join(names)}" if names else ""
