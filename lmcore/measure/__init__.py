"""Measures this device: tokens/s for a number of slots, peak FLOP/s and memory bandwidth."""
