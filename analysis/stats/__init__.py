"""Estimates with intervals, bootstrap, importance of hyperparameters, and paired comparisons."""
