"""Runs that were recorded before, from which `lmsweep replay` takes losses instead of training."""
