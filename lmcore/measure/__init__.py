"""Benchmarks of this device: training throughput by number of slots, peak FLOP/s and memory bandwidth."""
