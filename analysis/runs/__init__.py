"""Reading: a run's folder, several runs, or a CSV of somebody else's trials, as DataFrames."""
