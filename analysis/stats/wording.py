"""The sentences of verdicts: what is better by how much, what is a tie, and which settings cannot be told apart."""

from collections.abc import Mapping, Sequence

from analysis.stats.arm_differences import AS_CONFIGURED, ArmDifference
from analysis.stats.comparison import BETTER, REFUSED, SAME, SEEDS, TIE, WORSE
from analysis.stats.estimate import Estimate, NotEstimable
from analysis.stats.matching import SAME_NON_EMBEDDING, SAME_SHAPE, SAME_TOTAL
from analysis.tables.formatting import decimal, scientific
from analysis.tables.leaders import Leader, Noise
from analysis.tables.trials import LR_PATH

LISTED = 6  # settings; the tables have all
AT = {
    SAME_SHAPE: "at equal shape",
    AS_CONFIGURED: "at their own shapes",
    SAME_TOTAL: "at equal total parameters",
    SAME_NON_EMBEDDING: "at equal non-embedding parameters",
}
MOVED = (BETTER, WORSE)
UNMOVED = {TIE: "cannot be told apart from it", SAME: "repeat it bit for bit"}
NO_SEEDS = "on the same windows; what another seed would change is not included"


def seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


def plus_minus(one: Estimate) -> str:
    """Half of the 95 % interval beside the size of the number: `0.310 +- 0.020`."""
    return f"{decimal(abs(one.value))} +- {decimal((one.high - one.low) / 2)}"


def signed(one: Estimate) -> str:
    """The same with the number's sign: `-0.310 +- 0.020`."""
    return f"{one.value:+.3f} +- {decimal((one.high - one.low) / 2)}"


def setting_sentence(start: str, leader: Leader, row: Mapping[str, object]) -> str:
    """`xs: 5.534 +- 0.062 nats (3 seeds) with peak lr 2.1e-03 (xs-0004); cannot be told apart from xs-0002.`"""
    half = "" if leader.n < 2 else f" +- {decimal(leader.half)}"
    diverged = f"; {seeds(leader.diverged)} of it diverged" if leader.diverged else ""
    text = f"{start}: {decimal(leader.mean)}{half} nats ({seeds(leader.n)}{diverged})"
    text += f" with peak lr {scientific(row.get(LR_PATH))} ({leader.setting})"
    how = {
        "windows": "on the same windows it ",
        "errors": "by the errors of both losses (those of single windows were not kept) it ",
    }.get(leader.same_from, "it ")
    if leader.same:
        text += f"; {how}cannot be told apart from {listed(leader.same)}"
    elif leader.beaten:
        what = "the other " + ("setting" if len(leader.beaten) == 1 else f"{len(leader.beaten)} settings")
        text += f"; {how}is better than {what}"
        text += " that was compared" if len(leader.beaten) == 1 else " that were compared"
    if leader.unconfirmed:
        text += f"; not confirmed, but within the noise: {listed(leader.unconfirmed)}"
    if leader.unstable:
        text += f"; a seed diverged of {listed(leader.unstable)}"
    if leader.n < 2:
        text += "; what another seed would change is not included"
    return f"{text}."


def difference_sentence(size: str, found: Sequence[ArmDifference]) -> str:
    """`xs: untied is better by 0.310 +- 0.020 nats at equal shape (3 seeds), by 0.120 +- 0.050 at ...`."""
    pairs = dict.fromkeys((one.a, one.b) for one in found)
    clauses = [_pair_clause(*pair, [one for one in found if (one.a, one.b) == pair]) for pair in pairs]
    return f"{size}: {'; '.join(clauses)}."


def experiments_sentence(size: str, baseline: Leader | None, name: str, found: Sequence[ArmDifference]) -> str:
    """What is better, what is worse, and what cannot be told apart from the baseline, each by size of the difference.

    `main: baseline 4.101 +- 0.030 nats (4 seeds); post-norm is better by 0.375 +- 0.041; no-norm is worse by 1.191 +-
    0.050, tied by 0.505 +- 0.041; beta2-0.99 and no-positions cannot be told apart from it.`
    """
    if baseline is None:
        return f"{size}: nothing to compare with, because no trial of {name} ran to its end."
    half = "" if baseline.n < 2 else f" +- {decimal(baseline.half)}"
    text = f"{size}: {name} {decimal(baseline.mean)}{half} nats ({seeds(baseline.n)})"
    direct = list({one.b: one for one in reversed(found)}.values())[::-1]  # the first of each: the direct difference
    said = [one for one in direct if isinstance(one.difference, Estimate)]
    said.sort(key=lambda one: -abs(_value(one)))
    # What all clauses have in common is said once: their seeds beside the baseline's loss, their windows at the end.
    windows = bool(said) and all(_evidence(one) == NO_SEEDS for one in said)
    common = NO_SEEDS if windows else seeds(baseline.n)
    clauses = [_moved_clause(verdict, [one for one in said if one.verdict == verdict], common) for verdict in MOVED]
    for verdict, words in UNMOVED.items():
        clauses.append(_named_clause([one for one in said if one.verdict == verdict], words, common))
    without = [one.b for one in direct if isinstance(one.difference, NotEstimable)]
    if said and without:
        clauses.append(f"without a result: {listed(without)}")
    end = f" ({NO_SEEDS})" if windows else ""
    return f"{text}; {'; '.join(filter(None, clauses))}{end}." if said else f"{text}; {_why(direct)}."


def noise_notes(size: str, noise: Noise) -> list[str]:
    """How much another seed changes the loss, if settings were trained under several."""
    if not noise.between.df:
        return []
    text = f"{size}: another seed changes the loss by {decimal(noise.between.sd)} nats"
    paired = f", and the difference between settings that share their seeds by {decimal(noise.paired.sd * 2**0.5)}"
    return [f"{text}{paired if noise.paired.df else ''} (standard deviations)."]


def listed(ids: Sequence[str]) -> str:
    """The first few ids, and how many more there are."""
    more = f" and {len(ids) - LISTED} more" if len(ids) > LISTED else ""
    return ", ".join(ids[:LISTED]) + more


def _evidence(one: ArmDifference) -> str:
    """What an estimable difference rests on: `3 seeds`."""
    assert isinstance(one.difference, Estimate)
    return seeds(one.difference.n) if one.basis == SEEDS else NO_SEEDS


def _value(one: ArmDifference) -> float:
    return one.difference.value if isinstance(one.difference, Estimate) else 0.0


def _moved_clause(verdict: str, found: Sequence[ArmDifference], common: str) -> str:
    """`no-norm is worse by 1.191 +- 0.050, tied by 0.505 +- 0.041 (3 seeds) and 2 more`; nothing of none.

    `common` is the evidence that the sentence names elsewhere.
    """
    parts: list[str] = []
    for one in found[:LISTED]:
        assert isinstance(one.difference, Estimate)
        own = "" if _evidence(one) == common else f" ({_evidence(one)})"
        parts.append(f"{one.b} {'' if parts else f'is {verdict} '}by {plus_minus(one.difference)}{own}")
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return ", ".join(parts) + more


def _named_clause(found: Sequence[ArmDifference], words: str, common: str) -> str:
    """`a, b (3 seeds) and c cannot be told apart from it`; nothing of none."""
    names = [one.b if _evidence(one) == common else f"{one.b} ({_evidence(one)})" for one in found]
    if len(names) > LISTED:
        return f"{listed(names)} {words}"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) + f" {words}" if names else ""


def _pair_clause(a: str, b: str, found: Sequence[ArmDifference]) -> str:
    """The matchings of one arm against the first, in one clause that names the winner."""
    said = [one for one in found if isinstance(one.difference, Estimate)]
    if not said:
        return f"{a} and {b} cannot be compared: {_why(found)}"
    parts: list[str] = []
    winner = None
    for d in dict.fromkeys(one.difference for one in said):
        own = [one for one in said if one.difference == d]
        at = " and ".join(AT[one.matching] for one in own)
        assert isinstance(d, Estimate)
        unit = "" if parts else " nats"
        n = "" if parts and _evidence(own[0]) == _evidence(said[0]) else _evidence(own[0])
        if own[0].verdict == SAME:
            parts.append(f"{a} and {b} are the same bit for bit {at}" + (f" ({n})" if n else ""))
            winner = None
        elif own[0].verdict == TIE:
            parts.append(f"a tie {at} ({b} - {a}: {signed(d)}{unit}{', ' if n else ''}{n})")
            winner = None
        else:
            best = b if d.value < 0 else a
            start = "" if best == winner else f"{best} is better "
            winner = best
            parts.append(f"{start}by {plus_minus(d)}{unit} {at}" + (f" ({n})" if n else ""))
    changes = len({one.verdict for one in said} - {REFUSED}) > 1
    return ", ".join(parts) + (": the verdict changes with the matching" if changes else "")


def _why(found: Sequence[ArmDifference]) -> str:
    reasons = dict.fromkeys(one.difference.reason for one in found if isinstance(one.difference, NotEstimable))
    return next(iter(reasons), "no other ran to its end")
