"""Readers: the folder of one run, several runs as one, or a CSV file of trials, as DataFrames."""
