"""Reads what a sweep wrote: pandas in, pandas out. It needs neither torch nor Ray, so it runs wherever the files are.

    import analysis

    run = analysis.load("runs/quick")                     # Run(trials, rows, manifest): two DataFrames and a dict
    run                                                   # in a notebook: what was searched, and what leads
    run.report()                                          # writes the report, and shows a link to it
    run.curves                                            # train loss and gradient norm, about 200 points a trial
    analysis.load_all(["runs/small", "runs/large"])       # several runs on the same data, as one
    analysis.parameter_table(run.trials)                  # parameter count against loss
    analysis.verdicts(run.trials).sentences               # the answer, by size
    analysis.settings_table(run.trials)                   # means over seeds
    tying = analysis.compare(run.trials, "model.tie_embeddings", False, True)
    tying.table(), tying.sentence                         # tied against untied, over pairs of trials
    scaling = analysis.fit_scaling(analysis.points_of(run.trials))
    scaling.fitted["loss_nd.alpha"]                       # an Estimate with its interval, or why there is none
    analysis.optimum_law(run.trials).optima               # of a ladder of sizes: how optimal settings move
    analysis.held_out(run.trials).table                   # the largest size, predicted from the others
    analysis.forecast(run.trials).loss                    # the loss of the next size

`python analysis/report.py RUN` prints and writes all of it. Further functions are in the packages, from the bottom up:
`runs` (readers), `tables`, `stats`, `scaling` (fits), `figures`, and `document` (the report).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.run import Run, load, load_all
    from analysis.runs.load import RunError
    from analysis.scaling.fit import fit_scaling, points_of
    from analysis.scaling.forecast import forecast
    from analysis.scaling.held_out import held_out
    from analysis.scaling.optimum_law import optimum_law
    from analysis.stats.comparison import compare
    from analysis.stats.verdicts import verdicts
    from analysis.stats.windows import paired_windows
    from analysis.tables.settings import settings_table
    from analysis.tables.trials import parameter_table

__all__ = [
    "Run",
    "RunError",
    "compare",
    "fit_scaling",
    "forecast",
    "held_out",
    "load",
    "load_all",
    "optimum_law",
    "paired_windows",
    "parameter_table",
    "points_of",
    "settings_table",
    "verdicts",
]

_MODULES = {
    **dict.fromkeys(("Run", "load", "load_all"), "analysis.run"),
    "RunError": "analysis.runs.load",
    **dict.fromkeys(("fit_scaling", "points_of"), "analysis.scaling.fit"),
    "compare": "analysis.stats.comparison",
    "forecast": "analysis.scaling.forecast",
    "held_out": "analysis.scaling.held_out",
    "optimum_law": "analysis.scaling.optimum_law",
    "paired_windows": "analysis.stats.windows",
    "parameter_table": "analysis.tables.trials",
    "settings_table": "analysis.tables.settings",
    "verdicts": "analysis.stats.verdicts",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is first used (PEP 562): pandas and SciPy take a second."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
