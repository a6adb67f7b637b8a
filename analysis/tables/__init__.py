"""Tables of trials: functions from DataFrame to DataFrame, and their form as text, CSV, Markdown and LaTeX."""
