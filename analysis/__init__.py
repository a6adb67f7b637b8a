"""Reads what a sweep wrote: pandas in, pandas out. Needs neither torch nor Ray, so it runs wherever the files are.

    import analysis
    trials, rows, manifest = analysis.load("runs/quick")

Tables are functions of `trials` in `analysis.tables.trials`; `python -m analysis.report RUN` prints and writes them.
"""

from analysis.runs.load import Run, load

__all__ = ["Run", "load"]
