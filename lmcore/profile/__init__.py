"""`python -m lmcore.profile`: where the time of a training step goes, and what the device would allow."""
