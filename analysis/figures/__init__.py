"""Figures, each a function of DataFrames and fits; no figure computes a statistic."""
