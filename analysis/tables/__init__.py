"""Tables of trials: functions from DataFrame to DataFrame, and their form as text, CSV, Markdown and LaTeX."""

from analysis.moved import moved_to

__getattr__ = moved_to("analysis.tables.trials")
