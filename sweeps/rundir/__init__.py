"""A run's folder on disk: file names, the lock, checkpoints, and what happens when the disk is full."""
