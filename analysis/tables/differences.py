"""The table of differences as it is shown: the largest gain first, without what is not estimable, and each pair once.

`analysis.stats.verdicts.Verdicts.table` has a row for every matching. Where matchings give one difference, because the
two models have equally many parameters, they are one row here: the same pairs are not told twice.
"""

import pandas as pd

from analysis.tables.formatting import INTERVAL, signed, table_cells
from lmcore import columns as col

ARM, AGAINST, MATCHING, DIFFERENCE = "arm", "against", "matching", "difference"
SEEDS, WINDOWS = "seeds", "windows"


def each_once(table: pd.DataFrame) -> pd.DataFrame:
    """The estimable rows; those that differ in the matching alone are one: `same shape, total parameters`."""
    known = table[table["refused"].isna()]
    by = [name for name in known.columns if name not in (MATCHING, "refused")]
    matching = known.groupby(by, dropna=False, sort=False)[MATCHING].transform(
        lambda own: ", ".join([own.iloc[0], *(name.removeprefix("same ") for name in own.iloc[1:])])
    )
    return known.assign(**{MATCHING: matching}).drop_duplicates(by, ignore_index=True)


def shown_differences(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `Verdicts.table` that are shown, by size, then by the difference of each arm.

    The rows of an arm stay together; the first of them, which is its difference as it was configured, has its place.
    """
    known = each_once(table)
    places = {
        name: known[name].map({value: place for place, value in enumerate(dict.fromkeys(table[name]))})
        for name in (col.SIZE, ARM)
    }
    first = known.groupby([col.SIZE, ARM], sort=False)[DIFFERENCE].transform("first")
    order = pd.DataFrame({"size": places[col.SIZE], "first": first, "arm": places[ARM]})
    return known.loc[order.sort_values([*order], kind="stable").index].reset_index(drop=True)


def evidence(n: int, source: str) -> str:
    """What a difference rests on: `3 seeds`, or `one seed, 480 windows`."""
    if source == WINDOWS:
        return f"one seed, {n} windows"
    return f"{n} seed{'' if n == 1 else 's'}"


def difference_cells(table: pd.DataFrame, experiments: bool = False) -> pd.DataFrame:
    """`shown_differences` as short strings: mean, interval, and what it rests on.

    Columns that say nothing are left out: `matching` too, unless an experiment has several rows, and `against` if it is
    the same in all.
    """
    known = shown_differences(table)
    hidden = ["refused", "low", "high", "noise_from"]
    if known[AGAINST].nunique() == 1:
        hidden.append(AGAINST)
    if experiments and not known.duplicated([col.SIZE, ARM]).any():
        hidden.append(MATCHING)
    intervals = [f"{signed(low)} to {signed(high)}" for low, high in zip(known["low"], known["high"], strict=True)]
    texts = [*map(signed, known[DIFFERENCE])]
    known = known.assign(n=[*map(evidence, known["n"], known["noise_from"])], **{DIFFERENCE: texts})
    cells = table_cells(known.drop(columns=hidden))
    cells.insert(cells.columns.get_loc(DIFFERENCE) + 1, INTERVAL, intervals)
    return cells.rename(columns={ARM: col.EXPERIMENT if experiments else ARM})
