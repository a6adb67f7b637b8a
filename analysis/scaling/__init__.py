"""Fits: loss laws, compute-optimal sizes, optimal settings and how they move with size and data."""

from analysis.moved import moved_to

__getattr__ = moved_to("analysis.scaling.fit")
