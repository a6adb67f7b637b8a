"""A run's folder on disk: names of files, the lock, checkpoints, and what happens when the disk is full."""
