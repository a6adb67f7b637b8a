"""The old name of `analysis.stats.comparison`, kept for scripts written for version 0.1."""

import warnings

from analysis.stats.comparison import compare, compare_experiments

__all__ = ["compare", "compare_experiments"]

warnings.warn("analysis.paired is now called analysis.stats.comparison", DeprecationWarning, stacklevel=2)
