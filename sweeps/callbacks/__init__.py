"""Callbacks, which are called with every report row: metrics.jsonl, the trials' folders, the terminal, trackers."""
