"""Fits: loss laws, compute-optimal sizes, optimal settings and how they move with size and data."""
